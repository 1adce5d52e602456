"""Orchestration alone: synthetic images through three no-op stages, with ledger, Prefect and Ray on.

    python tests/benchmarks/bench_orchestration.py [--images 100000] [--runs 3]

Nothing is read or computed: what remains is planning, Prefect's task runs, Ray's calls, the ledger's segments and the
verdicts. Start-up is shown apart. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
sys.path.insert(0, str(HERE))

RECIPE = """
name = "noop"
[[stage]]
id = "detect_align"
settings = { detector = "none" }
[[stage]]
id = "noop"
use = "bench_orchestration:NoOp"
[[stage]]
id = "paste_back"
"""

from flows.cli.local import quiet_prefect  # noqa: E402
from infra.ledger import Event, FileRow  # noqa: E402
from tasks.recipes import stage_key  # noqa: E402
from tasks.stage import FaceStage  # noqa: E402
from tasks.worker import Item, Result  # noqa: E402


class NoOp(FaceStage):
    """A place in the recipe; the host below answers for it."""

    name = "noop"
    reads = ("aligned",)
    writes = ("restored",)

    @classmethod
    def batch_size(cls, settings: Any) -> int:
        """As detection's and paste-back's below."""
        return 64


class Host:
    """Answers every call at once: one face per image, no pixels; the rest as a worker would."""

    def __init__(self, digests: dict[str, str]) -> None:
        self.digests = digests

    def run(self, call: str, items: list[Item]) -> list[Result]:
        results = []
        for item in items:
            if call == "detect_align":
                face = self._event(call, item.image_id, 0, output_uri="intermediates/none")
                picture = self._event(call, item.image_id, -1, metrics={"faces": 1.0})
                results += [Result(item.key, face), Result(item.key, picture)]
            else:
                results.append(Result(item.key, self._event(call, item.image_id, getattr(item, "face", -1))))
        return results

    def _event(self, stage: str, image_id: str, face: int, **more: Any) -> Event:
        now, digest = datetime.now(UTC), self.digests[stage]
        return Event(
            image_id=image_id,
            face=face,
            stage=stage,
            stage_key=stage_key(image_id, face, digest),
            stage_digest=digest,
            state="done",
            reason_code="ok",
            started=now,
            finished=now,
            device_ms=0.0,
            **more,
        )


def build(config: dict[str, Any]) -> Host:
    """The executor's factory."""
    return Host(config["digests"])


def once(images: int) -> tuple[float, float]:
    """Seconds of start-up and of work for one fresh workspace."""
    quiet_prefect()
    from prefect import flow

    from flows.jobs.restoration import Job
    from flows.restoration import run as running
    from flows.restoration.plan import make_plan
    from flows.restoration.run import open_run
    from flows.restoration.story import restore_shards

    running.FACTORY = "bench_orchestration:build"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "archive").mkdir()
        (root / "noop.toml").write_text(RECIPE)
        job = Job(
            source=str(root / "archive"),
            workspace=str(root / "ws"),
            recipe=str(root / "noop.toml"),
            settings={"micro_batch": 64},
        )

        @flow(name="bench-orchestration", persist_result=False)
        def story() -> tuple[float, float]:
            began = time.perf_counter()
            with open_run(job) as run:
                run.ledger.append_inventory(list(inventory(images)), run.id)
                plan = make_plan(run)
                run.progress.planned(plan.images)
                with run.workers(plan.images):
                    ready = time.perf_counter()
                    restore_shards(run, plan)
                run.ledger.fold()
                assert run.ledger.counts() == {"restored": images}
            return ready - began, time.perf_counter() - ready

        return story()


def inventory(images: int) -> Any:
    """Rows as a scan would give them."""
    for n in range(images):
        image_id = hashlib.sha256(str(n).encode()).hexdigest()
        yield FileRow(path=f"{n // 1000:04}/{n:08}.jpg", image_id=image_id, bytes=1, format="JPEG")


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    results = [once(given.images) for _ in range(given.runs)]
    startup = statistics.median(s for s, _ in results)
    work = statistics.median(w for _, w in results)
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}, {given.runs} runs"
    )
    print("| images | start-up s | work s | ms per image, three stages |")
    print("|---|---|---|---|")
    print(f"| {given.images} | {startup:.1f} | {work:.1f} | {1000 * work / given.images:.3f} |")
    print("each run: " + ", ".join(f"{1000 * w / given.images:.3f}" for _, w in results))


if __name__ == "__main__":
    main()
