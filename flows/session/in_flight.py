"""A bounded number of pieces of a flow at a time, each in a thread that belongs to the flow run."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Piece = TypeVar("Piece")


EVERY_SECONDS = 10.0


def each_in_flight(
    pieces: Iterator[Piece],
    do: Callable[[Piece], None],
    most: int,
    *,
    abandon: Callable[[], None],
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Does every piece, at most `most` at a time, and takes the next from the iterator when there is room for it.

    Calls `meanwhile` whenever one is finished, and every ten seconds. After the first error, which is raised here, and
    after an interruption it calls `abandon`, which is to end those in flight.
    """
    in_flight: set[Future[None]] = set()
    with ThreadPoolExecutor(most, thread_name_prefix="piece") as pool:
        try:
            while True:
                # Each thread needs the flow's context, so that its tasks belong to this flow run.
                in_flight |= {
                    pool.submit(contextvars.copy_context().run, do, piece)
                    for piece in islice(pieces, most - len(in_flight))
                }
                if not in_flight:
                    return
                finished, in_flight = wait(in_flight, timeout=EVERY_SECONDS, return_when=FIRST_COMPLETED)
                for piece in finished:
                    piece.result()
                meanwhile()
        except BaseException:
            abandon()
            raise
