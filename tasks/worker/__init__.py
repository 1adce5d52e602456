"""What runs in a worker process: the items it gets, the stages it hosts, the intermediates it leaves.

It decides nothing; the driver does.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
