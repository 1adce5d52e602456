"""Recipes: which stages, in which order, under which conditions, with what digests; what they cost in time and memory.

The recipes themselves are the .toml files.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
