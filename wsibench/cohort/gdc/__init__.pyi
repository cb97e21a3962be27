from .acquisition import (
    Acquired as Acquired,
    acquire as acquire,
    expected as expected,
    fetch_slide as fetch_slide,
    read_pairing as read_pairing,
    read_slides as read_slides,
    remote_files as remote_files,
)
