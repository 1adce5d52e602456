"""The page of an evaluation: report/index.html, data in chunks that it loads when they are needed, pictures beside it.

It opens from disk without a network: chunks are scripts, since a page on disk may not fetch. File names are hostile:
they reach the page only as escaped JSON that the script sets as text, or through Jinja's escaping. The module knows
nothing of ledgers; pictures come from tasks.evaluation_report_pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup

from tasks.archive import OUTCOMES, REASONS
from tasks.measuring import METRICS, PROBLEMS, PUBLISHED, Published
from tasks.pages.evaluation.charts import plane_of
from tasks.pages.evaluation.pictures import ENLARGED, LARGE, PICTURED, SMALL, STRIP, Folder, Shown
from tasks.pages.evaluation.sheet import DETAILED, IDENTITY, Sheet
from tasks.pages.run.page import FOLDER, face_line, own_text, script_json, short, template
from tasks.pages.run.records import MISSING, FaceRecord
from tasks.pages.run.words import OUTCOME_WORDS, histogram, title

CHUNK = 200
"""Faces whose details come in one file."""
CHALLENGE = "ntire2025-realworld-face"
"""The data set that the published numbers are of."""
MPSR = "MiPortrait"
"""The team in the challenge's table whose entry MPSR is."""


@dataclass(frozen=True)
class Total:
    """A metric over the whole set, beside the published number; None: not measured, not published."""

    name: str
    title: str
    better: str
    value: float | None
    published: float | None


@dataclass(frozen=True)
class Surroundings:
    """What the page says beside the numbers: why there is no ledger or picture, and where the trees lie.

    `trees` maps restored, input and truth to addresses relative to the page, where they lie on the same disk.
    """

    no_ledger: str = ""
    pictures: bool = True
    trees: Mapping[str, str] | None = None


def write_page(sheet: Sheet, shown: Mapping[int, Shown], storage: Folder, around: Surroundings) -> str:
    """Writes the page and its chunks, drops chunks of an earlier page, and returns the page's path in the storage."""
    written: set[str] = set()

    def write(path: str, data: str) -> None:
        storage.write_atomic(f"{FOLDER}/{path}", data.encode())
        written.add(f"{FOLDER}/{path}")

    listed = sheet.listed.tolist()
    faces = f"take('faces',{script_json(_faces(sheet, shown, listed))})"
    stamp = hashlib.sha256(faces.encode()).hexdigest()[:12]
    write("data/faces.js", faces)
    for n, rows in enumerate(_chunks(sheet, shown, listed)):
        write(f"data/details-{n:04d}.js", f"take('details-{n:04d}',{script_json(rows)})")
    said = {"schema": 1, "pictures": around.pictures, "faces": sheet.evaluation.faces.num_rows, "listed": len(listed)}
    write("report.json", json.dumps(said))
    write("index.html", page(sheet, shown, around, stamp))
    for info in list(storage.walk(f"{FOLDER}/data")):
        if info.path not in written:
            storage.delete(info.path)
    return f"{FOLDER}/index.html"


def page(sheet: Sheet, shown: Mapping[int, Shown], around: Surroundings, stamp: str) -> str:
    """The HTML page: all totals, tables and charts, and what its script needs to load the rest."""
    facts, restoring = sheet.facts, sheet.restoring
    listed = len(sheet.listed)
    return template("evaluation/evaluation.html.jinja").render(
        facts=facts,
        sheet=sheet,
        overall=facts["overall"],
        totals=list(_totals(facts)),
        mpsr=next((row for row in PUBLISHED if row.team.startswith(MPSR)), None),
        published=PUBLISHED,
        metric_names=[name for name in facts["metrics"] if any(name in s["means"] for s in facts["subsets"].values())],
        score_missing=[_title(name) for name in facts["overall"]["score_missing"]],
        comparable=facts.get("dataset") == CHALLENGE,
        missing_metrics=[(_title(name), sentence) for name, sentence in facts["missing"].items()],
        problems=[(code, n, _reason(code)) for code, n in facts["problems"].items()],
        reasons=[(code, n, *_fate(code)) for code, n in restoring.reasons.items()] if restoring else [],
        histograms=[histogram(d) for d in sheet.distributions],
        spreads=list(sheet.spreads()),
        identities=[(chart, histogram(chart.distribution)) for chart in sheet.identities],
        identity=IDENTITY,
        planes=[plane_of(gate) for gate in restoring.gates] if restoring else [],
        run=restoring.facts if restoring else None,
        around=around,
        started=datetime.fromisoformat(facts["started"]) if facts.get("started") else None,
        faces=sheet.evaluation.faces.num_rows,
        listed=listed,
        limits={"pictured": PICTURED, "enlarged": ENLARGED},
        enlarged=sum(1 for s in shown.values() if s.large),
        missing=MISSING,
        style=own_text("shared/report.css", "evaluation/evaluation.css"),
        script=own_text("shared/shared.js", "evaluation/evaluation.js"),
        payload=Markup(script_json(_payload(sheet, around, listed, stamp))),
    )


def _reason(code: str) -> str:
    return PROBLEMS.get(code) or (REASONS[code][1] if code in REASONS else code)


def _fate(code: str) -> tuple[str, str, str]:
    """Outcome key, its words, and the reason's sentence."""
    outcome, sentence = REASONS.get(code, ("failed", code))
    return outcome, OUTCOME_WORDS[outcome].label, sentence


def _totals(facts: Mapping[str, Any]) -> Iterator[Total]:
    """Every metric that was computed or is missing, in the evaluation's order."""
    overall = facts["overall"]
    row = next((row for row in PUBLISHED if row.team.startswith(MPSR)), None)
    for name, said in facts["metrics"].items():
        value = overall.get("fid") if name == "fid" else overall["means"].get(name)
        yield Total(name, said.get("title") or _title(name), said.get("better", ""), value, _published(row, name))
    for name in facts["missing"]:
        if name not in facts["metrics"]:
            better = METRICS[name].better if name in METRICS else ""
            yield Total(name, _title(name), better, None, _published(row, name))


def _title(name: str) -> str:
    return METRICS[name].title if name in METRICS else title(name)


def _published(row: Published | None, name: str) -> float | None:
    value: float | None = getattr(row, name, None) if row else None
    return value


def _payload(sheet: Sheet, around: Surroundings, listed: int, stamp: str) -> dict[str, Any]:
    codes = dict.fromkeys(sheet.column("problem"))
    return {
        "listed": listed,
        "chunk": CHUNK,
        "stamp": stamp,
        "columns": [[c.name, c.title, c.better, c.kind, c.of] for c in sheet.columns],
        "subsets": list(dict.fromkeys(sheet.column("subset"))),
        "problems": {code: _reason(code) for code in codes if code},
        "judged": bool((sheet.failed >= 0).any()),
        "outcomes": [[outcome, OUTCOME_WORDS[outcome].label] for outcome in OUTCOMES],
        "pictures": around.pictures,
        "sides": {"small": SMALL, "large": LARGE, "strip": STRIP},
        "trees": around.trees,
        "ledger": sheet.restoring is not None,
    }


def _faces(sheet: Sheet, shown: Mapping[int, Shown], listed: list[int]) -> dict[str, Any]:
    """What sorting, filtering and the cards need of every listed face, column by column."""
    subsets = {name: n for n, name in enumerate(dict.fromkeys(sheet.column("subset")))}
    subset, problem, path, face = (sheet.column(name) for name in ("subset", "problem", "path", "face"))
    pictures = [shown.get(place, Shown("")) for place in listed]
    return {
        "path": [path[place] for place in listed],
        "face": [face[place] for place in listed],
        "subset": [subsets[subset[place]] for place in listed],
        "problem": [problem[place] for place in listed],
        "failed": [int(sheet.failed[place]) for place in listed],
        "picture": [p.name if p.panels else "" for p in pictures],
        "panels": [len(p.panels) for p in pictures],
        "large": [int(p.large) for p in pictures],
        "values": {c.name: [_number(c.values[place]) for place in listed] for c in sheet.columns},
    }


def _number(value: float) -> float | None:
    return None if value != value else short(float(value))  # nan


def _chunks(sheet: Sheet, shown: Mapping[int, Shown], listed: list[int]) -> Iterator[list[Any]]:
    """What the page tells of a face when it is opened, CHUNK faces at a time."""
    names = ("problem_text", "input_path", "truth_path", "restored_sha256", "input_sha256", "truth_sha256", "pair_id")
    columns = [sheet.column(name) for name in names]
    detailed = set(sheet.need[:DETAILED].tolist())
    for start in range(0, len(listed), CHUNK):
        rows = []
        for place in listed[start : start + CHUNK]:
            picture = shown.get(place, Shown(""))
            steps = [face_line(face) for face in _records(sheet, place)] if place in detailed else []
            told = [picture.problem, picture.strip, list(picture.stages), steps]
            rows.append([*(column[place] for column in columns), *told])
        yield rows


def _records(sheet: Sheet, place: int) -> list[FaceRecord]:
    """The face's steps in the restoring run, then those of its picture as a whole."""
    key = sheet.keys[place]
    if key is None or sheet.restoring is None:
        return []
    return sorted((r for r in sheet.restoring.records.get(key[0], ()) if r.face in (key[1], -1)), key=lambda r: -r.face)
