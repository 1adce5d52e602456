"""The page of an evaluation: its numbers beside the published ones, every face, what the restoring run did."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
