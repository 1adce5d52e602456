"""What people read: the pages of a run and of an evaluation, documents of comparisons, and what they share."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
