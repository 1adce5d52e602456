"""From measured faces to what the NTIRE 2025 challenge publishes: means, identity failures, Score, tables.

Pure functions of numbers. A term that was not measured is named and leaves the Score out; it is never zero. Without
a protocol (any folder of one's own) there are means, and no thresholds. The module knows nothing of pictures,
networks or files. Source of protocol and formula: eval.py of zhengchen1999/NTIRE2025_RealWorld_Face_Restoration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

FAILED_AT_MOST = 10
TERMS = ("clipiqa", "maniqa", "musiq", "qalign", "niqe", "fid")


class ProtocolError(ValueError):
    """A data set's [evaluation] section, or its table of landmarks, is not what it should be."""


class MissingTerm(ValueError):
    """The Score lacks terms; `terms` names them."""

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__(f"the Score needs all of {', '.join(TERMS)}; not measured: {', '.join(terms)}")
        self.terms = tuple(terms)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Subset(_Frozen):
    """One folder of the data set."""

    images: int = Field(gt=0, description="how many pictures it holds when complete")
    identity_threshold: float = Field(ge=-1, le=1, description="a cosine below it is an identity failure")


class Landmarks(_Frozen):
    """A CSV file with five points per picture, in the 512-pixel frame of the input."""

    file: str = Field(description="where it lies, relative to the inputs' folder")
    key: str = Field(description="column with the picture's name, without suffix")
    subset: str = Field(description="column with its subset")
    points: tuple[tuple[str, str], ...] = Field(
        min_length=5, max_length=5, description="columns of x and y, five pairs"
    )


class Protocol(_Frozen):
    """How a data set is judged: the section [evaluation] of its data_manifests/*.toml."""

    subsets: dict[str, Subset]
    metrics: tuple[str, ...] = Field(description="metrics of tasks.metrics that it publishes")
    aligned: bool = Field(default=True, description="the pictures are 512-pixel face crops")
    max_failures: int = Field(default=FAILED_AT_MOST, ge=0, description="identity failures above it: not ranked")
    fid_cap: int = Field(default=3000, gt=1, description="FID takes at most so many pictures, by sorted path")
    landmarks: Landmarks | None = Field(default=None, description="where the input's landmarks stand")

    @property
    def images(self) -> int:
        """Pictures of the complete data set."""
        return sum(subset.images for subset in self.subsets.values())


@dataclass(frozen=True)
class Placed:
    """What the table of landmarks says of one picture: its subset and its points (5, 2), float64."""

    subset: str
    points: NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """One measured face: its file's path, its subset ("" when none), and metric → value (None: not measured)."""

    path: str
    subset: str
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class SubsetSummary:
    """Means over one subset. `measured` counts the faces behind each mean; `threshold` and failures need a protocol."""

    images: int
    expected: int | None
    means: dict[str, float]
    measured: dict[str, int]
    threshold: float | None
    identity_failures: int | None


@dataclass(frozen=True)
class Summary:
    """The whole evaluation in numbers. `means` are the subsets' means weighted by their counts.

    `score` is None unless `score_missing` is empty. `valid`: whether the challenge would rank it; None: nobody knows.
    """

    subsets: dict[str, SubsetSummary]
    images: int
    means: dict[str, float]
    fid: float | None
    score: float | None
    score_terms: dict[str, float]
    score_missing: tuple[str, ...]
    identity_failures: int | None
    valid: bool | None

    def subset_facts(self) -> dict[str, Any]:
        """`subsets` of evaluation.json."""
        raise NotImplementedError

    def overall_facts(self) -> dict[str, Any]:
        """`overall` of evaluation.json."""
        raise NotImplementedError


@dataclass(frozen=True)
class Published:
    """One row of the challenge report's Table 1. `rank` None: not ranked (N/A). `total` as printed there."""

    rank: int | None
    team: str
    total: float
    niqe: float
    clipiqa: float
    maniqa: float
    musiq: float
    qalign: float
    fid: float
    identity: float
    failed: int


PUBLISHED: tuple[Published, ...] = ()


def protocol_of(described: Mapping[str, Any], where: str = "data set") -> Protocol | None:
    """The [evaluation] section of a data set's description, None where it has none. Raises ProtocolError."""
    raise NotImplementedError


def read_landmarks(text: str, table: Landmarks) -> dict[str, Placed]:
    """Picture's name without suffix → subset and points. Raises ProtocolError naming the column or line."""
    raise NotImplementedError


def terms(values: Mapping[str, float | None]) -> dict[str, float]:
    """What each measured term adds to the Score; terms that are absent, None or not a number are left out."""
    raise NotImplementedError


def total(values: Mapping[str, float | None]) -> float:
    """CLIPIQA + MANIQA + MUSIQ/100 + QALIGN/5 + max(0, (10 − NIQE)/10) + max(0, (100 − FID)/100).

    Raises MissingTerm.
    """
    raise NotImplementedError


def validity(failed: int, limit: int = FAILED_AT_MOST) -> bool:
    """Whether an entry with so many identity failures is ranked."""
    raise NotImplementedError


def per_subset(rows: Iterable[Scored], protocol: Protocol | None = None) -> dict[str, SubsetSummary]:
    """Subset → its summary, in the protocol's order; a subset that nothing was measured of has 0 images."""
    raise NotImplementedError


def weighted(subsets: Mapping[str, SubsetSummary]) -> dict[str, float]:
    """Means over all, each subset weighted by its full count (by what was measured where that is not known)."""
    raise NotImplementedError


def summarise(rows: Sequence[Scored], protocol: Protocol | None = None, fid: float | None = None) -> Summary:
    """Everything above of a whole evaluation."""
    raise NotImplementedError


def challenge_csv(rows: Sequence[Scored], summary: Summary) -> tuple[str, str]:
    """The two files of the challenge's script: (`…_total.csv`, `….csv`); a number that was not measured is empty."""
    raise NotImplementedError


def markdown_row(name: str, summary: Summary) -> str:
    """A Markdown table: the published rows, and this evaluation's among them, `–` for what was not measured."""
    raise NotImplementedError
