"""Decode and encode: every picture that is read or written goes through here. `formats/` has one file per container.

Knows files as bytes; paths are the storage's business.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
