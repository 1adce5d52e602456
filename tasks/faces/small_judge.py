"""The small judge of identity that comes with the package, for where no recognition network is present.

It compares five parts of the face, input against result, and counts the least alike. It learned from some three
hundred portraits, one of each person, so it knows when features were drawn anew, and it does not recognise anybody
in another picture. Where the input shows too little of a part to tell, it says so instead of guessing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.stage import Pixels

COMPACT = "compact_identity"
TRUSTED = (0.84, 0.97)
THRESHOLDS = (0.60, 0.88)
"""The least cosine of a part at these two trusts, between them in proportion, above them the second; below the first
trust the judge says nothing. Set on 36 people that the network did not learn from (tests/benchmarks/bench_identity.py):
no restoration of the compact recipe falls below, and 1.7 % of perfect ones do."""
IN_WORDS = {
    "eye_left": "the eye on the left",
    "eye_right": "the eye on the right",
    "nose": "the nose",
    "mouth": "the mouth",
    "whole": "the face as a whole",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What the judge sees in recognition crops: vectors (N, 160), and how much of the face each shows (N)."""

    vectors: NDArray[np.float32]
    trust: NDArray[np.float32]


class CompactJudge:
    """Looks at recognition crops (N, 112, 112, 3), RGB in [0, 1], and tells how alike the least alike parts are."""

    def __init__(self, path: Path, device: str) -> None:
        from tasks.models.compact.identity import PARTS
        from tasks.models.compact.table import load_compact

        self.network = load_compact(path).to(device)
        self.device, self.parts = device, PARTS

    def look(self, crops: Pixels) -> Seen:
        """In float32: a threshold stands behind it."""
        import torch

        from tasks.models.tensors import to_tensor

        with torch.inference_mode():
            vectors, trust = self.network(to_tensor(crops, self.device))
        return Seen(vectors.cpu().numpy(), trust.cpu().numpy())

    def least_alike(self, one: Seen, other: Seen) -> tuple[str, float]:
        """The part of two single faces that is least alike, and its cosine."""
        pieces = (one.vectors[0] * other.vectors[0]).reshape(len(self.parts), -1)
        cosines = pieces.sum(axis=1) * len(self.parts)
        least = int(cosines.argmin())
        return self.parts[least], float(cosines[least])


def threshold_at(trust: float) -> float:
    """The cosine that the least alike part must reach where the input shows so much of the face."""
    return float(np.interp(trust, TRUSTED, THRESHOLDS))
