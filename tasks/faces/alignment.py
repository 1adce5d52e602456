"""Where a face lies in its picture and how it comes to the template: detection says it, later stages read it.

The ledger keeps it as the `detail` of a face's first event; its keys are known here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.faces import geometry
from tasks.stage import Detail


@dataclass(frozen=True, slots=True)
class Alignment:
    """A face in pixels of its picture, and the way from there to the aligned crop.

    `box` is (left, top, width, height), `points` (5, 2), `matrix` (2, 3) maps picture to crop; `detector` names what
    found the face, `none` where the picture is the face.
    """

    detector: str
    box: tuple[float, ...]
    points: geometry.Points
    matrix: geometry.Matrix

    def to_detail(self) -> Detail:
        """For the ledger: box and points to a hundredth and a thousandth of a pixel, the matrix in full."""
        return {
            "detector": self.detector,
            "box": [round(float(value), 2) for value in self.box],
            "points": [[round(float(x), 3), round(float(y), 3)] for x, y in self.points],
            "matrix": self.matrix.tolist(),
            "scale": geometry.scale_of(self.matrix),
        }

    @classmethod
    def from_detail(cls, detail: Detail) -> Alignment:
        """What `to_detail` made. Raises KeyError where it is something else."""
        box, points, matrix = (np.array(detail[name], np.float64) for name in ("box", "points", "matrix"))
        return cls(str(detail["detector"]), tuple(box.tolist()), points, matrix)
