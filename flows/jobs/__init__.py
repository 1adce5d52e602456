"""What one can ask for, as plain data: a restoration, an evaluation, a comparison, a benchmark, a data set.

A job is checked when it is made; nothing here opens, starts or writes anything.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
