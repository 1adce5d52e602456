"""From measured faces to what the NTIRE 2025 challenge publishes: means, identity failures, Score.

Pure functions of numbers. A term that was not measured is named and leaves the Score out; it is never zero. Without
a protocol (any folder of one's own) there are means, and no thresholds. The module knows nothing of pictures,
networks or files. Source of protocol and formula: eval.py of zhengchen1999/NTIRE2025_RealWorld_Face_Restoration.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.problems import ForPeople
from tasks.measuring.metrics import METRICS, Worth

FAILED_AT_MOST = 10


class ProtocolError(ForPeople):
    """A data set's [evaluation] section, or its table of landmarks, is not what it should be."""

    exit_code = 2


class MissingTerm(ValueError):
    """The Score lacks terms; `terms` names them."""

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__(f"the Score needs all of {', '.join(score_terms())}; not measured: {', '.join(terms)}")
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
    metrics: tuple[str, ...] = Field(description="metrics of tasks.measuring.metrics that it publishes")
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

    images: int = 0
    expected: int | None = None
    means: dict[str, float] = field(default_factory=dict)
    measured: dict[str, int] = field(default_factory=dict)
    threshold: float | None = None
    identity_failures: int | None = None


@dataclass(frozen=True)
class Overall:
    """The whole in numbers. `means` are the subsets' means weighted by their counts.

    `score` is None unless `score_missing` is empty. `valid`: whether the challenge would rank it; None: nobody knows.
    """

    images: int = 0
    means: dict[str, float] = field(default_factory=dict)
    fid: float | None = None
    score: float | None = None
    score_terms: dict[str, float] = field(default_factory=dict)
    score_missing: tuple[str, ...] = ()
    identity_failures: int | None = None
    valid: bool | None = None


@dataclass(frozen=True)
class Summary(Overall):
    """The whole evaluation in numbers, and each subset."""

    subsets: dict[str, SubsetSummary] = field(default_factory=dict)


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


PUBLISHED: tuple[Published, ...] = (
    # rank, team, total, NIQE, CLIPIQA, MANIQA, MUSIQ, Q-Align, FID, AdaFace, failed
    Published(1, "AllForFace", 4.3638, 3.981, 0.9517, 0.7035, 77.5865, 4.4236, 55.3807, 0.8224, 1),
    Published(2, "IIL", 4.3561, 3.6979, 0.9337, 0.6826, 78.4876, 4.2337, 52.2038, 0.8503, 1),
    Published(3, "PISA-MAP", 4.2728, 4.5488, 0.948, 0.6603, 78.8849, 4.5209, 57.3616, 0.7904, 2),
    Published(4, "MiPortrait", 4.2231, 5.8223, 0.9729, 0.7725, 78.2018, 4.6092, 64.3907, 0.7452, 5),
    Published(5, "AIIA", 4.1575, 4.2946, 0.9046, 0.6559, 77.0162, 4.2834, 60.0422, 0.7497, 2),
    Published(6, "UpHorse", 4.1095, 5.7813, 0.8834, 0.7444, 76.0564, 4.5482, 61.0268, 0.7303, 2),
    Published(7, "CX", 3.9654, 5.3603, 0.778, 0.6336, 75.2278, 4.3585, 53.4188, 0.8388, 3),
    Published(8, "AIIALab", 3.9283, 5.0737, 0.7554, 0.6231, 75.7016, 4.3272, 56.53, 0.6541, 10),
    Published(9, "ACVLab", 3.9201, 6.0577, 0.8077, 0.6951, 76.898, 4.384, 62.2699, 0.7539, 1),
    Published(10, "HH", 3.8475, 6.3267, 0.8, 0.6591, 75.6512, 4.3302, 60.1384, 0.7934, 3),
    Published(None, "Fustar-fsr", 4.0814, 4.2674, 0.7933, 0.6605, 77.6443, 4.3848, 59.9098, 0.4485, 229),
    Published(None, "Night Watch", 3.8952, 6.5009, 0.8593, 0.7786, 77.1615, 4.5075, 76.5814, 0.5348, 130),
    Published(None, "IPCVC", 3.645, 5.4568, 0.6781, 0.5298, 71.0464, 4.1491, 55.7525, 0.638, 17),
)
"""Table 1 of the challenge report (CVPR workshops 2025), in its order."""


def protocol_of(described: Mapping[str, Any], where: str = "the data set") -> Protocol | None:
    """The [evaluation] section of a data set's description, None where it has none. Raises ProtocolError."""
    if "evaluation" not in described:
        return None
    try:
        return Protocol.model_validate(described["evaluation"])
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ProtocolError(f"{where}: [evaluation] {wrong}") from None


def read_landmarks(text: str, table: Landmarks) -> dict[str, Placed]:
    """Picture's name without suffix → subset and points. Raises ProtocolError naming the column or line."""
    reader = csv.DictReader(io.StringIO(text))
    wanted = [table.key, table.subset, *(column for pair in table.points for column in pair)]
    absent = [column for column in wanted if column not in (reader.fieldnames or ())]
    if absent:
        raise ProtocolError(f"{table.file}: expected the columns {', '.join(wanted)}; there is no {absent[0]}")
    found: dict[str, Placed] = {}
    for row in reader:
        if row[table.key] in found:
            raise ProtocolError(f"{table.file}, line {reader.line_num}: {row[table.key]} has two rows")
        found[row[table.key]] = Placed(row[table.subset], _points(row, table, reader.line_num))
    return found


def score_terms() -> dict[str, Worth]:
    """Metric → what its values add to the Score: what the challenge measures and brings to a scale from 0 to 1."""
    return {name: metric.worth for name, metric in METRICS.items() if metric.challenge and metric.worth}


def terms(values: Mapping[str, float | None]) -> dict[str, float]:
    """What each measured term adds to the Score; terms that are absent, None or not a number are left out."""
    known = {name: number for name in score_terms() if (number := _number(values.get(name))) is not None}
    return {name: float(score_terms()[name](np.array(number))) for name, number in known.items()}


def total(values: Mapping[str, float | None]) -> float:
    """CLIPIQA + MANIQA + MUSIQ/100 + QALIGN/5 + max(0, (10 − NIQE)/10) + max(0, (100 − FID)/100).

    Raises MissingTerm.
    """
    found = terms(values)
    if missing := [name for name in score_terms() if name not in found]:
        raise MissingTerm(missing)
    return sum(found.values())


def validity(failed: int, limit: int = FAILED_AT_MOST) -> bool:
    """Whether an entry with so many identity failures is ranked."""
    return failed <= limit


def per_subset(rows: Iterable[Scored], protocol: Protocol | None = None) -> dict[str, SubsetSummary]:
    """Subset → its summary, in the protocol's order; a subset that nothing was measured of has 0 images.

    Subsets that the protocol does not know come last, with nothing expected of them.
    """
    known = protocol.subsets if protocol else {}
    members: dict[str, list[Scored]] = {name: [] for name in known}
    for row in rows:
        members.setdefault(row.subset, []).append(row)
    return {name: _summary_of(found, known.get(name)) for name, found in members.items()}


def weighted(subsets: Mapping[str, SubsetSummary]) -> dict[str, float]:
    """Means over all, each subset weighted by its full count; where no count is known, by what was measured.

    A metric that a subset lacks is the mean of the others; subsets that nothing is expected of do not count where
    something is expected of others.
    """
    counted = _counted(subsets)
    names = dict.fromkeys(name for subset in counted.values() for name in subset.means)
    return {name: _weighted_mean(name, counted.values()) for name in names}


def summarise(rows: Sequence[Scored], protocol: Protocol | None = None, fid: float | None = None) -> Summary:
    """Everything above of a whole evaluation."""
    subsets = per_subset(rows, protocol)
    means = weighted(subsets)
    found = terms({**means, "fid": fid})
    missing = (*(name for name in score_terms() if name not in found), *_holes(subsets, found))
    failures = [s.identity_failures for s in _counted(subsets).values() if s.identity_failures is not None]
    failed = sum(failures) if failures else None
    return Summary(
        subsets=subsets,
        images=len(rows),
        means=means,
        fid=fid,
        score=None if missing else sum(found.values()),
        score_terms=found,
        score_missing=missing,
        identity_failures=failed,
        valid=_verdict(failed, subsets, protocol),
    )


def _points(row: Mapping[str, str], table: Landmarks, line: int) -> NDArray[np.float64]:
    try:
        return np.array([[float(row[x]), float(row[y])] for x, y in table.points])
    except (TypeError, ValueError):
        raise ProtocolError(f"{table.file}, line {line}: expected ten numbers for five points") from None


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _summary_of(rows: Sequence[Scored], subset: Subset | None) -> SubsetSummary:
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.values.items():
            if (number := _number(value)) is not None:
                values.setdefault(name, []).append(number)
    failures = None
    if subset is not None and "identity" in values:
        failures = sum(value < subset.identity_threshold for value in values["identity"])
    return SubsetSummary(
        images=len(rows),
        expected=None if subset is None else subset.images,
        means={name: math.fsum(found) / len(found) for name, found in values.items()},
        measured={name: len(found) for name, found in values.items()},
        threshold=None if subset is None else subset.identity_threshold,
        identity_failures=failures,
    )


def _counted(subsets: Mapping[str, SubsetSummary]) -> dict[str, SubsetSummary]:
    expected = {name: subset for name, subset in subsets.items() if subset.expected is not None}
    return expected or dict(subsets)


def _weighted_mean(name: str, subsets: Iterable[SubsetSummary]) -> float:
    pairs = [
        (subset.means[name], subset.expected or subset.measured[name]) for subset in subsets if name in subset.means
    ]
    return math.fsum(mean * count for mean, count in pairs) / sum(count for _, count in pairs)


def _holes(subsets: Mapping[str, SubsetSummary], found: Mapping[str, float]) -> list[str]:
    """Terms that stand on some of the subsets only: their means are not the challenge's."""
    whole = [name for name in found if name != "fid"]
    return [f"{term} of {name}" for name, s in _counted(subsets).items() for term in whole if term not in s.means]


def _verdict(failed: int | None, subsets: Mapping[str, SubsetSummary], protocol: Protocol | None) -> bool | None:
    """Too many failures are too many however many faces are still to come; few enough need every face."""
    if protocol is None or failed is None:
        return None
    if not validity(failed, protocol.max_failures):
        return False
    judged = all(s.measured.get("identity", 0) >= s.expected for s in subsets.values() if s.expected is not None)
    return True if judged else None
