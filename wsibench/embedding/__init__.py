"""Tile embeddings: encoders and their weights, one pass over each slide for all encoders, the feature files."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
