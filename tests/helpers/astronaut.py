"""One face that every installation has: scikit-image's astronaut."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import skimage


def aligned_astronaut():
    """scikit-image's astronaut, aligned at 512 px by her eyes, 512×512×3 in [0, 1]."""
    picture = cv2.imread(str(Path(skimage.__file__).parent / "data" / "astronaut.png"))[..., ::-1]
    eyes, template = np.array([(203.4, 103.6), (247.5, 104.4)]), np.array([(193.0, 239.9), (318.9, 240.2)])
    matrix, _ = cv2.estimateAffinePartial2D(eyes, template)
    aligned = cv2.warpAffine(np.ascontiguousarray(picture), matrix, (512, 512), borderMode=cv2.BORDER_REFLECT_101)
    return aligned.astype(np.float32) / 255
