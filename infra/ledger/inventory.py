"""What the last scan saw, by path, held in Arrow."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from infra.ledger.ledger import Ledger

if TYPE_CHECKING:
    import pyarrow as pa


class KnownFiles(Mapping[str, dict[str, Any]]):
    """The inventory as a mapping from path to row, held in Arrow: ten million rows as dicts would not fit."""

    def __init__(self, table: pa.Table) -> None:
        """`table` is ordered by path."""
        self._table = table
        self._paths = table.column("path").combine_chunks()

    def __getitem__(self, path: str) -> dict[str, Any]:
        place = bisect_left(self._paths, path, key=lambda cell: cell.as_py())
        if place == len(self._paths) or self._paths[place].as_py() != path:
            raise KeyError(path)
        row: dict[str, Any] = self._table.slice(place, 1).to_pylist()[0]
        return row

    def __iter__(self) -> Iterator[str]:
        return (cell.as_py() for cell in self._paths)

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:  # type: ignore[override]  # looking each path up would take minutes
        """Path and row, in order."""
        for batch in self._table.to_batches(max_chunksize=10_000):
            yield from ((row["path"], row) for row in batch.to_pylist())

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def any_present(self) -> bool:
        """Whether the last scan found anything."""
        import pyarrow.compute as pc

        return bool(pc.any(self._table.column("present")).as_py())


def known_files(ledger: Ledger) -> KnownFiles:
    """What the last scan saw, by path."""
    return KnownFiles(ledger.files(gone=True))
