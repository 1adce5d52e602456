"""Carries a promotion out, or takes it back: files first, then the ledger, a chunk of pictures at a time.

Every step may be repeated and every file is replaced atomically, so that a process that dies at any moment leaves
each path with its older or its new result, and running again comes to the same end.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

from flows.gate.journal import SUPERSEDED, Journal, Move, read_moves, write
from flows.gate.verdicts import kept_verdict, made_in, original_verdict, said_of, unmarked
from flows.jobs import JobError
from flows.restoration import deliver, restored
from flows.session import Session, digests_of_run
from infra.ledger import (
    COMMIT,
    DELIVERED_STATES,
    TRANSITIONS,
    Event,
    Ledger,
    bucket_of,
    events_of,
    listing,
)
from infra.storage import Storage, StorageMissingError, decode_name
from tasks.archive import VerdictDetail
from tasks.stage import WHOLE_IMAGE

CHUNK = 1000
"""Pictures between two appends to the ledger."""
FILES_AT_ONCE = 8
Latest = Mapping[tuple[str, int, str], Event]
"""(image_id, face, stage) → its last event."""


def carry_out(session: Session, journal: Journal, source: Storage) -> None:
    """Puts every picture's files in place and its rows into the ledger, and says so in the journal.

    What is done already is passed over; what something else has dealt with since the decision is left alone.
    """
    candidate = Storage(f"{session.storage.url.rstrip('/')}/{journal.candidate}", session.storage.options)
    if not candidate.exists("_format.json"):
        return write(session.storage, journal, "abandoned")
    promotion = _Promotion(session, journal, Ledger.open(candidate, create=False), source)
    journal.moved_on = 0
    for part in read_moves(session.storage, journal.id, CHUNK):
        promotion.apply(part)
    session.ledger.fold()
    return write(session.storage, journal, "applied")


def take_back(session: Session, journal: Journal, *, again: bool) -> int:
    """Puts the older results back in place of those promoted; returns how many pictures got theirs.

    With `again` the next night decides anew; otherwise the same recipe is not promoted again. Raises JobError before
    anything is touched where older results are gone.
    """
    rollback = _Rollback(session, journal, again)
    _refuse_without_older_results(session, journal)
    journal.again, journal.moved_on = again, 0
    write(session.storage, journal, "rolling_back")
    taken = sum(rollback.take_back(part) for part in read_moves(session.storage, journal.id, CHUNK))
    session.ledger.fold()
    write(session.storage, journal, "rolled_back")
    if not journal.moved_on:  # else they may be the only older results left; `mpsr clean` drops them in time
        session.storage.delete_tree(f"{SUPERSEDED}/{journal.id}")
    return taken


def deliver_kept(session: Session, pictures: Mapping[str, Sequence[str]], digest: str) -> list[str]:
    """Gives further paths of pictures whose older result was kept under this digest that result.

    pictures: image_id → paths, of one bucket. Returns the image ids of those that got it. The others are none of its
    business, and one of whose older result no copy is left is to be restored anew.
    """
    known = latest(session.ledger, pictures, COMMIT)
    verdicts = [old for image_id in pictures if (old := known.get((image_id, WHOLE_IMAGE, COMMIT)))]
    kept = [old for old in verdicts if old.stage_digest == digest and said_of(old).kept]
    delivered = [old for old in kept if deliver(session.storage, pictures[old.image_id], old)]
    _Moves(session).append([kept_verdict(old, digest, unmarked(old)) for old in delivered], known)
    return [old.image_id for old in delivered]


class _Moves:
    """Files and events of a workspace."""

    def __init__(self, session: Session) -> None:
        self.session, self.storage, self.ledger = session, session.storage, session.ledger

    def append(self, events: Iterable[Event], known: Latest) -> None:
        """Appends events of one bucket to the ledger, the verdicts last, with a step between where its rules ask."""
        by_stage: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_stage[event.stage] += _legal(known.get(_key(event)), event)
        for stage in sorted(by_stage, key=lambda name: name == COMMIT):
            bucket = bucket_of(by_stage[stage][0].image_id, self.ledger.buckets)
            self.session.record(bucket, stage, by_stage[stage])

    def _put(self, data: bytes, paths: Iterable[str]) -> None:
        for path in paths:
            self.storage.write_atomic(restored(path), data)


class _OfJournal(_Moves):
    """What both directions of a promotion share."""

    def __init__(self, session: Session, journal: Journal) -> None:
        super().__init__(session)
        self.journal, self._older = journal, f"{SUPERSEDED}/{journal.id}"

    def _moved(self, move_files: Callable[[Move, list[str]], None], moves: Sequence[Move]) -> list[Move]:
        """Moves the files of several pictures at a time; returns those whose files were where they were expected.

        `move_files` gets the paths that hold the picture now: since the decision another may have taken one of its
        names.
        """
        now = _paths_now(self.ledger, moves)
        todo = [(move, now.get(move.image_id, [])) for move in moves]
        with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="promotion") as pool:
            done = list(pool.map(lambda each: bool(each[1]) and _unless_gone(move_files, *each), todo))
        moved = [move for move, is_done in zip(moves, done, strict=True) if is_done]
        self.journal.moved_on += len(moves) - len(moved)
        return moved


class _Promotion(_OfJournal):
    def __init__(self, session: Session, journal: Journal, candidate: Ledger, source: Storage) -> None:
        super().__init__(replace(session, id=journal.id), journal)
        self._candidate, self._source = candidate, source

    def apply(self, moves: Sequence[Move]) -> None:
        pictures = [move.image_id for move in moves]
        ours, theirs = latest(self.ledger, pictures), latest(self._candidate, pictures)
        standing = [move for move in moves if self._stands(move, ours)]
        todo = self._moved(lambda move, paths: self._put_files(move, paths, theirs), standing)
        anew = {move.image_id for move in todo if move.action != "keep"}
        stages = [event for event in theirs.values() if event.image_id in anew and event.stage != COMMIT]
        news = [event for event in stages if _is_news(event, ours)]
        self.append([*news, *(self._verdict(move, theirs) for move in todo)], ours)

    def _stands(self, move: Move, ours: Latest) -> bool:
        """Whether the verdict is still the one that was decided about, and not dealt with yet."""
        now = ours.get((move.image_id, WHOLE_IMAGE, COMMIT))
        stands = _place_of(now) == _place_of(move.old)
        if not stands and said_of(now).promotion != self.journal.id:
            self.journal.moved_on += 1
        return stands

    def _put_files(self, move: Move, paths: list[str], theirs: Latest) -> None:
        action, new = move.action, theirs[move.image_id, WHOLE_IMAGE, COMMIT]
        stays = action == "keep" or (action == "promote" and not move.differs)
        if stays and deliver(self.storage, paths, move.older):
            return
        if action == "keep":
            raise StorageMissingError(f"no copy of the older result of {paths[0]} is left to be kept")
        if action == "original":
            self._put(self._original(move.image_id, paths[0]), paths)
        elif new.state in DELIVERED_STATES:
            if action == "promote":
                self._keep_older(paths)
            self._put(self.storage.read_bytes(f"{self.journal.candidate}/{restored(move.paths[0])}"), paths)

    def _keep_older(self, paths: Iterable[str]) -> None:
        """A second name for every older file, unless it has one already: then the file may be the new one."""
        for path in paths:
            kept = f"{self._older}/{decode_name(path)}"
            if not self.storage.exists(kept) and self.storage.exists(restored(path)):
                self.storage.copy(restored(path), kept)

    def _original(self, image_id: str, path: str) -> bytes:
        data = self._source.read_bytes(decode_name(path))
        if hashlib.sha256(data).hexdigest() != image_id:
            raise StorageMissingError(f"{path} has changed since the scan; the next run takes it as it is")
        return data

    def _verdict(self, move: Move, theirs: Latest) -> Event:
        new, promotion = theirs[move.image_id, WHOLE_IMAGE, COMMIT], self.journal.id
        match move.action:
            case "keep":
                said = replace(unmarked(move.older), promotion=promotion, why=move.why)
                return kept_verdict(move.older, self.journal.digest, said)
            case "original":
                return original_verdict(new, VerdictDetail(promotion=promotion, why=move.why))
            case "promote":
                said = replace(said_of(new), promotion=promotion, why=move.why, promoted=True)
            case "take":
                said = replace(said_of(new), promotion=promotion, why=move.why, taken=True)
        return replace(new, detail=said.to_detail())


class _Rollback(_OfJournal):
    def __init__(self, session: Session, journal: Journal, again: bool) -> None:
        super().__init__(replace(session, id=f"rollback-{datetime.now(UTC):%Y%m%dT%H%M%S}"), journal)
        self._again, self._was_begun = again, journal.is_begun
        self._digests_of = cache(lambda run_id: digests_of_run(session.storage, run_id))

    def take_back(self, moves: Sequence[Move]) -> int:
        ours = latest(self.ledger, [move.image_id for move in moves])
        todo = [move for move in moves if move.action == "promote" and self._is_to_be_taken_back(move, ours)]
        if not todo:
            return 0
        self._moved(self._put_older, [move for move in todo if move.differs])
        self.append([*self._older_stages(todo, ours), *(self._verdict(move.older) for move in todo)], ours)
        return len(todo)

    def _is_to_be_taken_back(self, move: Move, ours: Latest) -> bool:
        now = ours.get((move.image_id, WHOLE_IMAGE, COMMIT))
        if _still_shows(now, self.journal):
            return True
        if said_of(now).promotion == self.journal.id:
            return False
        untouched = _place_of(now) == _place_of(move.old)
        if not untouched:
            self.journal.moved_on += 1
        return untouched and self._was_begun

    def _put_older(self, move: Move, paths: list[str]) -> None:
        kept = {path: f"{self._older}/{decode_name(path)}" for path in move.paths}
        there = {path: place for path, place in kept.items() if self.storage.exists(place)}
        for path in paths if there else ():
            self._put(self.storage.read_bytes(there.get(path, next(iter(there.values())))), [path])

    def _older_stages(self, moves: Sequence[Move], ours: Latest) -> list[Event]:
        """The stages' events of the run that made the older results, where newer ones stand in the ledger now."""
        wanted = {move.image_id: self._digests_of(made_in(move.older)) for move in moves}
        return [
            event
            for event in _of_every_digest(self.ledger, list(wanted))
            if event.stage_digest == wanted[event.image_id].get(event.stage) and _is_news(event, ours)
        ]

    def _verdict(self, old: Event) -> Event:
        why = "the promotion was rolled back"
        said = replace(unmarked(old), promotion=self.journal.id, rolled_back=True, why=why)
        return kept_verdict(old, None if self._again else self.journal.digest, said)


def latest(ledger: Ledger, image_ids: Iterable[str], stage: str | None = None) -> Latest:
    """The last event of every stage (or one) and face of some pictures."""
    return {_key(event): event for event in events_of(ledger.latest(stage=stage, image_ids=list(image_ids)))}


def _of_every_digest(ledger: Ledger, image_ids: Sequence[str]) -> list[Event]:
    """The last event of every face, stage and digest of pictures of one bucket, verdicts left out."""
    with ledger.reader() as reader:
        sql = f"""
            SELECT * FROM ({reader.events(None, {bucket_of(image_ids[0], ledger.buckets)})})
            WHERE image_id IN (SELECT unnest(?::VARCHAR[])) AND stage != '{COMMIT}'
            QUALIFY row_number() OVER (
                PARTITION BY image_id, face, stage, stage_digest ORDER BY token DESC, seq DESC) = 1"""
        return list(events_of(reader.table(sql, [list(image_ids)])))


def _legal(before: Event | None, event: Event) -> list[Event]:
    """The event, after one that sets the last aside where nothing may follow that under the same digest."""
    if before is None or before.stage_digest != event.stage_digest or event.state in TRANSITIONS[before.state]:
        return [event]
    return [replace(event, state="superseded"), event]


def _is_news(event: Event, known: Latest) -> bool:
    before = known.get(_key(event))
    return before is None or (before.stage_digest, before.state) != (event.stage_digest, event.state)


def _refuse_without_older_results(session: Session, journal: Journal) -> None:
    """Raises JobError where a picture that was replaced has no older file left."""
    folder = f"{SUPERSEDED}/{journal.id}"
    kept = {info.ledger_path.removeprefix(f"{folder}/") for info in listing(session.storage, folder)}
    gone = 0
    for moves in read_moves(session.storage, journal.id, CHUNK):
        bare = [move.image_id for move in moves if move.differs and not kept & set(move.paths)]
        gone += sum(_still_shows(verdict, journal) for verdict in latest(session.ledger, bare, COMMIT).values())
    if gone:
        raise JobError(
            f"promotion {journal.id} cannot be rolled back: the older results of {gone} pictures are gone (`mpsr "
            "clean` drops those of older promotions). To have such results again, run the recipe that made them"
        )


def _paths_now(ledger: Ledger, moves: Sequence[Move]) -> dict[str, list[str]]:
    """image_id → the paths that hold the picture by the last scan."""
    found: dict[str, list[str]] = defaultdict(list)
    table = ledger.files(image_ids=[move.image_id for move in moves], columns=["image_id", "path"])
    for image_id, path in zip(table["image_id"].to_pylist(), table["path"].to_pylist(), strict=True):
        found[image_id].append(path)
    return found


def _still_shows(verdict: Event | None, journal: Journal) -> bool:
    """Whether the result that a verdict speaks of is the one that was promoted, whoever wrote the verdict last.

    A later night that kept it wrote a verdict of its own, and so did a rollback to it.
    """
    return verdict is not None and made_in(verdict) == journal.id


def _unless_gone(move_files: Callable[[Move, list[str]], None], move: Move, paths: list[str]) -> bool:
    """Whether the files were there to be moved."""
    try:
        move_files(move, paths)
    except StorageMissingError:
        return False
    return True


def _place_of(event: Event | None) -> tuple[int, int] | None:
    """Where an event stands in the ledger."""
    return (event.token, event.seq) if event else None


def _key(event: Event) -> tuple[str, int, str]:
    return event.image_id, event.face, event.stage
