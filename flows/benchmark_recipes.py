"""The synthetic benchmark: known faces, degraded in known ways, restored by recipes, measured against the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from prefect import flow

from flows.evaluation import Measured, effort_facts, evaluate
from flows.jobs import BenchmarkJob, EvaluationJob, Job, Side, insist_on_folder, restored_tree
from flows.restoration import restore
from flows.session import cluster_settings, write_document, write_facts, write_table
from infra.settings import load_settings
from infra.storage import Storage
from tasks.comparing import (
    ARCHIVE,
    TRUTH,
    BenchmarkFacts,
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
) -> BenchmarkFacts:
    """Restores degraded faces with every recipe and measures what was gained. Returns what benchmark.json holds.

    Running it again with one more recipe restores and measures only with that one.
    """
    return benchmark(BenchmarkJob.of(**locals()))


@dataclass(frozen=True)
class Tried:
    """What was made and measured. faces: by name. refused: path → why it is none. restored: by recipe."""

    faces: Mapping[str, Pixels]
    refused: Mapping[str, str]
    inputs: Measured
    restored: Mapping[str, Measured]


def benchmark(job: BenchmarkJob) -> BenchmarkFacts:
    """The whole benchmark: table, curves, pictures, Markdown, page and, last, the JSON file.

    Raises JobError or NoFaces without faces.
    """
    tried, output = _tried(job), Storage(job.output)
    facts = _facts(job, tried)
    write_table(output, NAME, pa.Table.from_pylist(facts.model_dump()["rows"]))
    for metric in metrics_in(facts.rows):
        output.write_atomic(curve_path(metric), metric_curves(facts.rows, metric).encode())
    write_document(output, NAME, "Benchmark of recipes", benchmark_blocks(facts, _strips(job, tried)))
    write_facts(output, NAME, facts)
    return facts


def _tried(job: BenchmarkJob) -> Tried:
    from infra.workers import start_or_join

    runs, cells = job.runs(), job.cells()
    faces, refused = _faces(job)
    write_archive(Storage(job.output), faces, cells, SEED)
    with start_or_join(cluster_settings(load_settings(**job.settings))):
        inputs = _measured(job, Side("originals", "input", job.place(ARCHIVE)), job.place("input-evaluation"))
        restored = {name: _restored(job, name, run) for name, run in runs.items()}
    return Tried(faces, refused, inputs, restored)


def _faces(job: BenchmarkJob) -> tuple[dict[str, Pixels], dict[str, str]]:
    if job.faces is None:
        return default_faces(), {}
    return faces_of(insist_on_folder(job.faces, "faces"), job.limit)


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


def _facts(job: BenchmarkJob, tried: Tried) -> BenchmarkFacts:
    evaluations = {name: side.evaluation for name, side in tried.restored.items()}
    return BenchmarkFacts(
        faces=len(tried.faces),
        source="scikit-image's portrait" if job.faces is None else Storage(job.faces).shown_url,
        refused=tried.refused,
        recipes=tuple(evaluations),
        degradations=job.cells(),
        effort={name: effort_facts(side, job.price_per_gpu_hour) for name, side in tried.restored.items()},
        missing={metric: why for each in evaluations.values() for metric, why in each.facts.missing.items()},
        problems={name: problems_of(each.faces) for name, each in evaluations.items()},
        limits=ONE_PERSON if job.faces is None else OWN_FACES,
        output=Storage(job.output).shown_url,
        rows=tuple(rows(tried.inputs.evaluation, evaluations, list(job.cells()))),
    )


def _strips(job: BenchmarkJob, tried: Tried) -> dict[str, str]:
    """cell → path of a strip of the first face: clean, degraded, restored by each recipe that has it."""
    output, face = Storage(job.output), next(iter(tried.faces))
    places = [(output, TRUTH), (output, ARCHIVE), *((Storage(side.tree), "") for side in tried.restored.values())]
    paths = {}
    for cell in job.cells():
        names = [(storage, f"{tree}/{cell}/{face}.png".lstrip("/")) for storage, tree in places]
        if all(storage.exists(name) for storage, name in names):
            pictures = [decode(storage.read_bytes(name)).pixels for storage, name in names]
            paths[cell] = f"{PICTURES}/{cell}.jpg"
            output.write_atomic(paths[cell], picture_strip(pictures, None, PANEL))
    return paths
