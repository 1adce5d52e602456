"""The page of an evaluation: report/index.html, its rows and details in chunks, pictures beside it.

It knows nothing of ledgers; pictures come from an Album.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from infra.facts import Facts
from tasks.archive import OUTCOMES
from tasks.pages.evaluation import tables
from tasks.pages.evaluation.charts import plane_of
from tasks.pages.evaluation.pictures import ENLARGED, LARGE, PICTURED, SMALL, Album, Shown
from tasks.pages.evaluation.sheet import DETAILED, IDENTITY, EvaluatedFace, Sheet
from tasks.pages.shared.distributions import histogram
from tasks.pages.shared.shell import Site
from tasks.pages.shared.steps import short, step_lines
from tasks.pages.shared.words import OUTCOME_WORDS
from tasks.stage import WHOLE_IMAGE


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the page says beside the numbers: why there is no ledger, and where the trees lie.

    `trees` maps restored, input and truth to addresses relative to the page, where they lie on the same disk.
    """

    no_ledger: str = ""
    trees: Mapping[str, str] | None = None


class PageFacts(Facts):
    """report.json beside the page: whether it shows pictures, how many faces there are and how many it lists."""

    pictures: bool
    faces: int
    listed: int


def write_page(sheet: Sheet, site: Site, album: Album | None, around: Surroundings) -> str:
    """Writes the page with its chunks and pictures (none without an album); returns the page's path in the storage."""
    shown = album.make(sheet) if album else {}
    listed = sheet.listed.tolist()
    faces = list(sheet.faces(sheet.listed))
    site.chunk("rows", _rows(sheet, shown, faces))
    detailed = set(sheet.need[:DETAILED].tolist())
    for place, face in zip(listed, faces, strict=True):
        steps = list(_steps(sheet, place)) if place in detailed else []
        site.detail(_detail(face, shown.get(place, Shown("")), steps))
    total = sheet.evaluation.faces.num_rows
    said = PageFacts(pictures=album is not None, faces=total, listed=len(listed))
    site.write("report.json", said.to_json())
    evaluation, restoring = sheet.evaluation, sheet.restoring
    facts = evaluation.facts
    return site.finish(
        "evaluation",
        _payload(sheet, faces, around, pictures=album is not None),
        tables=tables,
        evaluation=evaluation,
        facts=facts,
        overall=facts.overall,
        sheet=sheet,
        histograms=[(histogram(d), tables.title_in(evaluation, d.measure.name)) for d in sheet.distributions],
        identities=[(chart, histogram(chart.distribution)) for chart in sheet.identities],
        has_thresholds=IDENTITY in facts.metrics,
        planes=[plane_of(gate) for gate in restoring.gates] if restoring else [],
        run=restoring.facts if restoring else None,
        no_ledger=around.no_ledger,
        started=datetime.fromisoformat(facts.started) if facts.started else None,
        said=said,
        pictured=PICTURED,
        crowded=total > ENLARGED,
        enlarged=sum(1 for each in shown.values() if each.large),
    )


def _payload(sheet: Sheet, faces: list[EvaluatedFace], around: Surroundings, *, pictures: bool) -> dict[str, object]:
    """What the page's script needs at once."""
    return {
        "columns": [[c.name, c.title, c.better, c.kind, c.of] for c in sheet.columns],
        "subsets": list(dict.fromkeys(face.subset for face in faces)),
        "problems": {code: tables.problem_words(code) for code in {face.problem: None for face in faces} if code},
        "judged": bool((sheet.failed >= 0).any()),
        "outcomes": [[outcome, OUTCOME_WORDS[outcome].label] for outcome in OUTCOMES],
        "pictures": pictures,
        "sides": {"small": SMALL, "large": LARGE},
        "trees": around.trees,
        "ledger": sheet.restoring is not None,
    }


def _rows(sheet: Sheet, shown: Mapping[int, Shown], faces: list[EvaluatedFace]) -> dict[str, object]:
    """What sorting, filtering and the cards need of every listed face, column by column."""
    subsets = {name: n for n, name in enumerate(dict.fromkeys(face.subset for face in faces))}
    pictures = [shown.get(place, Shown("")) for place in sheet.listed.tolist()]
    return {
        "path": [face.path for face in faces],
        "face": [face.face for face in faces],
        "subset": [subsets[face.subset] for face in faces],
        "problem": [face.problem for face in faces],
        "failed": sheet.failed[sheet.listed].tolist(),
        "picture": [picture.name if picture.panels else "" for picture in pictures],
        "panels": [len(picture.panels) for picture in pictures],
        "large": [int(picture.large) for picture in pictures],
        "values": {c.name: [short(value) for value in c.values[sheet.listed].tolist()] for c in sheet.columns},
    }


def _detail(face: EvaluatedFace, picture: Shown, steps: list[list[object]]) -> list[object]:
    """What the page tells of a face when it is opened; the script reads it by position."""
    paths = [face.input_path, face.truth_path]
    hashes = [face.restored_sha256, face.input_sha256, face.truth_sha256]
    return [face.problem_text, *paths, *hashes, picture.problem, picture.strip, list(picture.stages), steps]


def _steps(sheet: Sheet, place: int) -> Iterator[list[object]]:
    """The face's steps in the restoring run, then those of its picture as a whole."""
    key = sheet.keys[place]
    if key is not None and sheet.restoring is not None:
        found = sheet.restoring.records.get(key[0], ())
        for number in (key[1], WHOLE_IMAGE):
            yield from (step_lines(record) for record in found if record.face == number)
