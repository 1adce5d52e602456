"""Carries a promotion out, or takes it back: files first, then the ledger, a chunk of pictures at a time.

Every step may be repeated and every file is replaced atomically, so that a process that dies at any moment leaves
each path with its older or its new result, and running again comes to the same end.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from flows.gate.journal import SUPERSEDED, Journal, Row, read_chunks, write
from flows.jobs import JobError
from flows.restoration import deliver, restored
from flows.session import digests_of_run
from infra.ledger import DELIVERED_STATES, TRANSITIONS, Lease, Ledger, event_columns, listing
from infra.storage import Storage, StorageMissingError, decode_name
from tasks.recipes import COMMIT, stage_key
from tasks.stage import WHOLE_IMAGE

CHUNK = 1000
"""Pictures between two appends to the ledger."""
FILES_AT_ONCE = 8
VERDICT = ("state", "attempt", "reason_code", "reason", "detail", "output_uri", "output_sha256", "outcome")
REMEMBERED = (*VERDICT, "stage_digest", "run_id", "token", "seq")
"""What is kept of the verdict that a promotion replaces."""
_FILLED_BY_LEDGER = ("run_id", "token", "seq", "stage")
Rows = dict[tuple[str, int, str], Row]
"""(image_id, face, stage) → its last row."""


@dataclass(frozen=True)
class Place:
    """A workspace whose lease is held."""

    storage: Storage
    ledger: Ledger
    lease: Lease


def carry_out(place: Place, journal: Journal, source: Storage) -> None:
    """Puts every picture's files in place and its rows into the ledger, and says so in the journal.

    What is done already is passed over; what something else has dealt with since the decision is left alone.
    """
    candidate = Storage(f"{place.storage.url.rstrip('/')}/{journal.candidate}", place.storage.options)
    if not candidate.exists("_format.json"):
        return write(place.storage, journal, "abandoned")
    moves = _Promotion(place, journal, Ledger.open(candidate, create=False), source)
    journal.moved_on = 0
    for rows in read_chunks(place.storage, journal.id, CHUNK):
        moves.apply(rows)
    place.ledger.fold()
    return write(place.storage, journal, "applied")


def take_back(place: Place, journal: Journal, *, again: bool) -> int:
    """Puts the older results back in place of those promoted; returns how many pictures got theirs.

    With `again` the next night decides anew; otherwise the same recipe is not promoted again. Raises JobError before
    anything is touched where older results are gone.
    """
    moves = _Rollback(place, journal, again)
    _refuse_without_older_results(place, journal)
    journal.again, journal.moved_on = again, 0
    write(place.storage, journal, "rolling_back")
    taken = sum(moves.take_back(rows) for rows in read_chunks(place.storage, journal.id, CHUNK))
    place.ledger.fold()
    write(place.storage, journal, "rolled_back")
    if not journal.moved_on:  # else they may be the only older results left; `mpsr clean` drops them in time
        place.storage.delete_tree(f"{SUPERSEDED}/{journal.id}")
    return taken


def deliver_kept(place: Place, run_id: str, rows: Sequence[Row], digest: str) -> list[str]:
    """Gives further paths of pictures whose older result was kept under this digest that result.

    Returns the image ids of those pictures. The others of `rows` (image_id, bucket, paths) are none of its business,
    and one of whose older result no copy is left is to be restored anew.
    """
    moves = _Moves(place, run_id)
    known = last_rows(place.ledger, rows, COMMIT) if rows else {}
    kept = [row | {"old": old} for row in rows if (old := _kept_under(digest, known, row["image_id"]))]
    kept = [row for row in kept if deliver(place.storage, row["paths"], row["old"])]
    if kept:
        moves.append(kept[0]["bucket"], [kept_verdict(row, digest, {}) for row in kept], known)
    return [row["image_id"] for row in kept]


class _Moves:
    """Files and rows of a workspace."""

    def __init__(self, place: Place, run_id: str) -> None:
        self.storage, self.ledger, self.lease = place.storage, place.ledger, place.lease
        self._run_id = run_id

    def append(self, bucket: int, rows: Iterable[Row], known: Rows) -> None:
        """Appends rows to the ledger, the verdicts last, with a step between where its rules ask for one."""
        by_stage: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            before = known.get((row["image_id"], row["face"], row["stage"]))
            by_stage[row["stage"]] += [_columns(step) for step in _legal(before, row)]
        self.lease.check()
        for stage in sorted(by_stage, key=lambda name: name == COMMIT):
            rows, token = by_stage[stage], self.lease.token
            self.ledger.append_events(rows, run_id=self._run_id, token=token, stage=stage, bucket=bucket)

    def _put(self, data: bytes, paths: Iterable[str]) -> None:
        for path in paths:
            self.storage.write_atomic(restored(path), data)


class _OfJournal(_Moves):
    """What both directions of a promotion share."""

    def __init__(self, place: Place, run_id: str, journal: Journal) -> None:
        super().__init__(place, run_id)
        self.journal, self._older = journal, f"{SUPERSEDED}/{journal.id}"

    def _moved(self, move: Callable[[Row, list[str]], None], rows: Sequence[Row]) -> list[Row]:
        """Moves the files of several pictures at a time; returns the rows whose files were where they were expected.

        `move` gets the paths that hold the picture now: since the decision another may have taken one of its names.
        """
        now = _paths_now(self.ledger, rows)
        todo = [(row, now.get(row["image_id"], [])) for row in rows]
        with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="promotion") as pool:
            done = list(pool.map(lambda each: bool(each[1]) and _unless_gone(move, *each), todo))
        moved = [row for row, is_done in zip(rows, done, strict=True) if is_done]
        self.journal.moved_on += len(rows) - len(moved)
        return moved


class _Promotion(_OfJournal):
    def __init__(self, place: Place, journal: Journal, candidate: Ledger, source: Storage) -> None:
        super().__init__(place, journal.id, journal)
        self._candidate, self._source = candidate, source

    def apply(self, rows: Sequence[Row]) -> None:
        ours, theirs = (last_rows(ledger, rows) for ledger in (self.ledger, self._candidate))
        standing = [row for row in rows if self._stands(row, ours)]
        todo = self._moved(lambda row, paths: self._put_files(row, paths, theirs), standing)
        anew = {row["image_id"] for row in todo if row["action"] != "keep"}
        stages = [row for key, row in theirs.items() if key[0] in anew and key[2] != COMMIT]
        news = [row for row in stages if _is_news(row, ours)]
        self.append(rows[0]["bucket"], [*news, *(self._verdict(row, theirs) for row in todo)], ours)

    def _stands(self, row: Row, ours: Rows) -> bool:
        """Whether the verdict is still the one that was decided about, and not dealt with yet."""
        now = ours.get((row["image_id"], WHOLE_IMAGE, COMMIT))
        stands = _place_of(now) == _place_of(row["old"] and json.loads(row["old"]))
        if not stands and _detail(now).get("promotion") != self.journal.id:
            self.journal.moved_on += 1
        return stands

    def _put_files(self, row: Row, paths: list[str], theirs: Rows) -> None:
        action, new = row["action"], theirs[row["image_id"], WHOLE_IMAGE, COMMIT]
        stays = action == "keep" or (action == "promote" and not row["differs"])
        if stays and deliver(self.storage, paths, json.loads(row["old"]) | {"image_id": row["image_id"]}):
            return
        if action == "keep":
            raise StorageMissingError(f"no copy of the older result of {paths[0]} is left to be kept")
        if action == "original":
            self._put(self._original(row["image_id"], paths[0]), paths)
        elif new["state"] in DELIVERED_STATES:
            if action == "promote":
                self._keep_older(paths)
            self._put(self.storage.read_bytes(f"{self.journal.candidate}/{restored(row['paths'][0])}"), paths)
        elif new["outcome"] != "failed" or row["planned"] == "changed":
            for path in paths:
                self.storage.delete(restored(path))

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

    def _verdict(self, row: Row, theirs: Rows) -> Row:
        said = {"promotion": self.journal.id, "why": row["why"]}
        if row["action"] == "keep":
            return kept_verdict(row, self.journal.digest, said)
        new = theirs[row["image_id"], WHOLE_IMAGE, COMMIT]
        if row["action"] != "original":
            done = "promoted" if row["action"] == "promote" else "taken"
            return new | {"detail": json.dumps(_detail(new) | said | {done: True})}
        faces = sum(_detail(new).get("faces", {}).values())
        detail = {"outcome": "left_alone", "faces": {"left_alone": faces} if faces else {}} | said
        verdict = {"state": "done", "reason_code": "below_floor", "reason": row["why"], "outcome": "left_alone"}
        return new | verdict | {"detail": json.dumps(detail), "output_sha256": row["image_id"]}


class _Rollback(_OfJournal):
    def __init__(self, place: Place, journal: Journal, again: bool) -> None:
        super().__init__(place, f"rollback-{datetime.now(UTC):%Y%m%dT%H%M%S}", journal)
        self._again, self._was_begun = again, journal.is_begun
        self._digests_of = cache(lambda run_id: digests_of_run(place.storage, run_id))

    def take_back(self, rows: Sequence[Row]) -> int:
        ours = last_rows(self.ledger, rows)
        todo = [row for row in rows if row["action"] == "promote" and self._is_to_be_taken_back(row, ours)]
        if not todo:
            return 0
        self._moved(self._put_older, [row for row in todo if row["differs"]])
        said = {"promotion": self.journal.id, "rolled_back": True, "why": "the promotion was rolled back"}
        verdicts = [kept_verdict(row, None if self._again else self.journal.digest, said) for row in todo]
        self.append(rows[0]["bucket"], [*self._older_stages(todo, ours), *verdicts], ours)
        return len(todo)

    def _is_to_be_taken_back(self, row: Row, ours: Rows) -> bool:
        now = ours.get((row["image_id"], WHOLE_IMAGE, COMMIT))
        told, old = _detail(now), json.loads(row["old"])
        if _still_shows(now, self.journal):
            return True
        if told.get("promotion") == self.journal.id:
            return False
        untouched = _place_of(now) == _place_of(old)
        if not untouched:
            self.journal.moved_on += 1
        return untouched and self._was_begun

    def _put_older(self, row: Row, paths: list[str]) -> None:
        kept = {path: f"{self._older}/{decode_name(path)}" for path in row["paths"]}
        there = {path: place for path, place in kept.items() if self.storage.exists(place)}
        for path in paths if there else ():
            self._put(self.storage.read_bytes(there.get(path, next(iter(there.values())))), [path])

    def _older_stages(self, rows: Sequence[Row], ours: Rows) -> list[Row]:
        """The stages' rows of the run that made the older results, where newer ones stand in the ledger now."""
        wanted = {row["image_id"]: self._digests_of(made_in(json.loads(row["old"]))) for row in rows}
        found = []
        for row in _events(self.ledger, rows[0]["bucket"], list(wanted)):
            now = ours.get((row["image_id"], row["face"], row["stage"]))
            if row["stage_digest"] == wanted[row["image_id"]].get(row["stage"]) and _is_news(row, {_key(row): now}):
                found.append(row)
        return found


def kept_verdict(row: Row, digest: str | None, said: Mapping[str, Any]) -> Row:
    """The older verdict once more, under another digest so that no plan takes the picture on (None: under its own)."""
    old = row["old"] if isinstance(row["old"], dict) else json.loads(row["old"])
    told = _detail(old)
    marks = ("promoted", "taken", "rolled_back")
    detail = {**{name: value for name, value in told.items() if name not in marks}, **said, "made_in": made_in(old)}
    if digest is not None:
        detail |= {"kept": True, "made_by": told.get("made_by", old["stage_digest"])}
    place = {"image_id": row["image_id"], "face": WHOLE_IMAGE, "stage": COMMIT}
    digest = digest or str(old["stage_digest"])
    key = {"stage_digest": digest, "stage_key": stage_key(row["image_id"], WHOLE_IMAGE, digest)}
    return {name: old[name] for name in VERDICT} | place | key | {"detail": json.dumps(detail)}


def made_in(verdict: Mapping[str, Any]) -> str:
    """The run that made the result of a verdict."""
    return str(_detail(verdict).get("made_in", verdict["run_id"]))


def last_rows(ledger: Ledger, rows: Sequence[Row], stage: str | None = None) -> Rows:
    """The last row of every stage and face of some pictures."""
    table = ledger.latest(stage=stage, image_ids=[row["image_id"] for row in rows])
    return {_key(row): row for row in table.to_pylist()}


def _events(ledger: Ledger, bucket: int, image_ids: Sequence[str]) -> list[Row]:
    """The last row of every picture, face, stage and digest."""
    with ledger.reader() as reader:
        sql = f"""
            SELECT * FROM ({reader.events(None, {bucket})}) WHERE image_id IN (SELECT unnest(?::VARCHAR[]))
            QUALIFY row_number() OVER (
                PARTITION BY image_id, face, stage, stage_digest ORDER BY token DESC, seq DESC) = 1"""
        rows: list[Row] = reader.table(sql, [list(image_ids)]).to_pylist()
        return [row for row in rows if row["stage"] != COMMIT]


def _legal(before: Row | None, row: Row) -> list[Row]:
    """The row, after one that sets the last aside where nothing may follow that under the same digest."""
    if before is None or before["stage_digest"] != row["stage_digest"]:
        return [row]
    return [row] if row["state"] in TRANSITIONS[before["state"]] else [row | {"state": "superseded"}, row]


def _is_news(row: Row, known: Mapping[tuple[str, int, str], Row | None]) -> bool:
    before = known.get(_key(row))
    return before is None or any(before[name] != row[name] for name in ("stage_digest", "state"))


def _refuse_without_older_results(place: Place, journal: Journal) -> None:
    """Raises JobError where a picture that was replaced has no older file left."""
    folder = f"{SUPERSEDED}/{journal.id}"
    kept = {info.ledger_path.removeprefix(f"{folder}/") for info in listing(place.storage, folder)}
    gone = 0
    for rows in read_chunks(place.storage, journal.id, CHUNK):
        replaced = [row for row in rows if row["differs"] and not kept & set(row["paths"])]
        now = last_rows(place.ledger, replaced, COMMIT) if replaced else {}
        gone += sum(_still_shows(row, journal) for row in now.values())
    if gone:
        raise JobError(
            f"promotion {journal.id} cannot be rolled back: the older results of {gone} pictures are gone (`mpsr "
            "clean` drops those of older promotions). To have such results again, run the recipe that made them"
        )


def _paths_now(ledger: Ledger, rows: Sequence[Row]) -> dict[str, list[str]]:
    """image_id → the paths that hold the picture by the last scan."""
    found: dict[str, list[str]] = defaultdict(list)
    table = ledger.files(image_ids=[row["image_id"] for row in rows], columns=["image_id", "path"])
    for row in table.to_pylist():
        found[row["image_id"]].append(row["path"])
    return found


def _still_shows(verdict: Row | None, journal: Journal) -> bool:
    """Whether the result that a verdict speaks of is the one that was promoted, whoever wrote the verdict last.

    A later night that kept it wrote a verdict of its own, and so did a rollback to it.
    """
    return verdict is not None and made_in(verdict) == journal.id


def _unless_gone(move: Callable[[Row, list[str]], None], row: Row, paths: list[str]) -> bool:
    """Whether the files were there to be moved."""
    try:
        move(row, paths)
    except StorageMissingError:
        return False
    return True


def _kept_under(digest: str, known: Rows, image_id: str) -> Row | None:
    """The verdict of a picture, where it says that an older result was kept under this digest."""
    row = known.get((image_id, WHOLE_IMAGE, COMMIT))
    return row if row and row["stage_digest"] == digest and _detail(row).get("kept") else None


def _place_of(row: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Where a row stands in the ledger."""
    return (row["token"], row["seq"]) if row else None


def _columns(row: Row) -> Row:
    named = {name: row[name] for name in event_columns() if name in row and name not in _FILLED_BY_LEDGER}
    return named | {"metrics": dict(row.get("metrics") or {})}


def _key(row: Row) -> tuple[str, int, str]:
    return row["image_id"], row["face"], row["stage"]


def _detail(row: Mapping[str, Any] | None) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(row["detail"]) if row and row.get("detail") else {}
    return told
