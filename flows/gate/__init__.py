"""The nightly gate at work: the night, its candidate, the journal that is written first, and the moves.

The decision itself is `tasks.comparing`'s.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
