"""Plain Parquet files that alone say what happened to every picture, and the lease that gives them one writer.

Knows nothing of faces.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
