"""Geometry, detectors, crops, judges of identity, tone: what is true of faces whichever network restores them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
