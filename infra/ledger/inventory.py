"""What the last scan saw, by path, held in Arrow."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from infra.ledger.ledger import Ledger
from infra.ledger.rows import FileRow, columns_of, file_at, files_of

if TYPE_CHECKING:
    import pyarrow as pa

_LEDGERS_OWN = ("run_id", "seen", "seq", "since_seq", "earlier_image_id")
"""What no scan sees: the ledger fills it in."""


class KnownFiles(Mapping[str, FileRow]):
    """The inventory as a mapping from path to row, held in Arrow: ten million records would not fit."""

    def __init__(self, table: pa.Table) -> None:
        """`table` is ordered by path."""
        self._table = table
        self._paths = table.column("path").combine_chunks()

    def __getitem__(self, path: str) -> FileRow:
        place = bisect_left(self._paths, path, key=lambda cell: cell.as_py())
        if place == len(self._paths) or self._paths[place].as_py() != path:
            raise KeyError(path)
        return file_at(self._table, place)

    def __iter__(self) -> Iterator[str]:
        return (cell.as_py() for cell in self._paths)

    def items(self) -> Iterator[tuple[str, FileRow]]:  # type: ignore[override]  # looking each path up would take minutes
        """Path and row, in order."""
        return ((row.path, row) for row in files_of(self._table))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def any_present(self) -> bool:
        """Whether the last scan found anything."""
        import pyarrow.compute as pc

        return bool(pc.any(self._table.column("present")).as_py())


def known_files(ledger: Ledger) -> KnownFiles:
    """What the last scan saw, by path, gone files too; the rows are as the scan yielded them."""
    columns = [name for name in columns_of(FileRow) if name not in _LEDGERS_OWN]
    return KnownFiles(ledger.files(columns=columns, gone=True))
