"""Two restorations of the same pictures, held against each other: restore what is a recipe, measure, compare, tell."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from prefect import flow

from flows.evaluate_dataset import evaluate
from flows.evaluation import Measured, effort_facts, measured_before
from flows.jobs import ComparisonJob, JobError, Side, evaluation_of, restored_tree, two_sides
from flows.restore_dataset import restore
from flows.session import write_document, write_facts, write_table
from infra.storage import Storage, StorageError, decode_name
from tasks.comparing import Comparison, ComparisonError, Regression, compare
from tasks.measuring import Evaluation
from tasks.pages.documents import comparison_blocks, panels, picture_strip
from tasks.pictures import DecodeError, decode

NAME, PICTURES = "comparison", "worst"
KNOW_THEIR_FACES = ("evaluation", "workspace", "recipe", "folder", "originals")
"""Kinds of sides, those first whose way of looking for faces is settled."""
_log = logging.getLogger("mpsr.compare")


@flow(name="compare-recipes", flow_run_name="compare {a} and {b}", persist_result=False)
def compare_recipes(
    a: str,
    b: str,
    against: str,
    truth: str | None = None,
    output: str = "comparison",
    metrics: list[str] | None = None,
    aligned: bool = False,
    confidence: float = 0.95,
    price_per_gpu_hour: float | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Compares two sides face by face; each is a workspace, a folder, an evaluation, `recipe:NAME` or the originals.

    What a recipe has restored and what was measured is not done again. Returns what comparison.json holds.
    """
    job = ComparisonJob(
        a=a,
        b=b,
        against=against,
        truth=truth,
        output=output,
        metrics=tuple(metrics or ()),
        aligned=aligned,
        confidence=confidence,
        price_per_gpu_hour=price_per_gpu_hour,
        settings=settings or {},
    )
    return compare_sides(job)


def compare_sides(job: ComparisonJob) -> dict[str, Any]:
    """The whole comparison. Raises JobError where there is nothing to compare."""
    sides = measured_alike(two_sides(job), job)
    try:
        found = compare(*(side.evaluation for side in sides), confidence=job.confidence)
    except ComparisonError as error:
        raise JobError(str(error)) from None
    told = {letter: _told(side, job) for letter, side in zip("ab", sides, strict=True)}
    return _written(job, found, told, sides)


def measured_alike(sides: Sequence[Side], job: ComparisonJob) -> list[Measured]:
    """Both sides on the same faces: the one that knows how it looked for them is measured first."""
    found: dict[str, Measured] = {}
    for side in sorted(sides, key=lambda side: KNOW_THEIR_FACES.index(side.kind)):
        like = next((known.evaluation for known in found.values()), None)
        found[side.url] = measured(side, job, like)
    return [found[side.url] for side in sides]


def measured(side: Side, job: ComparisonJob, like: Evaluation | None = None) -> Measured:
    """The side with its evaluation; a recipe's pictures are restored first. What is done is not done again."""
    if side.kind == "evaluation":
        return measured_before(side)
    if side.run is not None:
        restore(side.run)
    return Measured(side, evaluate(evaluation_of(side, job, like)), restored_tree(side.url))


def _told(measured: Measured, job: ComparisonJob) -> dict[str, Any]:
    """A side as comparison.json tells it."""
    side, effort = measured.side, effort_facts(measured, job.price_per_gpu_hour)
    where = Storage(side.url).shown_url
    recipe = f", restored with the recipe {effort['recipe']} on {effort['device']}" if effort else ""
    what = f"the originals themselves, {where}" if side.kind == "originals" else f"{where}{recipe}"
    tree = Storage(measured.tree).shown_url
    return {"kind": side.kind, "name": side.name, "what": what, "restored": tree, "effort": effort}


def _written(
    job: ComparisonJob, found: Comparison, told: Mapping[str, dict[str, Any]], sides: Sequence[Measured]
) -> dict[str, Any]:
    """Writes table, pictures, Markdown, page and, last, the JSON file."""
    output = Storage(job.output)
    write_table(output, NAME, found.table)
    pictures = _worst_pictures(output, job, found, told, sides)
    title = f"{told['a']['name']} and {told['b']['name']}"
    write_document(output, NAME, title, comparison_blocks(found, told, pictures))
    facts = {**found.as_dict(), "sides": dict(told), "worst_pictures": pictures, "output": output.shown_url}
    write_facts(output, NAME, facts)
    return facts


def _worst_pictures(
    output: Storage,
    job: ComparisonJob,
    found: Comparison,
    told: Mapping[str, dict[str, Any]],
    sides: Sequence[Measured],
) -> list[str]:
    """A strip per regression; an empty path where a picture is no longer there."""
    output.delete_tree(PICTURES)
    shown = panels(told)
    trees = {"input": Storage(job.against), **{s: Storage(side.tree) for s, side in zip("AB", sides, strict=True)}}
    paths = []
    for place, each in enumerate(found.worst):
        names = {"input": each.input_path, "A": each.path_a, "B": each.path_b}
        try:
            faces = [decode(trees[panel].read_bytes(decode_name(names[panel]))).pixels for panel in shown]
        except (StorageError, DecodeError) as error:
            _log.warning("no picture of %s in the comparison: %s", each.key, error)
            paths.append("")
            continue
        paths.append(f"{PICTURES}/{place + 1:02}.jpg")
        output.write_atomic(paths[-1], picture_strip(faces, _matrix(sides[1].evaluation, each)))
    return paths


def _matrix(evaluation: Evaluation, each: Regression) -> NDArray[np.float64] | None:
    """From the picture to the face's crop; None where the picture is the crop."""
    faces = evaluation.faces
    row = faces.filter(pc.and_(pc.equal(faces["key"], each.key), pc.equal(faces["face"], each.face)))
    numbers = row["matrix"][0].as_py()
    return None if numbers is None else np.array(numbers, np.float64).reshape(2, 3)
