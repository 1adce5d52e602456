"""Fills an evaluation's page from its folder, from the ledger of the run that restored, and from the pictures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import quote

from flows.restoration import PROBLEMS, REPORT, levels, run_facts, shown_pixels
from flows.session import RunFacts, last_run_facts
from infra.ledger import Histories, Ledger
from infra.problems import ForPeople
from infra.storage import Storage, decode_name
from tasks.measuring import FACTS, Evaluation, EvaluationFacts, read_evaluation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tasks.pages.evaluation import Key, PixelLoader, Restoring, StageLoader

SAID = "report/report.json"


def is_evaluation(url: str) -> bool:
    """Whether an evaluation lies in a folder."""
    return Storage(url).exists(FACTS)


def rewrite_evaluation_report(url: str, thumbnails: bool | None) -> str:
    """Writes the page of the evaluation at a path or URL anew; see `write_evaluation_report`."""
    return write_evaluation_report(Storage(url), thumbnails)


def write_evaluation_report(folder: Storage, pictures: bool | None = None) -> str:
    """Writes the page of the evaluation in `folder` anew; returns its address.

    `pictures`: None means as the page before it, else as the run that restored, else yes. Without, no pixel is
    written and those of an earlier page go. Raises EvaluationMissing where there is no evaluation.
    """
    from tasks.pages.evaluation import Album, Surroundings, sheet_of, write_page
    from tasks.pages.shared import Site

    evaluation = read_evaluation(folder)
    workspace = Storage(decode_name(url)) if (url := evaluation.facts.workspace) else None
    run, why = _last_run(workspace)
    wanted = _wants_pictures(folder, run) if pictures is None else pictures
    restoring = _restoring(evaluation, workspace, run) if workspace and run else None
    site = Site(folder)
    album = Album(site, _loader(evaluation.facts), _stage_loader(workspace)) if wanted else None
    around = Surroundings(why, _trees(folder, evaluation.facts))
    page = write_page(sheet_of(evaluation, restoring), site, album, around)
    return str(folder.local_path(page)) if folder.is_local else f"{folder.shown_url}/{page}"


def _last_run(workspace: Storage | None) -> tuple[RunFacts | None, str]:
    """What the run that restored wrote down about itself, or why that is not known."""
    if workspace is None:
        return (
            None,
            "the restored pictures are no workspace of this program, so that there is no ledger of their making",
        )
    try:
        Ledger.open(workspace, create=False)
        return last_run_facts(workspace), ""
    except ForPeople as error:
        return None, f"the workspace {workspace.shown_url} could not be asked: {error}"


def _wants_pictures(folder: Storage, run: RunFacts | None) -> bool:
    if folder.exists(SAID):
        from tasks.pages.evaluation import PageFacts

        return PageFacts.model_validate_json(folder.read_bytes(SAID)).pictures
    return run.with_pictures if run else True


def _restoring(evaluation: Evaluation, workspace: Storage, run: RunFacts) -> Restoring:
    from tasks.pages.evaluation import restoring_of, wanted_of
    from tasks.recipes import Condition

    ledger, wanted = Ledger.open(workspace, create=False), wanted_of(evaluation)
    conditions = {stage.id: Condition(stage.when) for stage in run.recipe.stage if stage.when}
    histories = Histories(ledger, "image_id IN (SELECT unnest(?::VARCHAR[]))", [list(wanted.inputs)])
    return restoring_of(run_facts(run), conditions, ledger.books(PROBLEMS).reasons, histories, wanted)


def _loader(facts: EvaluationFacts) -> PixelLoader:
    places = {"restored": facts.restored, "input": facts.against, "truth": facts.truth}
    trees = {side: Storage(decode_name(url)) for side, url in places.items() if url}
    return lambda side, path: shown_pixels(trees[side], path)


def _stage_loader(workspace: Storage | None) -> StageLoader:
    def load(uri: str, key: Key) -> NDArray[np.uint8] | None:
        from tasks.worker import intermediate

        found = intermediate.read(workspace, uri) if workspace else None
        for name in ("restored", "aligned"):
            try:
                return levels(found.image(f"{key[0]}:{key[1]}", name)) if found else None
            except KeyError:
                continue
        return None

    return load


def _trees(folder: Storage, facts: EvaluationFacts) -> dict[str, str] | None:
    """Addresses of the trees relative to the page, where everything is on this machine's disk."""
    places = {"restored": facts.restored, "input": facts.against, "truth": facts.truth}
    found = {side: Storage(decode_name(url)) for side, url in places.items() if url}
    if not folder.is_local or not all(tree.is_local for tree in found.values()):
        return None
    page = folder.local_path(REPORT).parent
    return {side: quote(os.fsencode(os.path.relpath(tree.local_path(), page))) + "/" for side, tree in found.items()}
