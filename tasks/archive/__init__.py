"""The files that come in: the scan, the closed list of reasons, the demo archive, the degradation model.

Knows bytes and headers; what a face is, others know.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
