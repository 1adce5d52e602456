"""What every kind of run shares: device, weights and workers, progress, patience, run files, words to the dashboard.

Knows nothing of what is restored or measured.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
