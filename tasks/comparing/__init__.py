"""Two evaluations held against each other: pairing, intervals, the gate's decision, the benchmark's grid and table.

Pure: reads numbers, writes none.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
