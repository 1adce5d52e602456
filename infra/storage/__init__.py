"""Every byte that is read or written: a folder or a bucket prefix, atomic writes, names that any storage can hold."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
