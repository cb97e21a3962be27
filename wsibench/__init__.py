"""Benchmark of image foundation models that predict gene expression from whole-slide images."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
