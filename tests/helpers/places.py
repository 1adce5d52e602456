"""Where things are that more than one test asks for."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""
HELPERS = Path(__file__).parent
"""Modules that tests, and the workers they start, import by name."""
SHARED = Path(os.environ.get("MPSR_SHARED", ROOT.parent / "shared"))
"""Fixtures and pictures that may not be part of the repository; tests that need them skip where they are absent."""
PARITY = SHARED / "parity"
WEIGHTS = ROOT / "tasks" / "models" / "weights"


def aligned_astronaut():
    """scikit-image's astronaut, aligned at 512 px by her eyes, 512×512×3 in [0, 1]."""
    import cv2
    import numpy as np
    import skimage

    picture = cv2.imread(str(Path(skimage.__file__).parent / "data" / "astronaut.png"))[..., ::-1]
    eyes, template = np.array([(203.4, 103.6), (247.5, 104.4)]), np.array([(193.0, 239.9), (318.9, 240.2)])
    matrix, _ = cv2.estimateAffinePartial2D(eyes, template)
    aligned = cv2.warpAffine(np.ascontiguousarray(picture), matrix, (512, 512), borderMode=cv2.BORDER_REFLECT_101)
    return aligned.astype(np.float32) / 255
