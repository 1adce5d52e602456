"""The ledger image by image: the files that hold it, and the last row of every stage, in the order of image ids.

For whoever tells of single pictures: only one group of buckets is in memory at a time, whatever the archive.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from infra.ledger.ledger import Ledger
from infra.ledger.rows import Event, FileRow, events_of, files_of
from infra.ledger.schema import COMMIT, INVENTORY
from infra.ledger.sql import Reader

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE = 200_000
"""Images of a sample; ids are hashes, so that the first of them are a fair one."""


@dataclass(frozen=True, slots=True)
class History:
    """One image: its present files by path, its last row of every face and stage, and whether it is in the sample."""

    image_id: str
    files: tuple[FileRow, ...]
    events: tuple[Event, ...]
    sampled: bool = True

    @property
    def verdict(self) -> Event | None:
        """The commit row, if there is one."""
        return next((event for event in self.events if event.stage == COMMIT), None)


@dataclass(frozen=True)
class Histories:
    """A fair sample of the images that have a present file, and beyond it those that are asked for.

    `beyond` is a condition in SQL over the inventory's columns and the verdict's `outcome`, in which `?` stands for
    `values`. Can be gone through again; each time the ledger is asked anew.
    """

    ledger: Ledger
    beyond: str
    values: Sequence[object] = ()
    sample: int = SAMPLE

    def __iter__(self) -> Iterator[History]:
        seen = 0
        with self.ledger.reader() as reader:
            for group in reader.groups((INVENTORY, *reader.holdings.stages)):
                sampled = seen < self.sample
                for history in self._of_group(reader, group, sampled):
                    seen += 1
                    yield history

    def _of_group(self, reader: Reader, group: list[int], sampled: bool) -> Iterator[History]:
        sql = _FILES.format(
            inventory=reader.inventory(group), commits=reader.commits(group), which="true" if sampled else self.beyond
        )
        files = reader.table(sql, () if sampled else self.values)
        if files.num_rows:
            reader.connection.register("wanted", files)
            yield from _joined(files, reader.table(_EVENTS.format(latest=reader.latest(None, group))), sampled)


def _joined(files: pa.Table, events: pa.Table, sampled: bool) -> Iterator[History]:
    """Both are ordered by image id, and every event is of an image that has a file."""
    of_image = attrgetter("image_id")
    waiting = groupby(events_of(events), of_image)
    next_id, rows = next(waiting, _NOBODY)
    for image_id, found in groupby(files_of(files), of_image):
        if image_id == next_id:
            yield History(image_id, tuple(found), tuple(rows), sampled)
            next_id, rows = next(waiting, _NOBODY)
        else:
            yield History(image_id, tuple(found), (), sampled)


_NOBODY: tuple[str, Iterator[Event]] = ("", iter(()))

_FILES = """
    SELECT i.* FROM ({inventory}) i LEFT JOIN (SELECT image_id, outcome FROM ({commits})) v USING (image_id)
    WHERE present AND ({which}) ORDER BY i.image_id, path"""

_EVENTS = """
    SELECT * FROM ({latest}) SEMI JOIN (SELECT DISTINCT image_id FROM wanted) USING (image_id)
    ORDER BY image_id, face, stage"""
