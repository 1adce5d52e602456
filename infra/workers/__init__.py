"""Ray: the cluster, long-lived workers, micro-batches that are retried, halved and bisected.

Knows nothing of what the workers do.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
