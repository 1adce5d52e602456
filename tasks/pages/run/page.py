"""The report of a run: one static HTML page that opens from disk without a network, and report.json beside it.

Everything is inside the page: style, script, data, small pictures. File names are hostile: they reach the page only
as escaped JSON that the script sets as text, or through Jinja's escaping. The page never exceeds PAGE_BYTES.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from tasks.archive import OUTCOMES, REASONS
from tasks.pages.run.pictures import RESTORED, Pictures, PixelLoader, pictures_of
from tasks.pages.run.records import EVERYTHING, MISSING, TROUBLES, FaceRecord, FileRecord, ReportData
from tasks.pages.run.words import FILTERS, OUTCOME_WORDS, histogram, title

FOLDER = "report"
PAGES = Path(__file__).parents[1]
PAGE_BYTES = 20_000_000
PICTURE_BYTES = 11_000_000
"""JPEG bytes; in the page they take a third more."""
LIST_BYTES = 2_400_000
DETAIL_BYTES = 2_400_000


class Writer(Protocol):
    """What the report needs of a storage (infra.storage.Storage fulfils it)."""

    def write_atomic(self, path: str, data: bytes) -> None:
        """Writes the whole file or nothing."""


def write_report(
    data: ReportData, workspace: Writer, *, thumbnails: bool, load_pixels: PixelLoader | None = None
) -> str:
    """Writes `report/index.html` and `report/report.json` into the workspace; returns the page's path in it.

    With `thumbnails` the gallery's pictures come from `load_pixels`; without, no pixel enters the page.
    Raises ValueError where pictures are asked for and nothing can load them, and what the storage raises.
    """
    if thumbnails and load_pixels is None:
        raise ValueError("thumbnails need pixels: expected load_pixels, got None; pass it, or thumbnails=False")
    pictures = pictures_of(data.files, load_pixels, PICTURE_BYTES) if thumbnails and load_pixels else {}
    workspace.write_atomic(f"{FOLDER}/report.json", json.dumps(as_json(data), indent=1).encode())
    workspace.write_atomic(f"{FOLDER}/index.html", page(data, pictures).encode())
    return f"{FOLDER}/index.html"


def as_json(data: ReportData) -> dict[str, Any]:
    """The report for programs: totals as `mpsr run --json` prints them, then facts, scores, stages, troubles."""
    facts = asdict(data.facts)
    for name in ("started", "finished"):
        facts[name] = facts[name].isoformat() if facts[name] else None
    return {
        "schema": 1,
        "run_id": data.facts.run_id,
        "found": data.found,
        "outcomes": dict(data.outcomes),
        "reasons": dict(data.reasons),
        "faces": dict(data.faces),
        "seconds": data.facts.seconds,
        "gone": data.gone,
        "facts": facts,
        "stages": [asdict(s) | {"rate": s.rate} for s in data.stages],
        "distributions": [asdict(d) for d in data.distributions],
        "rankings": {name: [data.files[n].path for n in order] for name, order in data.rankings.items()},
        "troubles": [_trouble(f) for f in data.files if f.outcome in TROUBLES],
    }


def _trouble(record: FileRecord) -> dict[str, Any]:
    names = ("path", "outcome", "reason_code", "reason", "image_id")
    return {name: getattr(record, name) for name in names}


def page(data: ReportData, pictures: Mapping[int, Pictures]) -> str:
    """The HTML page; at most PAGE_BYTES of UTF-8."""
    payload, listed, troubles_listed = _payload(data, pictures)
    troubles = sum(data.outcomes[outcome] for outcome in TROUBLES)
    return template("run/run.html.jinja").render(
        data=data,
        facts=data.facts,
        words=OUTCOME_WORDS,
        histograms=[histogram(d) for d in data.distributions],
        shown=len(pictures),
        sampled=any(data.files[n].chosen != EVERYTHING for n in pictures),
        listed=listed,
        troubles=troubles,
        troubles_left_out=troubles - troubles_listed,
        missing=MISSING,
        style=own_text("shared/report.css"),
        script=own_text("shared/shared.js", "run/run.js"),
        payload=Markup(script_json(payload)),
    )


def template(name: str) -> Template:
    """A page's template, named from the folder of pages: everything that it is given is escaped."""
    environment = Environment(loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined)
    environment.filters.update(FILTERS)
    return environment.get_template(name)


def own_text(*names: str) -> Markup:
    """Styles or scripts below the folder of pages, one after another, as they are."""
    return Markup("\n".join((PAGES / name).read_text("utf-8") for name in names))


def script_json(value: Any) -> str:
    """JSON that no HTML parser can leave: `<`, `>`, `&` and every character beyond ASCII are escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _payload(data: ReportData, pictures: Mapping[int, Pictures]) -> tuple[dict[str, Any], int, int]:
    """The page's data, with as many files and details as there is room for: troubles first, then the gallery."""
    must = {*pictures, *(n for order in data.rankings.values() for n in order)}
    files = _within(LIST_BYTES, [(n, _line(f)) for n, f in sorted_by_need(data, must)])
    details = [(n, [face_line(face) for face in data.files[n].details or ()]) for n in files if data.files[n].details]
    place = {n: row for row, n in enumerate(sorted(files))}
    payload = {
        "outcomes": [[o, OUTCOME_WORDS[o].label, data.outcomes[o]] for o in OUTCOMES],
        "reasons": {code: [count, REASONS[code][1] if code in REASONS else ""] for code, count in data.reasons.items()},
        "files": [files[n] for n in sorted(files)],
        "details": {place[n]: d for n, d in _within(DETAIL_BYTES, details).items()},
        "pictures": {place[n]: _views(p) for n, p in pictures.items() if n in place},
        "rankings": {name: [place[n] for n in order if n in place] for name, order in data.rankings.items()},
        "stages": list(data.facts.stages),
        "measure": asdict(data.measure) | {"title": title(data.measure.name)} if data.measure else None,
        "restored": f"../{RESTORED}/",
    }
    return payload, len(files), sum(1 for n in files if data.files[n].outcome in TROUBLES)


def sorted_by_need(data: ReportData, must: set[int]) -> list[tuple[int, FileRecord]]:
    """Gallery and extremes, then troubles, then the rest, each in the order of the files."""
    return sorted(enumerate(data.files), key=lambda nf: (nf[0] not in must, nf[1].outcome not in TROUBLES, nf[0]))


def _within(budget: int, rows: list[tuple[int, Any]]) -> dict[int, Any]:
    """The first rows whose JSON fits the budget together."""
    kept: dict[int, Any] = {}
    for key, row in rows:
        budget -= len(script_json(row)) + 8
        if budget < 0:
            break
        kept[key] = row
    return kept


def _line(f: FileRecord) -> list[Any]:
    """One file in the page's data; the script reads it by position."""
    return [
        f.path,
        OUTCOMES.index(f.outcome),
        f.reason_code,
        f.reason,
        f.faces,
        short(f.before),
        short(f.after),
        short(f.identity),
        short(f.seconds),
        f.format,
        f.width,
        f.height,
        f.bytes,
        f.chosen,
        f.image_id,
    ]


def face_line(face: FaceRecord) -> list[Any]:
    """A face and its steps in a page's data; the script reads it by position."""
    steps = [
        [s.stage, s.state, s.reason_code, s.reason, short(s.milliseconds), s.attempt, dict(s.decision)]
        for s in face.steps
    ]
    return [face.face, OUTCOMES.index(face.outcome), {k: short(v) for k, v in face.metrics.items()}, steps]


def short(value: float | None) -> float | None:
    """Four digits that matter, so that pages stay small."""
    return None if value is None else float(f"{value:.4g}")


def _views(pictures: Pictures) -> dict[str, Any]:
    return {
        "problem": pictures.problem,
        "views": [[v.label, v.width, v.height, _data_uri(v.before), _data_uri(v.after)] for v in pictures.views],
    }


def _data_uri(jpeg: bytes | None) -> str | None:
    return None if jpeg is None else "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
