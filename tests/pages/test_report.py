"""The report: totals are the ledger's, hostile names stay text, private means no pixels, and its size is bounded."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from archive_maker import HOSTILE, STAGES, Archive, mixed, noise, scored

from infra.ledger import sql
from infra.ledger.rows import Event
from infra.storage.storage import Storage
from tasks.archive.books import OUTCOMES
from tasks.pages.run import collect
from tasks.pages.run.choice import GALLERY
from tasks.pages.run.page import write_report
from tasks.pages.shared.shell import plain_page
from tasks.pages.shared.steps import decision_of


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


def test_every_file_has_one_outcome():
    data = mixed().collect().data
    assert data.books.found == 16
    assert data.outcomes == {
        "restored": 6, "fallback": 2, "left_alone": 3, "rejected_identity": 1, "skipped": 1, "failed": 1,
        "quarantined": 1, "pending": 1,
    }  # fmt: skip
    assert data.books.balances
    assert data.books.gone == 1
    assert data.reasons["ok"] == 6
    assert sum(data.reasons.values()) == data.books.found


def test_every_listed_file_has_the_outcome_that_it_is_counted_under():
    collected = mixed().collect()
    listed = [record.outcome for record in collected.files]
    assert {outcome: listed.count(outcome) for outcome in OUTCOMES} == collected.data.outcomes


def test_faces_are_counted_once_per_picture_not_per_copy():
    assert {k: v for k, v in mixed().collect().data.faces.items() if v} == {
        "restored": 10, "fallback": 4, "rejected_identity": 1,
    }  # fmt: skip


def test_the_page_shows_an_equation_that_adds_up(tmp_path):
    collected = mixed().collect()
    page = collected.write(tmp_path)
    numbers = [int(n) for n in re.findall(r"\d+", Tags(page.html).texts["equation"])]
    assert numbers == [16, *(collected.data.outcomes[o] for o in OUTCOMES)]
    assert numbers[0] == sum(numbers[1:])
    assert sum(n for _, _, n in page.payload["outcomes"]) == collected.data.books.found


def test_books_that_do_not_balance_are_an_alarm(tmp_path):
    collected = mixed().collect()
    assert "do not balance" not in collected.write(tmp_path).html
    collected.data = replace(collected.data, books=replace(collected.data.books, found=17))
    assert "do not balance" in collected.write(tmp_path).html


def test_report_json_is_the_summary_that_scripts_know(tmp_path):
    collected = mixed().collect()
    assert write_report(collected.data, collected.histories, Storage(tmp_path), None) == "report/index.html"
    told = collected.write(tmp_path).json
    assert told["schema"] == 1
    assert sum(told["outcomes"].values()) == told["found"] == 16
    assert {t["path"] for t in told["troubles"]} == {"lost/person.jpg", "broken.jpg", "shut.jpg"}
    assert told["facts"]["started"] == "2026-11-20T22:00:00+00:00"
    assert told["facts"]["finished"] is None


def test_hostile_names_stay_text(tmp_path):
    archive = Archive()
    for name in HOSTILE:
        archive.add(name, "restored")
    page = archive.collect(source="/x/<script>alert(3)</script>", links={"Prefect": "javascript:alert(4)"}).write(
        tmp_path
    )
    tags = Tags(page.html)
    assert set(page.rows["path"]) == set(HOSTILE)
    assert [tag for tag, _ in tags.elements].count("script") == 2
    assert "img" not in {tag for tag, _ in tags.elements}
    assert not any(name.startswith("on") for _, attributes in tags.elements for name in attributes)
    assert not any((a.get("href") or "").startswith("javascript") for _, a in tags.elements)
    assert not re.search(rb"[<>&]", (page.folder / "data/rows.js").read_bytes())


def test_the_page_asks_no_network(tmp_path):
    page = scored(30).collect().write(tmp_path, noise)
    assert not re.search(r"https?://", page.html)
    loads = [a for tag, a in Tags(page.html).elements if a.get("src") or (tag == "link" and a["href"] != "data:,")]
    assert loads == []
    policy = next(a["content"] for t, a in Tags(page.html).elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_a_link_to_the_run_is_a_link(tmp_path):
    page = mixed().collect(links={"Prefect run": "http://127.0.0.1:4200/runs/flow-run/1"}).write(tmp_path)
    assert ("a", {"href": "http://127.0.0.1:4200/runs/flow-run/1", "rel": "noreferrer"}) in Tags(page.html).elements


def test_five_thousand_files_stay_below_the_limit(tmp_path):
    page = scored(5000).collect().write(tmp_path, noise)
    assert len(page.html.encode()) <= 200_000
    assert sum(path.stat().st_size for path in page.folder.rglob("*") if path.is_file()) <= 20_000_000
    assert len(page.rows["path"]) == len(page.details()) == 5000
    views = [view for view in page.rows["view"] if view is not None]
    assert len(views) == GALLERY
    for _, _, _, before, after in views:
        assert (page.folder / before).exists()
        assert (page.folder / after).exists()


def test_what_there_is_no_room_for_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(collect, "LISTED", 40)
    archive = Archive()
    for k in range(100):
        archive.add(f"{k}.jpg", problem="corrupt", problem_text="broken at byte 9")
        archive.add(f"{k}.txt", problem="not_an_image")
    page = archive.collect().write(tmp_path)
    assert len(page.rows["path"]) == len(page.json["troubles"]) == 40
    assert set(page.rows["code"]) == {"corrupt"}
    assert "And 60 more" in page.html
    assert "lists 40 of 200 files" in page.html


def test_beyond_a_sample_only_troubles_are_listed_and_told_as_such(monkeypatch, tmp_path):
    monkeypatch.setattr(sql, "_GROUP_BYTES", 1)
    archive = scored(300)
    for k in range(20):
        archive.add(f"lost {k}.jpg", "rejected_identity", "identity_lost")
    collected = archive.collect("outcome = 'rejected_identity'", sample=1)
    files = collected.files
    assert sum(record.outcome == "rejected_identity" for record in files) == 20
    sampled = sum(record.outcome == "restored" for record in files)
    assert 20 < sampled < 300  # a bucket of four
    assert 0.1 < collected.data.facts.sample < 0.6
    assert sum(collected.data.distributions[0].after) == sampled
    assert collected.data.outcomes["restored"] == 300
    assert "a sample of" in collected.write(tmp_path).html


def test_private_archives_show_no_pixel(tmp_path):
    collected = scored(20).collect()
    assert list(collected.write(tmp_path, noise).folder.glob("pictures/*"))
    page = collected.write(tmp_path)
    for path in page.folder.rglob("*"):
        assert path.suffix != ".jpg"
        assert not path.is_file() or not re.search(b"data:image|base64|JFIF", path.read_bytes())
    assert "holds no pixel" in page.html


def test_an_earlier_page_leaves_nothing_behind(tmp_path):
    scored(450).collect().write(tmp_path, noise)
    (tmp_path / "report/own notes.txt").write_text("kept")
    page = scored(20).collect().write(tmp_path)
    assert [path.name for path in sorted((page.folder / "data").iterdir())] == ["details-0000.js", "rows.js"]
    assert (page.folder / "own notes.txt").exists()


def test_what_was_not_measured_is_never_zero(tmp_path):
    archive = Archive()
    image_id = archive.add("a.jpg", "restored")
    archive.event(image_id, 0, "evaluate", {"quality.final": float("nan")}, device_ms=None)
    collected = archive.collect()
    record = collected.files[0]
    assert (record.before, record.after, record.identity, record.seconds) == (None, None, None, None)
    assert collected.data.distributions == ()
    assert [s.rate for s in collected.data.stages] == [None] * len(STAGES)
    page = collected.write(tmp_path)
    assert list(page.rows["values"].values()) == [[None]] * 6
    assert "not measured" in Tags(page.html).texts["time"]
    assert page.json["stages"][-1]["seconds"] is None


def test_half_measured_faces_do_not_pull_the_mean_down():
    archive = Archive()
    image_id = archive.add("a.jpg", "restored", faces=2)
    archive.event(image_id, 0, "evaluate", {"quality.input": 0.4, "quality.final": 0.8})
    archive.event(image_id, 1, "evaluate", {"quality.input": 0.6})
    collected = archive.collect()
    (record,), (quality,) = collected.files, collected.data.distributions
    assert record.before == pytest.approx(0.5)
    assert record.after == pytest.approx(0.8)
    assert (quality.before_count, quality.after_count) == (2, 1)


def test_names_of_metrics_of_old_and_of_today_are_one_measure():
    archive = Archive()
    old, new = (archive.add(path, "restored") for path in ("a.jpg", "b.jpg"))
    archive.event(old, 0, "detect_align", {"quality.aligned": 0.1})
    archive.event(old, 0, "evaluate", {"quality.input": 0.4, "quality.final": 0.8})
    archive.event(new, 0, "evaluate", {"quality.aligned": 0.5, "quality.restored": 0.7})
    collected = archive.collect()
    assert [(f.before, f.after) for f in collected.files] == [(0.4, 0.8), (0.5, 0.7)]
    (quality,) = collected.data.distributions
    assert (quality.before_count, quality.after_count) == (2, 2)  # a face counts once, by what measured it last
    assert (quality.measure.before, quality.measure.after) == ("quality.aligned", "quality.restored")


def test_a_metric_that_was_taken_twice_is_the_later_stages():
    archive = Archive()
    image_id = archive.add("a.jpg", "restored")
    archive.event(image_id, 0, "evaluate", {"quality.restored": 0.8})
    archive.event(image_id, 0, "restore", {"quality.aligned": 0.4, "quality.restored": 0.6})
    collected = archive.collect()
    assert [(f.before, f.after) for f in collected.files] == [(0.4, 0.8)]
    assert collected.data.distributions[0].after_count == 1


def test_histograms_hold_every_measured_face():
    data = scored(700).collect().data
    quality = next(d for d in data.distributions if d.measure.name == "quality")
    assert sum(quality.before) == sum(quality.after) == 700
    assert quality.before_mean == pytest.approx(np.mean([(k * 37 % 101) / 101 for k in range(700)]))


def test_gallery_is_bounded_and_holds_both_ends():
    archive = scored(1000)
    archive.add("rejected.jpg", "rejected_identity", "identity_lost")
    files = archive.collect().files
    shown = [f for f in files if f.chosen]
    assert len(shown) == GALLERY
    assert {f.outcome for f in shown} == {"restored", "rejected_identity"}
    everything = [f for f in files if f.gain is not None]
    for extreme in (min, max):
        assert extreme(f.gain for f in shown if f.gain is not None) == extreme(f.gain for f in everything)
    assert len({f.file.image_id for f in shown}) == len(shown)


def test_of_copies_one_is_pictured(tmp_path):
    page = mixed().collect().write(tmp_path, noise)
    copies = {"copy.jpg", "restored/0.jpg"}
    shown = dict(zip(page.rows["path"], page.rows["view"], strict=True))
    pictured = [shown[path] is not None for path in copies]
    assert sorted(pictured) == [False, True]


def test_lower_may_be_better(tmp_path):
    archive = Archive()
    for k, (before, after) in enumerate(((9.0, 4.0), (4.0, 9.0))):
        archive.event(archive.add(f"{k}.jpg", "restored"), 0, "evaluate", {"niqe.input": before, "niqe.final": after})
    assert archive.collect().write(tmp_path).json["rankings"]["lost_most"] == ["1.jpg"]


def test_rankings_name_the_slowest_and_the_least_alike(tmp_path):
    collected = scored(300).collect()
    page, files = collected.write(tmp_path), {f.file.path: f for f in collected.files}
    slowest = [files[path].seconds for path in page.json["rankings"]["slowest"]]
    assert slowest == sorted((f.seconds for f in files.values()), reverse=True)[:10]
    alike = [files[path].identity for path in page.json["rankings"]["least_alike"]]
    assert alike == sorted(f.identity for f in files.values())[:10]
    assert [page.rows["path"][n] for n in page.payload["rankings"]["slowest"]] == page.json["rankings"]["slowest"]


def test_stages_count_this_run_only():
    archive = Archive()
    image_id = archive.add("a.jpg", "restored")
    archive.event(image_id, 0, "restore", attempt=2)
    archive.event(image_id, 1, "restore", state="skipped", code="gate_not_met")
    archive.event(image_id, 0, "evaluate", run_id="an earlier run")
    stages = archive.collect(stage_seconds={"restore": 4.0}).data.stages
    restore, evaluate = stages[1], stages[4]
    assert (restore.faces, restore.skipped, restore.retried, restore.rate) == (1, 1, 1, 0.25)
    assert (evaluate.faces, evaluate.rate) == (0, None)


def test_a_sample_of_stage_rows_is_called_one(tmp_path):
    collected = scored(3).collect()
    assert "a sample of" not in collected.write(tmp_path).html
    collected.data = replace(collected.data, facts=replace(collected.data.facts, sample=0.05))
    assert "a sample of 5 %" in collected.write(tmp_path).html


def test_a_run_that_did_nothing_says_so(tmp_path):
    archive = Archive()
    archive.event(archive.add("a.jpg", "restored"), 0, "restore", run_id="an earlier run")
    assert "had nothing to do" in archive.collect().write(tmp_path).html


def test_an_empty_archive_says_so(tmp_path):
    page = Archive().collect().write(tmp_path)
    assert "The archive is empty" in page.html
    assert "list" not in Tags(page.html).texts


def test_details_tell_stages_decisions_and_faces(tmp_path):
    archive = Archive()
    image_id = archive.add("a.jpg", "fallback", "fallback_blend")
    archive.event(image_id, 0, "evaluate", {"quality.final": 0.5})
    tried = {"verdict": "blend_0.7", "tried": {"restored": 0.3}, "matrix": [[1.0, 0.0, 0.0]] * 2}
    archive.event(image_id, 0, "identity", {"identity.restored": 0.5}, "done_fallback", "fallback_blend", detail=tried)
    collected = archive.collect()
    (face,) = collected.files[0].details
    assert face.outcome == "fallback"
    assert [s.stage for s in face.steps] == ["identity", "evaluate"]
    assert decision_of(face.steps[0]) == {"verdict": "blend_0.7", "tried": {"restored": 0.3}}
    assert face.metrics == {"identity.restored": 0.5, "quality.restored": 0.5}
    (told,) = collected.write(tmp_path).details()
    number, outcome, steps, scores = told[-1][0]
    assert (number, OUTCOMES[outcome]) == (0, "fallback")
    assert steps[0][:3] == ["identity", "done_fallback", "fallback blend"]
    assert scores == [["Similarity to the input", None, 0.5, True], ["Compact quality", None, 0.5, False]]


def test_a_detail_that_is_no_json_number_reaches_no_page():
    step = Event(image_id="a", state="done", detail={"far": float("inf"), "near": 1.5})
    assert decision_of(step) == {"near": 1.5}


def test_a_page_of_words_has_the_shell_and_no_script():
    html = plain_page("a <b> & c", "<h2>Heading</h2>")
    tags = Tags(html)
    assert "script" not in {tag for tag, _ in tags.elements}
    assert {"h1", "h2", "style"} <= {tag for tag, _ in tags.elements}
    assert html.count("a &lt;b&gt; &amp; c") == 2
    assert not re.search(r"https?://", html)
