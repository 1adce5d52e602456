"""The ledger at size: append, fold from raw segments, plan, count, balance; medians, memory and the machine named.

    python tests/benchmarks/bench_ledger.py [--rows 10000000] [--runs 3] [--folder DIR]

Rows are made up and quick to make: 10,000,000 pictures, of which 90 % are done, 5 % stale, 2 % failed, 1 %
quarantined and 2 % new, in segments of 1,000 verdicts. Every question runs in a process of its own, so that its peak
memory is its own. `nightly` questions are asked with 10,000 newer inventory rows and 10,000 newer verdicts beside the
snapshot. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from infra.ledger.files import event_path, inventory_path
from infra.ledger.fold import parquet_bytes
from infra.ledger.lease import Lease
from infra.ledger.ledger import Ledger
from infra.ledger.schema import bucket_of, bucket_sql, event_schema, inventory_schema, next_seq
from infra.storage.storage import Storage

SEGMENT_ROWS, SCAN_ROWS, NIGHTLY_ROWS, CHUNK = 1_000, 100_000, 10_000, 500_000
PROBLEMS: dict[str, str] = {}

_PICTURES = """
    SELECT sha256(i::VARCHAR) AS image_id, i, i % 100 AS luck FROM range({first}, {last}) t(i)"""
_INVENTORY = """
    SELECT printf('%04d/roll %03d/IMG_%08d.jpg', 1900 + i % 120, i % 977, i) AS path, image_id,
           2000000 + i % 3000000 AS bytes, 1600000000000000000 + i AS mtime_ns, 'JPEG' AS format, 3000 AS width,
           2000 AS height, 'RGB' AS mode, true AS present, 'run-1' AS run_id, now() AS seen, {seq} + i AS seq
    FROM ({pictures})"""
_VERDICTS = """
    SELECT image_id, -1 AS face, 'commit' AS stage, if(luck = 90, 'old', 'now') || 'digest' AS stage_digest,
           CASE WHEN luck < 95 THEN 'done' WHEN luck < 97 THEN 'failed_retryable' ELSE 'quarantined' END AS state,
           1 AS attempt, CASE WHEN luck < 95 THEN 'ok' WHEN luck < 97 THEN 'infrastructure' ELSE 'corrupt' END
           AS reason_code, MAP {{'identity': 0.5 + luck / 300, 'niqe': 4.0 + luck / 100}} AS metrics,
           printf('{{"outcome": "restored", "faces": %d}}', i % 4) AS detail, sha256(image_id) AS output_sha256,
           'run-1' AS run_id, 'worker-3' AS worker, now() AS started, now() AS finished, 12.5 AS device_ms,
           1 AS token, {seq} + i AS seq,
           CASE WHEN luck < 95 THEN 'restored' WHEN luck < 97 THEN 'failed' ELSE 'quarantined' END AS outcome,
           {bucket} AS bucket
    FROM (SELECT * REPLACE (CASE WHEN luck BETWEEN 90 AND 94 THEN 90 ELSE luck END AS luck) FROM ({pictures}))
    WHERE luck < 98 ORDER BY bucket"""


def make(ledger: Ledger, rows: int) -> int:
    """Write the raw segments of a finished first run, and return how many there are."""
    import duckdb

    made = 0
    seq = next_seq(4 * rows)
    with ThreadPoolExecutor(4) as pool:
        for first in range(0, rows, CHUNK):
            connection = duckdb.connect(config={"threads": 2})
            pictures = _PICTURES.format(first=first, last=min(first + CHUNK, rows))
            files = connection.sql(_INVENTORY.format(pictures=pictures, seq=seq)).to_arrow_table()
            verdicts = _VERDICTS.format(pictures=pictures, seq=seq + rows, bucket=bucket_sql(ledger.buckets))
            events = connection.sql(verdicts).to_arrow_table()
            parts = [*_inventory_parts(files), *_event_parts(events, ledger.buckets)]
            made += len(list(pool.map(lambda part: _write(ledger.storage, *part), parts)))
    return made


def _inventory_parts(table: pa.Table) -> list[tuple[str, pa.Table]]:
    full = _completed(table, inventory_schema())
    parts = [full.slice(start, SCAN_ROWS) for start in range(0, full.num_rows, SCAN_ROWS)]
    return [(inventory_path("run-1", part["seq"][0].as_py()), part) for part in parts]


def _event_parts(table: pa.Table, buckets: int) -> list[tuple[str, pa.Table]]:
    places = table["bucket"].to_numpy()
    full = _completed(table.drop_columns("bucket"), event_schema())
    parts = []
    for bucket in range(buckets):
        start, end = places.searchsorted([bucket, bucket + 1])
        for at in range(start, end, SEGMENT_ROWS):
            part = full.slice(at, min(SEGMENT_ROWS, end - at))
            parts.append((event_path("run-1", "commit", bucket, 1, part["seq"][0].as_py()), part))
    return parts


def _completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _write(storage: Storage, path: str, table: pa.Table) -> None:
    target = storage.local_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(parquet_bytes(table))


def nightly(ledger: Ledger) -> None:
    """What a night adds beside the snapshot: new pictures, and verdicts on pictures that had failed."""
    ids = [f"{i * 6_553_600_000:016x}".rjust(16, "0")[-16:] * 4 for i in range(NIGHTLY_ROWS)]
    ledger.append_inventory([{"path": f"new/{i}.jpg", "image_id": x, "bytes": 1} for i, x in enumerate(ids)], "night")
    old = ledger.query("SELECT image_id FROM commits WHERE state = 'failed_retryable' LIMIT ?", [NIGHTLY_ROWS])
    by_bucket: dict[int, list[dict[str, Any]]] = {}
    for image_id in old["image_id"].to_pylist():
        row = {"image_id": image_id, "state": "done", "stage_digest": "nowdigest", "outcome": "restored"}
        by_bucket.setdefault(bucket_of(image_id, ledger.buckets), []).append(row)
    for bucket, rows in by_bucket.items():
        ledger.append_events(rows, run_id="night", token=2, stage="commit", bucket=bucket)


def append(ledger: Ledger, runs: int) -> tuple[float, float]:
    """Median seconds and processor seconds of an append of 1,000 outcomes to a ledger of its own."""
    rows = [
        {
            "image_id": f"{i:064x}",
            "state": "done",
            "stage_digest": "d",
            "reason_code": "ok",
            "metrics": {"identity": 0.5, "niqe": 4.0},
            "detail": '{"outcome": "restored", "faces": 1}',
            "worker": "w",
            "device_ms": 1.0,
        }
        for i in range(1_000)
    ]
    seconds, busy = [], []
    for _ in range(max(20, runs)):
        start, before = time.perf_counter(), time.process_time()
        ledger.append_events(rows, run_id="append", token=1, stage="commit", bucket=0)
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - before)
    return statistics.median(seconds), statistics.median(busy)


QUESTIONS: dict[str, Callable[[Ledger], object]] = {
    "plan": lambda ledger: ledger.plan("nowdigest").num_rows,
    "plan, everything stale": lambda ledger: ledger.plan("another digest").num_rows,
    "counts by state": lambda ledger: ledger.counts("state"),
    "counts by outcome": lambda ledger: ledger.counts("outcome"),
    "books": lambda ledger: ledger.books(PROBLEMS).outcomes,
    "fold": lambda ledger: ledger.fold(),
}


def ask(folder: str, question: str) -> None:
    """In a child process: answer one question and print seconds, peak memory and the answer as JSON."""
    ledger = Ledger.open(Storage(folder), create=False)
    import duckdb  # noqa: F401 - its import is start-up, not the question's

    start, busy = time.perf_counter(), time.process_time()
    answer = QUESTIONS[question](ledger)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(json.dumps({"seconds": seconds, "cpu": busy, "peak_mb": _peak_mb(), "answer": answer}))


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measured(folder: str, question: str, runs: int) -> tuple[float, float, float, object]:
    """Median seconds and processor seconds, highest peak memory in MB, and the answer, of several child processes."""
    results = []
    for _ in range(runs):
        command = [sys.executable, __file__, "--ask", question, "--folder", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1_800)
        if done.returncode:
            raise SystemExit(f"{question}: {done.stderr}")
        results.append(json.loads(done.stdout))
    return (
        statistics.median(r["seconds"] for r in results),
        statistics.median(r["cpu"] for r in results),
        max(r["peak_mb"] for r in results),
        results[-1]["answer"],
    )


def run(rows: int, runs: int, folder: str) -> None:
    ledger = Ledger.open(Storage(folder))
    start = time.perf_counter()
    with Lease.acquire(ledger.storage, "benchmark"):
        segments = make(ledger, rows)
        _line(f"made {rows:,} rows in {segments:,} segments, {_gigabytes(folder)}: {time.perf_counter() - start:.0f} s")
        print(f"\n{_machine()}; {rows:,} pictures in {ledger.buckets} buckets, median of {runs}\n")
        print("| question | seconds | processor seconds | peak MB | answer |\n|---|---|---|---|---|")
        spare = Ledger.open(Storage(Path(folder) / "spare"), buckets=1)
        _row("append 1,000 outcomes (one segment, fsync)", *append(spare, runs), _peak_mb(), "")
        _row("counts by state, no snapshot", *measured(folder, "counts by state", 1))
        _row("fold without a snapshot", *measured(folder, "fold", 1))
        for question in [q for q in QUESTIONS if q != "fold"]:
            _row(question, *measured(folder, question, runs))
        nightly(ledger)
        for question in ("plan", "counts by state", "books"):
            _row(f"{question}, nightly", *measured(folder, question, runs))
        _row("fold, nightly", *measured(folder, "fold", 1))


def _row(name: str, seconds: float, busy: float, peak_mb: float, answer: object) -> None:
    print(f"| {name} | {seconds:.3f} | {busy:.3f} | {peak_mb:,.0f} | {answer} |", flush=True)


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _gigabytes(folder: str) -> str:
    return f"{sum(p.stat().st_size for p in Path(folder).rglob('*.parquet')) / 1e9:.2f} GB"


def _machine() -> str:
    memory = psutil.virtual_memory().total / 1e9
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.system()}, Python {platform.python_version()}, "
        f"pyarrow {pa.__version__}, load at start {load:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", help="an empty folder for the ledger; a temporary one by default")
    parser.add_argument("--ask", choices=sorted(QUESTIONS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        ask(options.folder, options.ask)
        return
    folder = options.folder or tempfile.mkdtemp(prefix="bench-ledger-")
    try:
        run(options.rows, options.runs, folder)
    finally:
        if not options.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
