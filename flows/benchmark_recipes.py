"""The synthetic benchmark: known faces, degraded in known ways, restored by recipes, measured against the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from prefect import flow

from flows.evaluate_dataset import evaluate
from flows.evaluation import Measured, effort_facts
from flows.jobs import BenchmarkJob, EvaluationJob, Job, JobError, Side, restored_tree
from flows.restore_dataset import restore
from flows.session import cluster_settings, write_document, write_facts, write_table
from infra.settings import load_settings
from infra.storage import Storage
from tasks.comparing import (
    ARCHIVE,
    CELLS,
    TRUTH,
    NoFaces,
    Row,
    default_faces,
    faces_of,
    metrics_in,
    problems_of,
    rows,
    write_archive,
)
from tasks.pages.documents import benchmark_blocks, curve_path, metric_curves, picture_strip
from tasks.pictures import Pixels, decode

NAME, PICTURES = "benchmark", "pictures"
SEED = 1
PANEL = 192
ONE_PERSON = (
    "The default faces are one person and her mirror image, from a picture in which her face is 170 pixels wide. The "
    "numbers can be repeated anywhere and show that recipes work; they are no ground for choosing one. For that, give "
    "a folder of clean faces like yours."
)
OWN_FACES = (
    "The damage is synthetic and its kinds are known to whoever trained the networks; real photographs are worse, and "
    "differently so. PSNR and SSIM reward caution: they punish invented detail that the quality scores praise."
)


@flow(name="benchmark-recipes", flow_run_name="benchmark {recipes}", persist_result=False)
def benchmark_recipes(
    output: str,
    faces: str | None = None,
    recipes: list[str] | None = None,
    limit: int | None = None,
    degradations: list[str] | None = None,
    metrics: list[str] | None = None,
    price_per_gpu_hour: float | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Restores degraded faces with every recipe and measures what was gained. Returns what benchmark.json holds.

    Running it again with one more recipe restores and measures only with that one.
    """
    job = BenchmarkJob(
        output=output,
        faces=faces,
        recipes=tuple(recipes or ["compact"]),
        limit=limit,
        degradations=tuple(degradations or CELLS),
        metrics=tuple(metrics or ()),
        price_per_gpu_hour=price_per_gpu_hour,
        settings=settings or {},
    )
    return benchmark(job)


def benchmark(job: BenchmarkJob) -> dict[str, Any]:
    """The whole benchmark. Raises JobError without faces."""
    from infra.workers import start_or_join

    runs, cells = job.runs(), job.cells()
    faces, refused = _faces(job)
    write_archive(Storage(job.output), faces, cells, SEED)
    with start_or_join(cluster_settings(load_settings(**job.settings))):
        inputs = _measured(job, Side("originals", "input", job.place(ARCHIVE)), job.place("input-evaluation"))
        restored = {name: _restored(job, name, run) for name, run in runs.items()}
    table = rows(inputs.evaluation, {name: side.evaluation for name, side in restored.items()}, list(cells))
    facts = _facts(job, restored, len(faces), refused)
    return _written(job, table, facts, faces, restored)


def _faces(job: BenchmarkJob) -> tuple[dict[str, Pixels], dict[str, str]]:
    if job.faces is None:
        return default_faces(), {}
    try:
        return faces_of(Storage(job.faces), job.limit)
    except NoFaces as error:
        raise JobError(str(error)) from None


def _restored(job: BenchmarkJob, name: str, run: Job) -> Measured:
    restore(run)
    return _measured(job, Side("recipe", name, run.workspace), None)


def _measured(job: BenchmarkJob, side: Side, place: str | None) -> Measured:
    asked = EvaluationJob(
        restored=side.url,
        against=job.place(ARCHIVE),
        truth=job.place(TRUTH),
        output=place,
        metrics=job.metrics,
        aligned=True,
        settings=job.settings,
    )
    return Measured(side, evaluate(asked), restored_tree(side.url))


def _facts(
    job: BenchmarkJob, restored: Mapping[str, Measured], faces: int, refused: Mapping[str, str]
) -> dict[str, Any]:
    evaluations = [side.evaluation for side in restored.values()]
    return {
        "schema": 1,
        "faces": faces,
        "source": "scikit-image's portrait" if job.faces is None else Storage(job.faces).shown_url,
        "refused": dict(refused),
        "recipes": list(restored),
        "degradations": {name: degradation.model_dump() for name, degradation in job.cells().items()},
        "effort": {name: effort_facts(side, job.price_per_gpu_hour) for name, side in restored.items()},
        "missing": {metric: why for each in evaluations for metric, why in each.facts["missing"].items()},
        "problems": {name: problems_of(side.evaluation.faces) for name, side in restored.items()},
        "limits": ONE_PERSON if job.faces is None else OWN_FACES,
        "output": Storage(job.output).shown_url,
    }


def _written(
    job: BenchmarkJob,
    table: Sequence[Row],
    facts: dict[str, Any],
    faces: Mapping[str, Pixels],
    restored: Mapping[str, Measured],
) -> dict[str, Any]:
    """Writes table, curves, pictures, Markdown, page and, last, the JSON file."""
    output = Storage(job.output)
    written = [asdict(row) for row in table]
    write_table(output, NAME, pa.Table.from_pylist(written))
    for metric in metrics_in(table):
        output.write_atomic(curve_path(metric), metric_curves(table, metric).encode())
    strips = _strips(output, next(iter(faces)), job.cells(), restored)
    write_document(output, NAME, "Benchmark of recipes", benchmark_blocks(table, facts, strips))
    facts |= {"rows": written}
    write_facts(output, NAME, facts)
    return facts


def _strips(output: Storage, face: str, cells: Iterable[str], restored: Mapping[str, Measured]) -> dict[str, str]:
    """cell → path of a strip of the first face: clean, degraded, restored by each recipe that has it."""
    places = [(output, TRUTH), (output, ARCHIVE), *((Storage(side.tree), "") for side in restored.values())]
    paths = {}
    for cell in cells:
        names = [(storage, f"{tree}/{cell}/{face}.png".lstrip("/")) for storage, tree in places]
        if all(storage.exists(name) for storage, name in names):
            pictures = [decode(storage.read_bytes(name)).pixels for storage, name in names]
            paths[cell] = f"{PICTURES}/{cell}.jpg"
            output.write_atomic(paths[cell], picture_strip(pictures, None, PANEL))
    return paths
