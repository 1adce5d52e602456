"""The report of a run: totals from the ledger, a fair sample image by image, and what is worth a look."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
