"""The ledger: what is written is answered, whether or not a fold has happened; old files stay readable."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from places import ROOT
from s3_server import fresh_bucket, s3_options
from transitions import illegal_transitions

from infra.ledger.ledger import Ledger
from infra.ledger.rows import Event, FileRow, events_of, schema_of
from infra.ledger.schema import (
    STATES,
    TRANSITIONS,
    LedgerError,
    bucket_of,
    bucket_sql,
    buckets_for,
    unreadable_id,
)
from infra.storage.storage import Storage

IDS = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(60)]
PROBLEMS = {"corrupt": "quarantined", "not_an_image": "skipped"}


@pytest.fixture
def ledger(tmp_path):
    return Ledger.open(Storage(tmp_path / "it's [work] space"), buckets=4)


def found(ledger, ids=IDS, folder="in", run="run-1", **more):
    rows = [FileRow(path=f"{folder}/{IDS.index(i)}.jpg", image_id=i, bytes=10, **more) for i in ids]
    return ledger.append_inventory(rows, run)


def seen_at(path, image_id=None, **more):
    return FileRow(path=path, image_id=image_id or unreadable_id(path), **more)


def judged(ledger, ids, state="done", outcome="restored", digest="D1", token=1, stage="commit", **more):
    by_bucket: dict[int, list[Event]] = {}
    for image_id in ids:
        told = {"state": state, "stage_digest": digest, "outcome": outcome, "reason_code": "ok", **more}
        by_bucket.setdefault(bucket_of(image_id, ledger.buckets), []).append(Event(image_id=image_id, **told))
    for bucket, rows in by_bucket.items():
        ledger.append_events(rows, run_id="run-1", token=token, stage=stage, bucket=bucket)


def answers(ledger):
    """Everything that must not depend on a fold."""
    planned = ledger.plan("D1", max_attempts=3)
    return {
        "plan": sorted(planned.to_pylist(), key=str),
        "counts": {by: ledger.counts(by) for by in ("outcome", "state", "reason_code", "stage_digest")},
        "books": ledger.books(PROBLEMS),
        "books now": ledger.books(PROBLEMS, "D1"),
        "latest": sorted(ledger.latest().to_pylist(), key=str),
        "files": [(f["path"], f["image_id"], f["present"], f["problem"]) for f in ledger.files(gone=True).to_pylist()],
        "events": ledger.query("SELECT count(*) AS n, sum(seq) AS s FROM events").to_pylist(),
        "illegal": illegal_transitions(ledger),
    }


def whys(ledger, digest="D1", **more):
    return Counter(ledger.plan(digest, **more)["why"].to_pylist())


def test_a_life_of_an_archive_reads_the_same_with_and_without_folds(ledger, tmp_path):
    never_folded = Ledger.open(Storage(tmp_path / "never"), buckets=4)
    steps = [
        lambda it: found(it),
        lambda it: judged(it, IDS[:30]),
        lambda it: judged(it, IDS[30:40], "failed_retryable", "failed"),
        lambda it: judged(it, IDS[:10], "done", None, stage="gfpgan", face=0, metrics={"iqa": 0.5}),
        lambda it: judged(it, IDS[40:44], "running", None),
        lambda it: found(it, IDS[:3], "copy", "run-2"),
        lambda it: it.append_inventory([seen_at(path="in/5.jpg", image_id="ab" * 32)], "run-2"),
        lambda it: it.append_inventory([seen_at("in/6.jpg", IDS[6], present=False)], "run-2"),
        lambda it: it.append_inventory([seen_at(path="in/x", problem="corrupt")], "run-2"),
        lambda it: judged(it, IDS[30:35], digest="D2", token=2),
        lambda it: judged(it, IDS[20:25], "quarantined", "quarantined", token=2),
    ]
    for place, step in enumerate(steps):
        step(ledger)
        step(never_folded)
        ledger.fold()
        if place not in (3, 8, 10):
            continue
        one, two = answers(ledger), answers(never_folded)
        for key in ("counts", "books", "books now", "illegal"):
            assert one[key] == two[key], key
        assert [(r["image_id"], r["why"]) for r in one["plan"]] == [(r["image_id"], r["why"]) for r in two["plan"]]
    before = answers(never_folded)
    never_folded.fold()
    assert answers(never_folded) == before


def test_what_was_delivered_and_lies_there_no_more_is_planned(ledger):
    found(ledger, IDS[:5])
    found(ledger, IDS[:1], "copies")
    delivered = {"output_sha256": "5" * 64, "output_uri": "restored/x"}
    judged(ledger, IDS[:3], output_bytes=7, **delivered)
    judged(ledger, IDS[3:4], **delivered)  # by an earlier version, which knew no size
    judged(ledger, IDS[4:5])  # nothing was delivered
    paths = dict.fromkeys(ledger.files()["path"].to_pylist(), 7)

    def missing(**others):
        held = paths | {f"{name.replace('_', '/')}.jpg": size for name, size in others.items()}
        there = {path: size for path, size in held.items() if size is not None}
        lying = pa.table({"path": list(there), "lying_bytes": pa.array(list(there.values()), pa.int64())})
        planned = ledger.plan("D1", lying=lying).to_pydict()
        return dict(zip(planned["image_id"], planned["why"], strict=True))

    assert missing() == {}
    assert ledger.plan("D1").num_rows == 0, "nobody has looked"
    assert missing(in_1=None) == missing(in_1=6) == {IDS[1]: "missing"}
    assert missing(copies_0=None, in_3=None) == {IDS[0]: "missing", IDS[3]: "missing"}
    assert missing(in_3=6, in_4=None) == {}
    ledger.fold()
    assert missing(in_1=None, in_2=0) == {IDS[1]: "missing", IDS[2]: "missing"}


def test_plan_says_why(ledger):
    found(ledger)
    assert whys(ledger) == {"new": 60}
    judged(ledger, IDS[:30])
    judged(ledger, IDS[30:40], digest="old")
    judged(ledger, IDS[40:45], "failed_retryable", "failed", attempt=2)
    judged(ledger, IDS[45:50], "quarantined", "quarantined")
    judged(ledger, IDS[50:52], "running", None)
    judged(ledger, IDS[52:53], "pending", None)
    assert whys(ledger) == {"stale": 10, "retryable": 5, "unfinished": 3, "new": 7}
    assert whys(ledger, max_attempts=2) == {"stale": 10, "unfinished": 3, "new": 7}
    assert whys(ledger, "D2")["stale"] == 30 + 10 + 5 + 5
    found(ledger, IDS[:2], "copies")
    found(ledger, IDS[45:46], "copies")
    assert whys(ledger)["new_path"] == 2, "a quarantined picture is not tried again for being found twice"


def test_files_that_changed_left_or_came_back(ledger):
    found(ledger)
    judged(ledger, IDS)
    assert whys(ledger) == {}
    ledger.append_inventory([seen_at(path="in/0.jpg", image_id="cd" * 32, bytes=7, width=3, height=5)], "r2")
    ledger.append_inventory([seen_at("in/1.jpg", IDS[1], present=False)], "r2")
    (row,) = ledger.plan("D1").to_pylist()
    assert row == {
        "image_id": "cd" * 32,
        "bucket": bucket_of("cd" * 32, 4),
        "why": "changed",
        "attempt": 0,
        "files": 1,
        "bytes": 7,
        "pixels": 15,
    }
    assert ledger.books(PROBLEMS).found == 59
    assert "in/1.jpg" not in ledger.files()["path"].to_pylist()
    assert "in/1.jpg" in ledger.files(gone=True)["path"].to_pylist()
    ledger.fold()
    found(ledger, IDS[:2], run="r3")  # both are what they were at first
    assert whys(ledger) == {"new_path": 2}
    judged(ledger, IDS[:2], token=2)
    assert whys(ledger) == {}


def test_touching_a_file_plans_nothing(ledger):
    found(ledger)
    judged(ledger, IDS)
    found(ledger, IDS[:5], mtime_ns=5)
    assert whys(ledger) == {}
    ledger.fold()
    found(ledger, IDS[:5], mtime_ns=6)
    assert whys(ledger) == {}


def test_books_balance_in_files(ledger):
    found(ledger)
    found(ledger, IDS[:5], "twins")
    ledger.append_inventory([seen_at(path="a.txt", problem="not_an_image"), seen_at(path="b", problem="corrupt")], "r")
    judged(ledger, IDS[:20])
    judged(ledger, IDS[20:22], "skipped", "left_alone", detail={"faces": 0})
    books = ledger.books(PROBLEMS)
    assert books.found == 67
    assert books.balances
    assert books.outcomes == {"restored": 25, "left_alone": 2, "skipped": 1, "quarantined": 1, "pending": 38}
    assert books.reasons == {"ok": 27, "not_an_image": 1, "corrupt": 1, "pending": 38}
    assert ledger.books(PROBLEMS, "other digest").outcomes == {"skipped": 1, "quarantined": 1, "pending": 65}
    with pytest.raises(LedgerError, match="not_an_image"):
        ledger.books({"corrupt": "quarantined"})


def test_the_last_row_is_the_one_of_the_highest_token(ledger):
    judged(ledger, IDS[:4], "done", token=5, reason="valid")
    ledger.fold()
    judged(ledger, IDS[:4], "quarantined", "quarantined", token=4, reason="of a run that had lost its lease")
    assert ledger.counts("state") == {"done": 4}
    ledger.fold()
    assert ledger.counts("state") == {"done": 4}
    assert ledger.query("SELECT count(*) n FROM events").to_pylist() == [{"n": 8}]


def test_latest_takes_filters(ledger):
    judged(ledger, IDS)
    judged(ledger, IDS[:7], "done", None, stage="score", face=0, metrics={"niqe": 4.5})
    ledger.fold()
    judged(ledger, IDS[:2], "done", None, stage="score", face=1)
    assert ledger.latest(stage="score").num_rows == 9
    assert ledger.latest(image_ids=IDS[:1]).num_rows == 3
    assert ledger.latest(stage="commit", image_ids=IDS[3:9], columns=["image_id"]).column_names == ["image_id"]
    in_one = ledger.latest(stage="commit", bucket=2)["image_id"].to_pylist()
    assert in_one == sorted(i for i in IDS if bucket_of(i, 4) == 2)
    (row,) = ledger.latest(stage="score", image_ids=IDS[3:4]).to_pylist(maps_as_pydicts="strict")
    assert row["metrics"] == {"niqe": 4.5}
    assert ledger.files(image_ids=IDS[:1]).num_rows == 0


def test_illegal_transitions_are_counted_not_hidden(ledger):
    judged(ledger, IDS[:3], "running", None)
    judged(ledger, IDS[:3])
    judged(ledger, IDS[:2])  # done twice under one digest
    judged(ledger, IDS[2:3], digest="D2")  # a rerun under another
    judged(ledger, IDS[3:4], "quarantined", "quarantined")
    ledger.fold()
    judged(ledger, IDS[3:4])  # nobody asked for it
    judged(ledger, IDS[3:4], "pending", None)
    expected = {"done -> done": 2, "quarantined -> done": 1}
    assert illegal_transitions(ledger) == expected
    ledger.fold()
    assert illegal_transitions(ledger) == expected


def test_every_state_is_in_the_table_of_transitions():
    assert set(TRANSITIONS) == set(STATES)
    assert {after for followers in TRANSITIONS.values() for after in followers} <= set(STATES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": "finished"}, "expected one of discovered, pending"),
        ({"outcome": None}, "without outcome"),
        ({"metrics": {"iqa": "high"}}, "metrics"),
        ({"image_id": "ff" * 32}, "lies in bucket 3, not in 0"),
    ],
)
def test_wrong_rows_are_refused_and_nothing_is_written(ledger, change, message):
    row = Event(**{"image_id": "00" * 32, "state": "done", "outcome": "restored", **change})
    with pytest.raises(LedgerError, match=message):
        ledger.append_events([row], run_id="r", token=1, stage="commit", bucket=0)
    assert ledger.holdings().fresh == ()


def test_a_row_comes_back_as_it_went_in(ledger):
    when = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    row = Event(
        image_id="00" * 32,
        face=3,
        stage_key="k",
        stage_digest="d",
        state="done_fallback",
        attempt=2,
        reason_code="fallback_blend",
        reason="blended, 60 %",
        metrics={"identity": 0.31},
        detail={"blend": 0.6},
        output_uri="restored/a.jpg",
        output_sha256="s",
        worker="w",
        started=when,
        finished=when,
        device_ms=1.5,
    )
    path = ledger.append_events([row], run_id="r/1", token=7, stage="paste back", bucket=0)
    assert path.startswith("events/r%2F1/b00/paste%20back-000007-")
    (back,) = events_of(ledger.latest(stage="paste back"))
    assert back == replace(row, run_id="r/1", token=7, stage="paste back", seq=back.seq)


def test_other_readers_need_no_code_of_ours(ledger, tmp_path):
    found(ledger)
    judged(ledger, IDS, metrics={"iqa": 1.0})
    judged(ledger, IDS[:5], "done", None, stage="score", face=0)
    ledger.fold()
    judged(ledger, IDS[:5], token=2)
    root = Path(ledger.storage.url)
    events = ds.dataset(str(root / "events")).to_table()
    assert (events.num_rows, events.schema.field("state").type) == (70, pa.string())
    assert Counter(events.group_by("state").aggregate([("seq", "count")])["seq_count"].to_pylist()) == {70: 1}
    latest = pq.read_table(root / "snapshot" / "v=000001" / "latest")
    assert latest.num_rows == 65
    (tmp_path / "plain").symlink_to(root)  # DuckDB takes brackets in a glob for a character class
    pattern = tmp_path / "plain" / "events" / "*" / "*" / "*.parquet"
    assert duckdb.sql(f"SELECT count(DISTINCT image_id), max(metrics['iqa']) FROM '{pattern}'").fetchall() == [
        (60, 1.0)
    ]


def test_segments_with_fewer_columns_are_read_as_null(ledger):
    judged(ledger, IDS[:4], worker="w1")
    young = ledger.append_events(
        [Event(image_id="00" * 32, state="done", worker="w2")], run_id="r", token=1, stage="score", bucket=0
    )
    table = pq.read_table(ledger.storage.local_path(young))
    old = table.drop_columns(["worker", "device_ms", "outcome", "output_sha256"])
    ledger.storage.write_atomic(young, _parquet(old))
    for _ in range(2):
        rows = ledger.query("SELECT stage, worker, state FROM latest ORDER BY stage").to_pylist()
        assert Counter((r["stage"], r["worker"], r["state"]) for r in rows) == {
            ("commit", "w1", "done"): 4,
            ("score", None, "done"): 1,
        }
        ledger.fold()
    folded = pq.read_table(ledger.storage.local_path(*ledger.holdings().snapshot_of("score", {0})))
    assert folded.schema.names == schema_of(Event).names


def _parquet(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return memoryview(sink.getvalue())


def test_a_fold_cut_short_does_not_count(ledger, monkeypatch):
    found(ledger)
    judged(ledger, IDS[:20])
    ledger.fold()
    judged(ledger, IDS[20:], token=2)
    expected = answers(ledger)

    def power_cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("infra.ledger.fold.commit_version", power_cut)
    with pytest.raises(KeyboardInterrupt):
        ledger.fold()
    monkeypatch.undo()
    assert ledger.holdings().version == 1
    assert answers(ledger) == expected
    assert ledger.fold() == 3
    assert answers(ledger) == expected


def test_a_segment_that_arrives_during_a_fold_is_not_lost(ledger, monkeypatch):
    from infra.ledger import fold as manifest_fold

    judged(ledger, IDS[:20])
    real = manifest_fold.commit_version

    def late(*args, **named):
        judged(ledger, IDS[20:30])
        return real(*args, **named)

    monkeypatch.setattr(manifest_fold, "commit_version", late)
    ledger.fold()
    assert ledger.counts("state") == {"done": 30}


def test_folding_nothing_new_writes_nothing(ledger):
    assert ledger.fold() == 0
    judged(ledger, IDS)
    assert ledger.fold() == 1
    assert ledger.fold() == 1
    bucket = {bucket_of(IDS[1], 4)}
    untouched = ledger.storage.local_path(*ledger.holdings().snapshot_of("commit", bucket))
    other = next(i for i in IDS if bucket_of(i, 4) != bucket_of(IDS[1], 4))
    judged(ledger, [other], token=2)
    assert ledger.fold() == 2
    carried = ledger.storage.local_path(*ledger.holdings().snapshot_of("commit", bucket))
    assert carried.samefile(untouched), "a bucket without news is linked, not rewritten"


def test_many_threads_append_and_every_row_is_there(ledger):
    def work(number: int) -> None:
        for turn in range(5):
            judged(ledger, IDS, "done", None, stage=f"stage-{number}", face=turn)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    rows = ledger.query("SELECT count(*) AS rows, count(DISTINCT seq) AS seqs FROM events").to_pylist()
    assert rows == [{"rows": 4 * 5 * 60, "seqs": 4 * 5 * 60}]


def test_opening(tmp_path):
    storage = Storage(tmp_path / "w")
    with pytest.raises(LedgerError, match="no ledger in"):
        Ledger.open(storage, create=False)
    with pytest.raises(LedgerError, match="power of two"):
        Ledger.open(storage, buckets=48)
    assert Ledger.open(storage, buckets=8).buckets == 8
    again = Ledger.open(storage, buckets=64)
    assert again.buckets == 8, "the bucket count is fixed at creation"
    assert pickle.loads(pickle.dumps(again)).plan("D").num_rows == 0
    storage.write_atomic("_format.json", json.dumps({"format": 99, "buckets": 8}).encode())
    with pytest.raises(LedgerError, match="install a newer one"):
        Ledger.open(storage)


def test_buckets_are_first_bits_and_sql_agrees():
    assert [bucket_of(x * 16, 4) for x in ("0000", "4000", "8000", "ffff")] == [0, 1, 2, 3]
    assert bucket_of("abcd" * 16, 65_536) == 0xABCD
    rows = duckdb.sql(f"SELECT image_id, {bucket_sql(64)} FROM (SELECT unnest(?) AS image_id)", params=[IDS]).fetchall()
    assert rows == [(i, bucket_of(i, 64)) for i in IDS]
    assert [buckets_for(n) for n in (0, 150_000, 150_001, 10_000_000, 10**9)] == [1, 1, 2, 128, 256]


def test_unreadable_files_have_an_id_of_their_own(ledger):
    ledger.append_inventory([seen_at(path="a%FF", problem="corrupt")], "r")
    assert ledger.files()["image_id"].to_pylist() == [unreadable_id("a%FF")]
    assert unreadable_id("x") == hashlib.sha256(b"unreadable\0x").hexdigest()


def test_importing_the_ledger_pulls_in_nothing_heavy():
    code = (
        "import sys, infra.ledger.ledger, infra.ledger.lease, infra.ledger.retention\n"
        "heavy = {'torch', 'ray', 'prefect', 'duckdb', 'pyarrow', 'fsspec'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_the_ledger_works_on_s3():
    with s3_options() as options:
        ledger = Ledger.open(fresh_bucket(options), buckets=2)
        found(ledger)
        judged(ledger, IDS[:30])
        assert (ledger.counts("state"), whys(ledger)) == ({"done": 30}, {"new": 30})
        ledger.fold()
        assert (ledger.counts("state"), whys(ledger)) == ({"done": 30}, {"new": 30})
        judged(ledger, IDS[30:40], token=2)
        ledger.fold()
        assert whys(ledger) == {"new": 20}
        assert ledger.latest(stage="commit").num_rows == 40
