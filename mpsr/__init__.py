"""Faces restored from Python: `Restorer` for pictures in memory, `restore_folder` for archives.

    from mpsr import Restorer
    result = Restorer("compact")("photo.jpg")
    result.image.save("better.jpg")

Nothing heavy is loaded before one of the two is used.
"""

import importlib.util
from pathlib import Path

import lazy_loader

for _room in ("flows", "tasks", "infra"):
    _found = importlib.util.find_spec(_room)
    if _found is None or Path(str(_found.origin)).parent.parent != Path(__file__).parent.parent:
        raise ImportError(
            f"mpsr needs its own package {_room!r}, but Python finds {_found and _found.origin}: another package or a "
            f"folder of that name is in the way; install mpsr-batch into an environment of its own, or run elsewhere"
        )

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
