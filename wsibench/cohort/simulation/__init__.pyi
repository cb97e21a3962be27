from .cohort import (
    expected as expected,
    simulate as simulate,
)
