"""Metrics, the instruments that take them, pairs of pictures, the challenge's protocol."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
