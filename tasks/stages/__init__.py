"""Every step that a recipe can name: detect, score, restore (`restorers/`), identity, paste back; `table.py` names all.

Stages import torch only in `load` and `run`, so that recipes validate without it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
