"""The one table of weights files: what each is called, where it comes from, how to know it, who may use it.

Reads `infra/weights/weights.toml` and checks it whole. The module knows nothing of which files are on this machine.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.weights.errors import WeightsError, WeightsUnknown

TABLE = Path(__file__).with_name("weights.toml")
PROJECT = Path(__file__).parents[2]

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Licence(BaseModel):
    """Terms of use; `must_accept` where somebody has to say that they know them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    url: str = ""
    commercial: Literal["yes", "no", "unknown"]
    must_accept: bool = False


class Weight(BaseModel):
    """One row. A file that comes with the package has `package`, every other one `sources`,
    `mirrors` or `by_hand`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    title: str
    file: FileName
    package: str = ""
    sources: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    by_hand: str = ""
    bytes: int | None = Field(default=None, gt=0)
    about_bytes: int | None = Field(default=None, gt=0)
    sha256: Sha256 | None = None
    sha256_prefix: Annotated[str, Field(pattern=r"^([0-9a-f]{8})?$")] = ""
    known_from: Literal["publisher", "third party", "this project", ""] = ""
    licence: str
    recipes: tuple[str, ...] = ()
    convert: bool = False

    @model_validator(mode="after")
    def _has_an_origin(self) -> Weight:
        if not (self.package or self.can_pull or self.by_hand):
            raise ValueError(f"{self.name}: needs `package`, `sources`, `mirrors` or `by_hand`")
        if (self.sha256 is not None) != bool(self.known_from):
            raise ValueError(f"{self.name}: `sha256` and `known_from` come together")
        return self

    @property
    def size(self) -> str:
        """Size in words."""
        if self.bytes:
            return f"{self.bytes:,} bytes"
        return f"about {self.about_bytes / 1e6:,.0f} MB" if self.about_bytes else "size not known"

    @property
    def converted_file(self) -> str:
        """Name of the safetensors file that replaces the original where `convert` is set."""
        return f"{Path(self.file).stem}.safetensors"

    @property
    def can_pull(self) -> bool:
        """Whether a program can fetch it, or only a person."""
        return bool(self.sources or self.mirrors)


class WeightsTable(Mapping[str, Weight]):
    """Name → row, in the order of the file."""

    def __init__(self, rows: Mapping[str, Weight], licences: Mapping[str, Licence]) -> None:
        self._rows = dict(rows)
        self.licences = dict(licences)

    @classmethod
    def load(cls, path: Path = TABLE) -> WeightsTable:
        """Reads and checks a table. Raises WeightsError naming the file, or the row and the field."""
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WeightsError(f"the table of weights {path} cannot be read: {error}") from error
        try:
            licences = {key: Licence.model_validate(value) for key, value in raw.get("licences", {}).items()}
            rows = [Weight.model_validate(value) for value in raw.get("weights", [])]
        except ValidationError as error:
            raise WeightsError(f"{path.name}: {error}") from error
        _check(rows, licences, path)
        return cls({row.name: row for row in rows}, licences)

    def __getitem__(self, name: str) -> Weight:
        if name not in self._rows:
            near = difflib.get_close_matches(name, self._rows, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise WeightsUnknown(f"no weights are called {name!r}{hint} `mpsr models list` names them all")
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def licence(self, name: str) -> Licence:
        """The terms of one row."""
        return self.licences[self[name].licence]


def _check(rows: list[Weight], licences: Mapping[str, Licence], path: Path) -> None:
    names = [row.name for row in rows]
    files = [row.file for row in rows] + [row.converted_file for row in rows if row.convert]
    for kind, values in (("name", names), ("file", files)):
        twice = {value for value in values if values.count(value) > 1}
        if twice:
            raise WeightsError(f"{path.name}: the {kind} {sorted(twice)[0]!r} stands in two rows")
    for row in rows:
        if row.licence not in licences:
            raise WeightsError(f"{path.name}: {row.name}: expected a licence of [licences], got {row.licence!r}")
