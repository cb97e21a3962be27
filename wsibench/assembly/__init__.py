"""Stage 04: features, expression and other targets of patients in one AnnData."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
