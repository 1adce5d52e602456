"""The report: totals are the ledger's, hostile names stay text, private means no pixels, and its size is bounded."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from tasks.archive.books import OUTCOMES
from tasks.pages.run.collect import GALLERY, collect_run
from tasks.pages.run.page import PAGE_BYTES, as_json, page, write_report
from tasks.pages.run.pictures import pictures_of
from tasks.pages.run.records import RunFacts

HOSTILE = (
    "</script><script>alert(1)</script>.jpg",
    "<img src=x onerror=alert(2)>.png",
    "a\"b'c&amp;\u2028\u202egpj.exe",
    "caf%E9 100%25.jpg",
)
STAGES = ("detect_align", "restore", "identity", "paste_back", "evaluate")


class Folder:
    """A workspace in memory."""

    def __init__(self):
        self.files = {}

    def write_atomic(self, path, data):
        self.files[path] = bytes(data)


class Tags(HTMLParser):
    """Every element with its attributes, and the text of those with an id."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input"):
            self._open.append(dict(attrs).get("id"))

    def handle_endtag(self, tag):
        self._open.pop()

    def handle_data(self, data):
        for name in filter(None, self._open):
            self.texts[name] = self.texts.get(name, "") + data


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


class Archive:
    """Ledger rows of an archive that a test describes file by file."""

    def __init__(self):
        self.inventory, self.commits, self.events = [], [], []

    def add(self, path, outcome=None, code="ok", faces=1, image_id=None, **more):
        image_id = image_id or f"id {len(self.inventory):06d}"
        row = {"path": path, "image_id": image_id, "bytes": 1000, "format": "JPEG", "width": 64, "height": 48}
        self.inventory.append(row | {"problem": None, "problem_text": None, "present": True} | more)
        if outcome is not None:
            detail = {"outcome": outcome, "faces": {outcome: faces} if faces else {}}
            self.commits.append(self._row(image_id, -1, "commit", code, detail=json.dumps(detail)))
        return image_id

    def event(self, image_id, face, stage, metrics=None, state="done", code="ok", **more):
        self.events.append(self._row(image_id, face, stage, code, state, metrics=metrics or {}) | more)

    def _row(self, image_id, face, stage, code, state="done", metrics=None, detail=None):
        return {
            "image_id": image_id, "face": face, "stage": stage, "state": state, "reason_code": code, "reason": "",
            "metrics": metrics or {}, "detail": detail, "device_ms": 10.0, "attempt": 1, "run_id": "r1",
        }  # fmt: skip

    def collect(self, **more):
        return collect_run(facts(**more), self.inventory, self.commits, self.events)


def mixed():
    archive = Archive()
    for outcome, code, n in (("restored", "ok", 5), ("fallback", "fallback_blend", 2), ("left_alone", "no_face", 3)):
        for k in range(n):
            archive.add(f"{outcome}/{k}.jpg", outcome, code, faces=0 if outcome == "left_alone" else 2)
    archive.add("lost/person.jpg", "rejected_identity", "identity_lost")
    archive.add("copy.jpg", image_id="id 000000")
    archive.add("broken.jpg", problem="corrupt", problem_text="ends early")
    archive.add("notes.jpg", problem="not_an_image")
    archive.add("shut.jpg", problem="unreadable", problem_text="permission denied")
    archive.add("later.jpg")
    archive.add("was here.jpg", "restored", present=False)
    return archive


def scored(n):
    """`n` restored files with scores that differ from file to file."""
    archive = Archive()
    for k in range(n):
        image_id = archive.add(f"box {k % 7}/{k:05d}.jpg", "restored")
        before, after = (k * 37 % 101) / 101, (k * 53 % 103) / 103
        archive.event(image_id, 0, "restore", device_ms=float(k % 97))
        archive.event(image_id, 0, "identity", {"identity.restored": (k * 29 % 107) / 107})
        archive.event(image_id, 0, "evaluate", {"quality.input": before, "quality.final": after}, code="scored")
    return archive


def noise(root, path):
    return np.random.default_rng(len(path)).integers(0, 256, (200, 260, 3), dtype=np.uint8)


def payload(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def test_every_file_has_one_outcome():
    data = mixed().collect()
    assert data.found == 16
    assert data.outcomes == {
        "restored": 6, "fallback": 2, "left_alone": 3, "rejected_identity": 1, "skipped": 1, "failed": 1,
        "quarantined": 1, "pending": 1,
    }  # fmt: skip
    assert data.balanced
    assert data.gone == 1
    assert data.reasons["ok"] == 6
    assert sum(data.reasons.values()) == data.found


def test_faces_are_counted_once_per_picture_not_per_copy():
    assert {k: v for k, v in mixed().collect().faces.items() if v} == {
        "restored": 10, "fallback": 4, "rejected_identity": 1,
    }  # fmt: skip


def test_the_page_shows_an_equation_that_adds_up():
    data = mixed().collect()
    numbers = [int(n) for n in re.findall(r"\d+", Tags(page(data, {})).texts["equation"])]
    assert numbers == [16, *(data.outcomes[o] for o in OUTCOMES)]
    assert numbers[0] == sum(numbers[1:])
    assert sum(n for _, _, n in payload(page(data, {}))["outcomes"]) == data.found


def test_books_that_do_not_balance_are_an_alarm():
    from dataclasses import replace

    data = mixed().collect()
    assert "do not balance" not in page(data, {})
    assert "do not balance" in page(replace(data, found=data.found + 1), {})


def test_report_json_is_the_summary_that_scripts_know():
    folder = Folder()
    assert write_report(mixed().collect(), folder, thumbnails=False) == "report/index.html"
    told = json.loads(folder.files["report/report.json"])
    assert told["schema"] == 1
    assert sum(told["outcomes"].values()) == told["found"] == 16
    assert {t["path"] for t in told["troubles"]} == {"lost/person.jpg", "broken.jpg", "shut.jpg"}


def test_hostile_names_stay_text():
    archive = Archive()
    for name in HOSTILE:
        archive.add(name, "restored")
    html = page(archive.collect(source="/x/<script>alert(3)</script>", links={"Prefect": "javascript:alert(4)"}), {})
    tags = Tags(html)
    assert [row[0] for row in payload(html)["files"]] == list(HOSTILE)
    assert [tag for tag, _ in tags.elements].count("script") == 2
    assert "img" not in {tag for tag, _ in tags.elements}
    assert not any(name.startswith("on") for _, attributes in tags.elements for name in attributes)
    assert not any((a.get("href") or "").startswith("javascript") for _, a in tags.elements)


def test_the_page_asks_no_network():
    html = page(scored(30).collect(), pictures_of(scored(30).collect().files, noise, 300_000))
    assert not re.search(r"https?://", html)
    loads = [a for tag, a in Tags(html).elements if a.get("src") or (tag == "link" and a["href"] != "data:,")]
    assert loads == []
    policy = next(a["content"] for t, a in Tags(html).elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_a_link_to_the_run_is_a_link():
    html = page(mixed().collect(links={"Prefect run": "http://127.0.0.1:4200/runs/flow-run/1"}), {})
    assert ("a", {"href": "http://127.0.0.1:4200/runs/flow-run/1", "rel": "noreferrer"}) in Tags(html).elements


def test_five_thousand_files_stay_below_the_limit():
    folder = Folder()
    data = scored(5000).collect()
    write_report(data, folder, thumbnails=True, load_pixels=noise)
    html = folder.files["report/index.html"].decode()
    assert len(html.encode()) <= PAGE_BYTES
    told = payload(html)
    assert len(told["files"]) == 5000
    assert len(told["pictures"]) == GALLERY
    assert all(p["views"] for p in told["pictures"].values())


def test_what_there_is_no_room_for_is_said():
    archive = Archive()
    for k in range(20_000):
        archive.add(f"{'deep/' * 40}{k}.jpg", problem="corrupt", problem_text="broken at byte " + "9" * 60)
    html = page(archive.collect(), {})
    assert len(html.encode()) <= PAGE_BYTES
    listed = len(payload(html)["files"])
    assert 5000 < listed < 20_000
    assert f"And {20_000 - listed:,} more" in html


def test_private_archives_show_no_pixel():
    folder = Folder()

    def forbidden(root, path):
        raise AssertionError("pixels were read for a private report")

    write_report(scored(20).collect(), folder, thumbnails=False, load_pixels=forbidden)
    for text in folder.files.values():
        assert b"data:image" not in text
        assert b"base64" not in text


def test_thumbnails_without_a_loader_are_refused():
    with pytest.raises(ValueError, match="load_pixels"):
        write_report(mixed().collect(), Folder(), thumbnails=True)


def test_what_was_not_measured_is_never_zero():
    archive = Archive()
    image_id = archive.add("a.jpg", "restored")
    archive.event(image_id, 0, "evaluate", {"quality.final": float("nan")}, device_ms=None)
    data = archive.collect()
    record = data.files[0]
    assert (record.before, record.after, record.identity, record.seconds) == (None, None, None, None)
    assert data.distributions == ()
    assert [s.rate for s in data.stages] == [None] * len(STAGES)
    html = page(data, {})
    assert payload(html)["files"][0][5:9] == [None] * 4
    assert "not measured" in Tags(html).texts["time"]
    assert as_json(data)["stages"][-1]["seconds"] is None


def test_half_measured_faces_do_not_pull_the_mean_down():
    archive = Archive()
    image_id = archive.add("a.jpg", "restored", faces=2)
    archive.event(image_id, 0, "evaluate", {"quality.input": 0.4, "quality.final": 0.8})
    archive.event(image_id, 1, "evaluate", {"quality.input": 0.6})
    data = archive.collect()
    assert data.files[0].before == pytest.approx(0.5)
    assert data.files[0].after == pytest.approx(0.8)
    assert (data.distributions[0].before_count, data.distributions[0].after_count) == (2, 1)


def test_histograms_hold_every_measured_face():
    data = scored(700).collect()
    quality = next(d for d in data.distributions if d.measure.name == "quality")
    assert sum(quality.before) == sum(quality.after) == 700
    assert quality.before_mean == pytest.approx(np.mean([(k * 37 % 101) / 101 for k in range(700)]))


def test_gallery_is_bounded_and_holds_both_ends():
    archive = scored(1000)
    archive.add("rejected.jpg", "rejected_identity", "identity_lost")
    data = archive.collect()
    shown = [f for f in data.files if f.chosen]
    assert len(shown) == GALLERY
    assert {f.outcome for f in shown} == {"restored", "rejected_identity"}
    everything = [f for f in data.files if f.gain is not None]
    for extreme in (min, max):
        assert extreme(f.gain for f in shown if f.gain is not None) == extreme(f.gain for f in everything)
    assert len({f.image_id for f in shown}) == len(shown)


def test_lower_may_be_better():
    archive = Archive()
    for k, (before, after) in enumerate(((9.0, 4.0), (4.0, 9.0))):
        archive.event(archive.add(f"{k}.jpg", "restored"), 0, "evaluate", {"niqe.input": before, "niqe.final": after})
    data = archive.collect()
    assert [data.files[n].path for n in data.rankings["lost_most"]] == ["1.jpg"]


def test_rankings_name_the_slowest_and_the_least_alike():
    data = scored(300).collect()
    slowest = [data.files[n].seconds for n in data.rankings["slowest"]]
    assert slowest == sorted((f.seconds for f in data.files), reverse=True)[:10]
    alike = [data.files[n].identity for n in data.rankings["least_alike"]]
    assert alike == sorted(f.identity for f in data.files)[:10]


def test_stages_count_this_run_only():
    archive = Archive()
    image_id = archive.add("a.jpg", "restored")
    archive.event(image_id, 0, "restore", attempt=2)
    archive.event(image_id, 1, "restore", state="skipped", code="gate_not_met")
    archive.event(image_id, 0, "evaluate", run_id="an earlier run")
    restore, evaluate = (archive.collect(stage_seconds={"restore": 4.0}).stages[n] for n in (1, 4))
    assert (restore.faces, restore.skipped, restore.retried, restore.rate) == (1, 1, 1, 0.25)
    assert (evaluate.faces, evaluate.rate) == (0, None)


def test_a_sample_of_stage_rows_is_called_one():
    assert "a sample of" not in page(scored(3).collect(), {})
    assert "a sample of 5 %" in page(scored(3).collect(sample=0.05), {})


def test_a_run_that_did_nothing_says_so():
    archive = Archive()
    archive.event(archive.add("a.jpg", "restored"), 0, "restore", run_id="an earlier run")
    assert "had nothing to do" in page(archive.collect(), {})


def test_an_empty_archive_says_so():
    html = page(collect_run(facts(), [], [], []), {})
    assert "The archive is empty" in html
    assert "files" not in Tags(html).texts


def test_arrow_tables_and_lists_tell_the_same():
    archive = scored(50)
    schema = pa.schema(
        [("image_id", pa.string()), ("face", pa.int16()), ("stage", pa.string()), ("state", pa.string()),
         ("reason_code", pa.string()), ("reason", pa.string()), ("metrics", pa.map_(pa.string(), pa.float64())),
         ("detail", pa.string()), ("device_ms", pa.float64()), ("attempt", pa.int16()), ("run_id", pa.string())]
    )  # fmt: skip
    rows = [row | {"metrics": list(row["metrics"].items())} for row in archive.events]
    tables = [pa.Table.from_pylist(archive.inventory), pa.Table.from_pylist(rows, schema)]
    assert collect_run(facts(), tables[0], archive.commits, tables[1]) == archive.collect()


def test_rows_that_run_dry_are_refused():
    archive = mixed()
    with pytest.raises(TypeError, match="twice"):
        collect_run(facts(), iter(archive.inventory), archive.commits, archive.events)


def test_details_tell_stages_decisions_and_faces():
    archive = Archive()
    image_id = archive.add("a.jpg", "fallback", "fallback_blend")
    archive.event(image_id, 0, "evaluate", {"quality.final": 0.5})
    tried = {"verdict": "blend_0.7", "tried": {"restored": 0.3}, "matrix": [[1.0, 0.0, 0.0]] * 2}
    archive.event(
        image_id, 0, "identity", {"identity.restored": 0.5}, "done_fallback", "fallback_blend", detail=json.dumps(tried)
    )
    (face,) = archive.collect().files[0].details
    assert face.outcome == "fallback"
    assert [s.stage for s in face.steps] == ["identity", "evaluate"]
    assert face.steps[0].decision == {"verdict": "blend_0.7", "tried": {"restored": 0.3}}
    assert face.metrics == {"identity.restored": 0.5, "quality.final": 0.5}
