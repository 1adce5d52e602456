"""One restoration in work: plan, shards, course and forecast, delivery, totals, page.

`flows/restore_dataset.py` tells the story; the pieces are here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
