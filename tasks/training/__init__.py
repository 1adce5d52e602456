"""The small networks of the package: what they learn from, the loop, what they gain over their absence."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
