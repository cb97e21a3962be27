"""Stage 07: figures for a paper, and the report of a study."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
