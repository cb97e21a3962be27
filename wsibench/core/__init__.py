"""The study and its settings, artefact keys and atomic writes, tables, parallel execution and errors."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
