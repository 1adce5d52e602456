"""What a worker gets and what it gives: small records, never pixels.

A result holds the row that the ledger will keep: it is made once, where the work is done, and only stamped on its way.
Records that travel between processes are neither frozen nor slotted, for speed (`infra.ledger.Event`); nobody assigns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from infra.ledger import Event
from tasks.stage import Detail, ImageRef


@dataclass
class PictureItem:
    """A picture to look at as a whole. `paths` are all its names in the archive; the first is read."""

    image_id: str
    paths: tuple[str, ...]
    stage_key: str

    @property
    def key(self) -> str:
        return self.image_id


@dataclass
class FaceItem:
    """A face for one stage: the images that it reads, and what earlier stages found out about it."""

    image_id: str
    face: int
    stage_key: str
    images: Mapping[str, ImageRef] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    detail: Detail = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.image_id}:{self.face}"


@dataclass
class PasteItem:
    """A picture with the faces to be pasted back; without faces it is copied as it is.

    restored_by: ids of the stages that changed any of its faces.
    """

    image_id: str
    paths: tuple[str, ...]
    stage_key: str
    faces: tuple[FaceItem, ...] = ()
    restored_by: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return self.image_id


Item = PictureItem | FaceItem | PasteItem


@dataclass
class Result:
    """What came of one item: its row, and the file that the micro-batch left. Several may answer one item."""

    key: str
    """The item's."""
    event: Event
    checkpoint: str | None = None
    """Workspace path of the intermediate that holds this row; None where there is none."""
    reused: bool = False
    """Read from what an earlier run left instead of computed."""

    def to_json(self) -> str:
        """One JSON object; `from_json` reads it again."""
        return _RESULT.dump_json(self, exclude_defaults=True).decode()

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Raises pydantic.ValidationError for text that no version wrote."""
        return _RESULT.validate_json(text)


_RESULT = TypeAdapter(Result)
