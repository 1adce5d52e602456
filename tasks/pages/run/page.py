"""The report of a run: report/index.html, rows and details in chunks, pictures, report.json for programs."""

from __future__ import annotations

from collections.abc import Iterable

from infra.ledger import History
from tasks.archive import OUTCOMES, REASONS
from tasks.pages.run.collect import listed
from tasks.pages.run.pictures import RESTORED, Album, PixelLoader
from tasks.pages.run.records import EVERYTHING, TROUBLES, FileRecord, ReportData, ReportFile, Trouble
from tasks.pages.shared.distributions import histogram
from tasks.pages.shared.measures import score_lines, title
from tasks.pages.shared.records import FaceRecord
from tasks.pages.shared.shell import PICTURES, Folder, Site
from tasks.pages.shared.steps import short, step_lines
from tasks.pages.shared.words import OUTCOME_WORDS

PICTURE_BYTES = 12_000_000
"""All JPEGs of a report together."""


def write_report(
    data: ReportData, histories: Iterable[History], folder: Folder, load_pixels: PixelLoader | None
) -> str:
    """Writes the report of `data` and of the files in `histories`; returns the page's path in the folder.

    Without `load_pixels` no pixel is written, and those of an earlier report go. Raises what the folder raises.
    """
    site = Site(folder)
    album = Album(load_pixels, len(data.choice.gallery), PICTURE_BYTES) if load_pixels else None
    listing = _Listing(data, site, album)
    for record in listed(data, histories):
        listing.add(record)
    site.chunk("rows", listing.columns())
    site.write("report.json", _report_file(data, listing).to_json())
    return site.finish(
        "run",
        _payload(data, listing, pictures=album is not None),
        data=data,
        facts=data.facts,
        words=OUTCOME_WORDS,
        histograms=[histogram(d) for d in data.distributions],
        pictured=listing.pictured,
        sampled=any(why != EVERYTHING for why in data.choice.gallery.values()),
        listed=listing.count,
        troubles_left_out=data.troubles - len(listing.troubles),
    )


class _Listing:
    """Takes the listed files one by one: what the list needs of them is kept, details and pictures are written at once.

    The page's rows are columns: `view` is the first view of a pictured file, the reason why it has none, or None where
    it is not in the gallery; `gain` is positive where it became better.
    """

    _TOLD = ("path", "outcome", "code", "reason", "faces", "view")
    _NUMBERS = ("before", "after", "gain", "identity", "seconds", "change")

    def __init__(self, data: ReportData, site: Site, album: Album | None) -> None:
        self._site, self._album = site, album
        self._sign = -1.0 if data.measure and not data.measure.higher_is_better else 1.0
        self._chosen = data.choice.images
        self._rows: list[tuple[object, ...]] = []
        self._numbers: list[tuple[float | None, ...]] = []
        self.troubles: list[Trouble] = []
        self.pictured = 0
        self.first: dict[str, tuple[int, str]] = {}
        """Image that was chosen → row and path of its first file."""

    @property
    def count(self) -> int:
        """Files listed so far."""
        return len(self._rows)

    def columns(self) -> dict[str, object]:
        """What sorting, filtering, cards and rows need of every file."""
        told = {name: [row[n] for row in self._rows] for n, name in enumerate(self._TOLD)}
        values = {name: [row[n] for row in self._numbers] for n, name in enumerate(self._NUMBERS)}
        return {**told, "values": values}

    def add(self, record: FileRecord) -> None:
        """Adds the next file."""
        file, code, reason = record.file, record.reason_code, record.reason
        if file.image_id in self._chosen:
            self.first.setdefault(file.image_id, (self.count, file.path))
        if record.outcome in TROUBLES:
            self.troubles.append(Trouble(file.path, record.outcome, code, reason, file.image_id))
        views = self._views(record)
        shown = views[0] if isinstance(views, list) else views
        gain = None if record.gain is None else self._sign * record.gain
        self._rows.append((file.path, OUTCOMES.index(record.outcome), code, reason, record.faces, shown))
        self._numbers.append(
            tuple(map(short, (record.before, record.after, gain, record.identity, record.seconds, record.change)))
        )
        facts = [file.image_id, file.format, file.width, file.height, file.bytes, record.chosen]
        self._site.detail([*facts, views if isinstance(views, list) else [], [_face(f) for f in record.details]])

    def _views(self, record: FileRecord) -> list[list[object]] | str | None:
        """[label, width, height, before, after] of every view, written; else the reason, or None where none is due."""
        if not record.chosen or self._album is None:
            return None
        made = self._album.pictures(record)
        if not made.views:
            return made.problem or "no room left in this page"
        self.pictured += 1
        written: list[list[object]] = []
        for n, view in enumerate(made.views):
            name = f"{PICTURES}/{record.file.image_id[:24]}-{n}"
            self._site.write(f"{name}-before.jpg", view.before)
            if view.after is not None:
                self._site.write(f"{name}-after.jpg", view.after)
            after = None if view.after is None else f"{name}-after.jpg"
            written.append([view.label, view.width, view.height, f"{name}-before.jpg", after])
        return written


def _report_file(data: ReportData, listing: _Listing) -> ReportFile:
    """The report for programs."""
    return ReportFile(
        run_id=data.facts.run_id,
        found=data.books.found,
        outcomes=data.outcomes,
        reasons=data.reasons,
        faces=data.faces,
        seconds=data.facts.seconds,
        gone=data.books.gone,
        facts=data.facts,
        stages=data.stages,
        distributions=data.distributions,
        rankings={name: tuple(listing.first[i][1] for i in order) for name, order in data.choice.rankings.items()},
        troubles=tuple(listing.troubles),
    )


def _payload(data: ReportData, listing: _Listing, *, pictures: bool) -> dict[str, object]:
    """What the page's script needs at once."""
    measured = title(data.measure.name) if data.measure else ""
    columns = [
        ["gain", f"{measured}, gain", "higher", "difference"],
        ["after", measured, "higher" if not data.measure or data.measure.higher_is_better else "lower", "metric"],
        ["identity", "Least similarity", "higher", "metric"],
        ["seconds", "Device time", "lower", "time"],
    ]
    columns = columns if data.measure else columns[2:]
    if data.change:
        columns.append(["change", "Change", "lower", "amount"])
    return {
        "columns": columns,
        "order": "-change" if data.change else "",
        "measure": measured,
        "outcomes": [[o, OUTCOME_WORDS[o].label, n] for o, n in data.outcomes.items()],
        "troubles": [OUTCOMES.index(outcome) for outcome in TROUBLES],
        "reasons": {code: [n, REASONS[code][1] if code in REASONS else ""] for code, n in data.reasons.items()},
        "rankings": {name: [listing.first[i][0] for i in order] for name, order in data.choice.rankings.items()},
        "pictures": pictures,
        "restored": f"../{RESTORED}/",
    }


def _face(face: FaceRecord) -> list[object]:
    """A face in the page's data: its steps, and its scores as [title, before, after, alone]."""
    scores = [[line.title, short(line.before), short(line.after), line.alone] for line in score_lines(face.metrics)]
    return [*step_lines(face), scores]
