"""The numbers of rows: of two rows about one thing the one with the higher number holds. No clock has a part in it.

A process counts, for each ledger by itself. Before it adds its first row the count leaps above all that the ledger
holds, and above all that earlier holders of the workspace may still write, should one of them wake up late.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from infra.ledger.files import Segment, look
from infra.ledger.lease import highest_token
from infra.storage import Storage

LEAP = 1 << 24
"""More rows than a holder that was overtaken still writes; 63 bits suffice for a million holders."""
_lock = threading.Lock()
_last: dict[str, int] = {}
"""Of the ledger at a URL."""


class Numbers:
    """Numbers for the rows of one ledger, from this process's count. Elsewhere, unpickled, it leaps anew."""

    def __init__(self) -> None:
        self._has_leapt = False

    def __reduce__(self) -> tuple[type[Numbers], tuple[()]]:
        return Numbers, ()

    def take(self, count: int, storage: Storage) -> range:
        """So many numbers, higher than all that the ledger in the storage held before."""
        start = 0 if self._has_leapt else _highest(storage) + LEAP * (1 + highest_token(storage))
        with _lock:
            first = max(_last.get(storage.url, 0), start) + 1
            _last[storage.url], self._has_leapt = first + count - 1, True
        return range(first, first + count)


def _highest(storage: Storage) -> int:
    """A segment's name has the number of its first row. A merged one's says nothing of what it was made of."""
    holdings = look(storage)
    segments = [*holdings.folded, *holdings.fresh, *holdings.orphans]
    written = max((s for s in segments if not s.is_merged), key=lambda s: s.number, default=None)
    looked_into = [s for s in segments if s.is_merged or s is written]
    return max((number for segment in looked_into for number in _numbers(storage, segment)), default=0)


def _numbers(storage: Storage, segment: Segment) -> Iterable[int]:
    """Of its own name, and the last of every row group, as the file's footer has them."""
    import pyarrow.parquet as pq

    yield segment.number
    with storage.open_read(segment.path) as file:
        footer = pq.ParquetFile(file).metadata
    column = footer.schema.names.index("seq")
    yield from (footer.row_group(group).column(column).statistics.max for group in range(footer.num_row_groups))
