"""Two restorations of the same pictures, held against each other: restore what is a recipe, measure, compare, tell."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from prefect import flow

from flows.evaluation import Measured, effort_facts, evaluate, measured_before
from flows.jobs import ComparisonJob, Side, evaluation_of, restored_tree, two_sides
from flows.restoration import restore
from flows.session import write_document, write_facts, write_table
from infra.storage import Storage, StorageError, decode_name
from tasks.comparing import ComparisonFacts, Letter, Regression, SideFacts, compare
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
) -> ComparisonFacts:
    """Compares two sides face by face; each is a workspace, a folder, an evaluation, `recipe:NAME` or the originals.

    What a recipe has restored and what was measured is not done again. Returns what comparison.json holds.
    """
    return compare_sides(ComparisonJob.of(**locals()))


def compare_sides(job: ComparisonJob) -> ComparisonFacts:
    """The whole comparison: table, pictures, Markdown, page and, last, the JSON file.

    Raises ComparisonError where there is nothing to compare.
    """
    sides = measured_alike(two_sides(job), job)
    found = compare(*(side.evaluation for side in sides), confidence=job.confidence)
    output = Storage(job.output)
    told: dict[Letter, SideFacts] = {"a": _told(sides[0], job), "b": _told(sides[1], job)}
    facts = ComparisonFacts(
        **found.model_dump(),
        sides=told,
        worst_pictures=_worst_pictures(job, found.worst, panels(told), sides),
        output=output.shown_url,
    )
    write_table(output, NAME, found.table)
    write_document(output, NAME, f"{told['a'].name} and {told['b'].name}", comparison_blocks(facts))
    write_facts(output, NAME, facts)
    return facts


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


def _told(measured: Measured, job: ComparisonJob) -> SideFacts:
    side, effort = measured.side, effort_facts(measured, job.price_per_gpu_hour)
    where, tree = Storage(side.url).shown_url, Storage(measured.tree).shown_url
    recipe = f", restored with the recipe {effort.recipe} on {effort.device}" if effort else ""
    what = f"the originals themselves, {where}" if side.kind == "originals" else f"{where}{recipe}"
    return SideFacts(kind=side.kind, name=side.name, what=what, restored=tree, effort=effort)


def _worst_pictures(
    job: ComparisonJob, worst: Sequence[Regression], shown: Sequence[str], sides: Sequence[Measured]
) -> tuple[str, ...]:
    """Writes a strip per regression and returns their paths; an empty one where a picture is no longer there."""
    output = Storage(job.output)
    output.delete_tree(PICTURES)
    trees = {"input": Storage(job.against), **{s: Storage(side.tree) for s, side in zip("AB", sides, strict=True)}}
    paths: list[str] = []
    for place, each in enumerate(worst):
        names = {"input": each.input_path or "", "A": each.path_a, "B": each.path_b}
        try:
            faces = [decode(trees[panel].read_bytes(decode_name(names[panel]))).pixels for panel in shown]
        except (StorageError, DecodeError) as error:
            _log.warning("no picture of %s in the comparison: %s", each.key, error)
            paths.append("")
            continue
        paths.append(f"{PICTURES}/{place + 1:02}.jpg")
        output.write_atomic(paths[-1], picture_strip(faces, _matrix(sides[1].evaluation, each)))
    return tuple(paths)


def _matrix(evaluation: Evaluation, each: Regression) -> NDArray[np.float64] | None:
    """From the picture to the face's crop; None where the picture is the crop."""
    faces = evaluation.faces
    row = faces.filter(pc.and_(pc.equal(faces["key"], each.key), pc.equal(faces["face"], each.face)))
    numbers = row["matrix"][0].as_py()
    return None if numbers is None else np.array(numbers, np.float64).reshape(2, 3)
