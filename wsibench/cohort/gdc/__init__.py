"""TCGA cohorts from the Genomic Data Commons (GDC): searched, paired, downloaded, verified and read."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
