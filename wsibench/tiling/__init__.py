"""Tissue on whole-slide images: open a slide at its true resolution, find tissue, choose and read tiles."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
