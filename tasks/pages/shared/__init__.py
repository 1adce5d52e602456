"""What all pages share: the shell and its engine, words for numbers, measures of faces, and the steps behind them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
