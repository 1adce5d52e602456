"""One evaluation in work: pairs, portions, totals, page, effort.

`flows/evaluate_dataset.py` tells the story; the pieces are here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
