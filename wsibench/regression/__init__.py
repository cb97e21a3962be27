"""Regression (notebook 05): folds, probes, out-of-fold predictions and their split-half noise."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
