"""A ledger of an archive that a test describes file by file, and the report that is made of it."""

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from flows.restoration.totals import PROBLEMS
from infra.ledger.histories import Histories
from infra.ledger.ledger import Ledger
from infra.ledger.rows import Event, FileRow
from infra.ledger.schema import bucket_of
from infra.storage.storage import Storage
from tasks.pages.run.collect import collect_run, listed
from tasks.pages.run.page import write_report
from tasks.pages.run.records import ReportData
from tasks.pages.shared.records import RunFacts

HOSTILE = (
    "</script><script>alert(1)</script>.jpg",
    "<img src=x onerror=alert(2)>.png",
    "a\"b'c&amp;\u2028\u202egpj.exe",
    "caf%E9 100%25.jpg",
)
STAGES = ("detect_align", "restore", "identity", "paste_back", "evaluate")
BUCKETS = 4


def facts(**more):
    known = {
        "run_id": "r1",
        "source": "/archive/town hall",
        "workspace": "/workspace",
        "recipe": "compact",
        "recipe_digest": "d" * 64,
        "started": datetime(2026, 11, 20, 22, 0, tzinfo=UTC),
        "seconds": 75.0,
        "stages": STAGES,
    }
    return RunFacts(**known | more)


@dataclass
class Collected:
    """A report and what it is written from."""

    data: ReportData
    histories: list

    @property
    def files(self):
        """Listed files by path, as the page shows them where it sorts by path."""
        return sorted(listed(self.data, self.histories), key=lambda record: record.file.path)

    def write(self, root, load_pixels=None):
        """Writes the page below `root`."""
        write_report(self.data, self.histories, Storage(root), load_pixels)
        return Page(Path(root) / "report")


class Page:
    """A written page: its HTML, its payload and its chunks."""

    def __init__(self, folder):
        self.folder = folder
        self.html = (folder / "index.html").read_text("utf-8")
        self.json = json.loads((folder / "report.json").read_text())

    @property
    def payload(self):
        return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', self.html, re.S)[1])

    @property
    def rows(self):
        return self.chunk("rows")

    def chunk(self, name):
        text = (self.folder / f"data/{name}.js").read_text("utf-8")
        return json.loads(re.fullmatch(r"take\('[\w-]+',(.*)\)", text, re.S)[1])

    def details(self):
        return [line for path in sorted(self.folder.glob("data/details-*.js")) for line in self.chunk(path.stem)]


class Archive:
    """Rows of a ledger; `collect` writes them and makes the report's data of them."""

    def __init__(self):
        self.inventory, self.events = [], []

    def add(self, path, outcome=None, code="ok", faces=1, image_id=None, **more):
        image_id = image_id or hashlib.sha256(f"{len(self.inventory)} {path}".encode()).hexdigest()
        self.inventory.append(
            FileRow(path=path, image_id=image_id, bytes=1000, format="JPEG", width=64, height=48, **more)
        )
        if outcome is not None:
            detail = {"outcome": outcome, "faces": {outcome: faces} if faces else {}}
            self.event(image_id, -1, "commit", code=code, detail=detail, outcome=outcome)
        return image_id

    def event(self, image_id, face, stage, metrics=None, state="done", code="ok", run_id="r1", **more):
        known = {"reason_code": code, "metrics": metrics or {}, "device_ms": 10.0, "run_id": run_id}
        self.events.append(Event(image_id=image_id, face=face, stage=stage, state=state, **known | more))

    def ledger(self, root):
        ledger = Ledger.open(Storage(root), buckets=BUCKETS)
        if self.inventory:
            ledger.append_inventory(self.inventory, "r1")
        segments = defaultdict(list)
        for event in self.events:
            segments[event.run_id, event.stage, bucket_of(event.image_id, BUCKETS)].append(event)
        for (run_id, stage, bucket), events in segments.items():
            ledger.append_events(events, run_id=run_id, token=1, stage=stage, bucket=bucket)
        return ledger

    def collect(self, beyond="false", sample=200_000, **more):
        with TemporaryDirectory() as root:
            ledger = self.ledger(root)
            histories = list(Histories(ledger, beyond, sample=sample))
            books, faces = ledger.books(PROBLEMS), ledger.faces()
        return Collected(collect_run(facts(**more), books, faces, histories), histories)


def mixed():
    """Sixteen files with every outcome, a copy among them, and one that is gone."""
    archive = Archive()
    for outcome, code, n in (("restored", "ok", 5), ("fallback", "fallback_blend", 2), ("left_alone", "no_face", 3)):
        for k in range(n):
            archive.add(f"{outcome}/{k}.jpg", outcome, code, faces=0 if outcome == "left_alone" else 2)
    archive.add("lost/person.jpg", "rejected_identity", "identity_lost")
    archive.add("copy.jpg", image_id=archive.inventory[0].image_id)
    archive.add("broken.jpg", problem="corrupt", problem_text="ends early")
    archive.add("notes.jpg", problem="not_an_image")
    archive.add("shut.jpg", problem="unreadable", problem_text="permission denied")
    archive.add("later.jpg")
    archive.add("was here.jpg", "restored", present=False)
    return archive


def scored(n):
    """`n` restored files with scores that differ from file to file, under the names of a ledger of old."""
    archive = Archive()
    for k in range(n):
        image_id = archive.add(f"box {k % 7}/{k:05d}.jpg", "restored")
        before, after = (k * 37 % 101) / 101, (k * 53 % 103) / 103
        archive.event(image_id, 0, "restore", device_ms=float(k % 97))
        archive.event(image_id, 0, "identity", {"identity.restored": (k * 29 % 107) / 107})
        scores = {"quality.input": before, "quality.final": after, "change.final": (k * 41 % 89) / 890}
        archive.event(image_id, 0, "evaluate", scores, code="scored")
    return archive


def noise(root, path):
    """Pixels for any path."""
    return np.random.default_rng(len(path)).integers(0, 256, (200, 260, 3), dtype=np.uint8)
