"""Weights files: the table of all, the store on this machine, downloads, checkpoints read restricted and whole.

Knows nothing of stages or networks.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
