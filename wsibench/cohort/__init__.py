"""Cohorts: sample tables, expression and clinical data of one's own, from the GDC, or simulated."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
