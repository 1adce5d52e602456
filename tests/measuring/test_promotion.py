"""The nightly gate: what it lets through, what it keeps, that no moment can lose a file, and the way back."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transitions import illegal_transitions

from flows.gate import journal as journals
from flows.gate.journal import Journal, Move
from flows.gate.moves import carry_out, deliver_kept, take_back
from flows.gate.words import markdown
from flows.jobs.data_set import JobError
from flows.session.session import Session
from infra.ledger.lease import Lease
from infra.ledger.ledger import Ledger
from infra.ledger.rows import Event, FileRow, events_of
from infra.settings import Promotion
from infra.storage.storage import Storage
from tasks.archive.books import VerdictDetail
from tasks.comparing.gate import Case, below_floors, decide
from tasks.measuring.files import COLUMNS, Evaluation, EvaluationFacts, MetricFacts, faces_schema
from tasks.recipes.recipe import COMMIT

BETTER = {"quality": "higher", "identity": "higher", "niqe": "lower", "sharpness": "higher"}


def evaluation(faces, missing=(), problems=None):
    """`faces`: (path, face) → {metric: value}."""
    metrics = sorted({name for values in faces.values() for name in values})
    rows = []
    for (path, face), values in faces.items():
        problem = (problems or {}).get((path, face), "")
        blank = dict.fromkeys(COLUMNS.names)
        row = {"path": path, "key": path.rpartition(".")[0], "face": face, "subset": "", "problem": problem}
        same = {"pair_id": path, "restored_sha256": path, "input_sha256": path, "problem_text": ""}
        rows.append(blank | row | same | {name: values.get(name) for name in metrics})
    table = pa.Table.from_pylist(rows, faces_schema(metrics))
    known = {name: MetricFacts(title=name, better=BETTER[name], digest="d") for name in metrics}
    return Evaluation(EvaluationFacts(metrics=known, missing=dict(missing)), table)


def archive(pictures=40, faces=2, **shift):
    """Faces with spread-out values, and the same ones with each metric moved by `shift`, here and there."""
    rng = np.random.default_rng(3)
    before, after = {}, {}
    for n in range(pictures):
        for face in range(faces):
            base = {"quality": 0.5 + 0.2 * rng.random(), "identity": 0.6 + 0.2 * rng.random(), "niqe": 5 + rng.random()}
            noise = {name: 0.01 * rng.standard_normal() for name in base}
            before[f"{n:03}.png", face] = base
            after[f"{n:03}.png", face] = {name: base[name] + noise[name] + shift.get(name, 0) for name in base}
    return before, after


def decided(before, after, **bounds):
    return decide(evaluation(before), evaluation(after), Promotion(**bounds))


def test_what_is_better_or_as_good_is_promoted():
    for shift in ({}, {"quality": 0.05}, {"niqe": -0.5}):
        decision = decided(*archive(**shift))
        assert decision.promote, decision.checks
        assert not decision.failing
        assert decision.faces == 80
        assert decision.kept_because(["007.png"]) is None
    assert set(decision.terms) == {"quality", "niqe"}


def test_a_planted_regression_is_caught_and_nothing_is_promoted():
    decision = decided(*archive(quality=-0.05))
    assert not decision.promote
    assert [check.name for check in decision.checks if not check.passed] == ["score"]
    assert decision.score[2] < decision.score[3] < -0.005, "the whole interval lies below the margin"
    assert "the run: score" in decision.kept_because(["007.png"])
    assert decided(*archive(quality=-0.05), margin=0.1).promote, "unless the bounds allow it"


def test_a_fall_that_cannot_be_told_from_none_counts_as_one():
    """Non-inferiority: it is not enough that no fall was shown."""
    before, after = archive(pictures=8, faces=1)
    rng = np.random.default_rng(1)
    for values in after.values():
        values["quality"] += 0.08 * rng.standard_normal()
    decision = decided(before, after, score_drop=1)
    assert decision.score[2] < -0.005 < decision.score[3]
    assert not decision.promote


@pytest.mark.parametrize(("margin", "promoted"), [(0.02 + 1e-7, True), (0.02 - 1e-4, False)])
def test_the_margin_is_met_to_the_edge(margin, promoted):
    before, _ = archive()
    after = {key: values | {"quality": values["quality"] - 0.02} for key, values in before.items()}
    for table in (before, after):
        for values in table.values():
            del values["niqe"]
    assert decided(before, after, margin=margin).promote is promoted


def test_too_few_pictures_say_nothing():
    decision = decided(*archive(pictures=5, quality=0.1))
    assert not decision.promote
    assert "fewer than 6" in decision.kept_because(["000.png"])


def test_a_planted_identity_swap_is_caught():
    before, after = archive(quality=0.05)
    after["005.png", 1]["identity"] = 0.05
    decision = decided(before, after)
    assert not decision.promote
    assert "0 → 1" in decision.kept_because(["001.png"])
    allowed = decided(before, after, identity_losses=1)
    assert allowed.promote
    assert allowed.kept_because(["001.png"]) is None
    assert "face 1: similarity" in allowed.kept_because(["005.png"]), "the picture with the swap stays what it was"
    assert set(allowed.failing) == {"005.png"}


def test_no_face_below_its_floor_and_no_face_falls_too_far():
    before, after = archive(quality=0.05)
    for path, face, values in (
        ("001.png", 0, {"quality": before["001.png", 0]["quality"] - 0.5}),
        ("002.png", 1, {"identity": before["002.png", 1]["identity"] - 0.25}),
    ):
        after[path, face] |= values
    before["003.png", 0] |= {"identity": 0.1}
    after["003.png", 0] |= {"identity": 0.2}  # below the floor, but better than it was
    before["004.png", 0] |= {"identity": 0.31}
    after["004.png", 0] |= {"identity": 0.3}  # on the floor
    decision = decided(before, after)
    assert decision.promote, decision.checks
    assert set(decision.failing) == {"001.png", "002.png"}
    assert "a fall of more than 0.1" in decision.failing["001.png"]
    assert "a fall of more than 0.2" in decision.failing["002.png"]


def test_identity_that_nobody_can_judge_stops_the_gate_unless_it_is_allowed():
    before, after = archive(quality=0.05)
    for table in (before, after):
        for values in table.values():
            del values["identity"]
    lacking = {"identity": "adaface_ir50_ms1mv2 is not here; `mpsr models pull adaface_ir50_ms1mv2`"}
    pair = evaluation(before, lacking), evaluation(after, lacking)
    assert "mpsr models pull" in decide(*pair, Promotion()).kept_because(["000.png"])
    assert decide(*pair, Promotion(without_identity=True)).promote


def test_without_a_measure_of_quality_nothing_is_promoted():
    faces = {(f"{n}.png", 0): {"sharpness": 5.0, "identity": 0.9} for n in range(20)}
    decision = decided(faces, faces)
    assert not decision.promote
    assert "no measure of quality" in decision.kept_because(["1.png"])


def test_what_was_not_measured_keeps_its_older_result():
    before, after = archive(quality=0.05)
    del after["001.png", 1]
    after["002.png", 0]["identity"] = None
    decision = decided(before, after)
    assert decision.promote
    assert "no counterpart" in decision.kept_because(["001.png"])
    assert "could not be measured" in decision.kept_because(["002.png"])
    assert "could not be measured" in decision.kept_because(["elsewhere.png"])
    unknown = evaluation({("a.png", -1): {"quality": None}}, problems={("a.png", -1): "no_face"})
    assert "no_face" in decide(unknown, unknown, Promotion()).failing["a.png"]


def test_one_metric_that_fails_on_a_face_is_left_out_on_both_sides():
    before, after = archive()
    after["001.png", 0]["niqe"] = None
    decision = decided(before, after)
    assert decision.promote
    assert decision.kept_because(["001.png"]) is None


def case(old=None, new=None, why="stale"):
    def verdict(text):
        return text and Event(image_id="id", state=text[0], output_sha256=text[1], reason="", reason_code="why")

    return Case("id", 0, ("a.png",), why, verdict(old), verdict(new))


def test_what_becomes_of_a_picture():
    good = decided(*archive())
    bad = decided(*archive(quality=-0.1))
    low = {"a.png": "face 0: similarity 0.1, below the floor of 0.3"}
    assert case(("done", "x"), ("done", "x")).settled(bad, {})[0] == "promote", "the same file"
    assert case(("done", "x"), ("quarantined", None)).settled(good, {})[0] == "keep"
    assert case(("done", "x"), ("done", "y")).settled(good, {})[0] == "keep", "it was not measured"
    assert case(("quarantined", None), ("done", "y")).settled(bad, {})[0] == "take", "there is nothing to lose"
    assert case(None, ("done", "y"), "new").settled(bad, low) == ("original", low["a.png"])
    assert case(None, ("quarantined", None), "new").settled(good, low)[0] == "take"


def test_floors_hold_for_new_pictures_too():
    faces = {("a.png", 0): {"identity": 0.9}, ("a.png", 1): {"identity": 0.29}, ("b.png", 0): {"identity": 0.3}}
    assert set(below_floors(evaluation(faces), Promotion())) == {"a.png"}


def test_the_detail_of_a_verdict_is_read_as_it_was_written():
    written = {"outcome": "restored", "faces": {"restored": 2}, "promotion": "p", "why": "better", "promoted": True}
    detail = VerdictDetail.from_detail(written)
    assert (detail.faces["restored"], detail.promoted, detail.kept, detail.made_in) == (2, True, False, None)
    assert detail.to_detail() == written
    assert VerdictDetail(outcome="left_alone").to_detail() == {"outcome": "left_alone", "faces": {}}
    assert VerdictDetail.from_detail({}) == VerdictDetail(), "a verdict that is only set aside says nothing"


OLD, NEW = "o" * 64, "n" * 64
PROMOTION = "20260101T020000-abcdef"
CANDIDATE = f"candidates/{NEW[:12]}"


class Site:
    """A workspace with results of an older recipe and a candidate beside it, made by hand."""

    def __init__(self, folder):
        self.folder, self.storage = folder / "ws", Storage(folder / "ws")
        self.source = Storage(folder / "archive")
        self.ledger = Ledger.open(self.storage, buckets=1)
        self.candidate = Ledger.open(Storage(self.folder / CANDIDATE), buckets=1)
        self.moves = []

    def fill(self):
        for run_id, digest in (("run-1", OLD), (PROMOTION, NEW)):
            facts = {"digests": {"detect_align": "same", "brighten": digest[0], COMMIT: digest}}
            self.storage.write_atomic(f"runs/{run_id}.json", json.dumps(facts).encode())
        actions = [("promote", True)] * 4 + [("keep", True), ("promote", False), ("take", False), ("original", False)]
        for n, (action, differs) in enumerate(actions):
            self.add(n, action, differs)
        numbered = list(enumerate(self.moves))
        of_old = {move.image_id: f"old {n}" for n, move in numbered if move.action in ("promote", "keep")}
        of_new = {move.image_id: f"new {n}" if move.differs else f"old {n}" for n, move in numbered}
        self.events(self.ledger, "run-1", OLD, of_old)
        self.events(self.candidate, "run-c", NEW, of_new)
        self.ledger.fold()
        verdicts = self.verdicts()
        self.moves = [replace(move, old=verdicts.get(move.image_id)) for move in self.moves]
        journals.write_moves(self.storage, PROMOTION, self.moves)
        journal = Journal(id=PROMOTION, digest=NEW, recipe="story", candidate=CANDIDATE, counts={"promote": 5})
        journals.write(self.storage, journal)
        return self

    def copy(self, folder):
        """The same in another place."""
        shutil.copytree(self.folder.parent, folder)
        twin = Site(folder)
        twin.moves = self.moves
        return twin

    def add(self, n, action, differs):
        """A picture with two paths where its number is even."""
        original = f"original {n}".encode()
        paths = [f"a/{n}%25é.png", f"b/{n}.png"][: 2 - n % 2]
        new = f"new {n}" if differs else f"old {n}"
        for path in paths:
            self.source.write_atomic(path.replace("%25", "%"), original)
            Storage(self.folder / CANDIDATE).write_atomic(f"restored/{path.replace('%25', '%')}", new.encode())
            if action in ("promote", "keep"):
                self.storage.write_atomic(f"restored/{path.replace('%25', '%')}", f"old {n}".encode())
        image_id = hashlib.sha256(original).hexdigest()
        self.now_at(paths, image_id)
        told = {"planned": "stale", "action": action, "why": "because", "differs": differs, "old": None}
        self.moves.append(Move(image_id=image_id, bucket=0, paths=tuple(paths), **told))

    def now_at(self, paths, image_id):
        """What a scan finds at some paths; no image_id: nothing."""
        present = image_id is not None
        rows = [FileRow(path=path, image_id=image_id or "00" * 32, bytes=1, present=present) for path in paths]
        self.ledger.append_inventory(rows, "run-1")

    def events(self, ledger, run_id, digest, results):
        """results: image_id → the text of the result."""
        told = {"run_id": run_id, "token": 1, "bucket": 0}
        same = [Event(image_id=image_id, state="done", reason_code="ok", stage_digest="same") for image_id in results]
        ledger.append_events(same, stage="detect_align", **told)
        faces = [replace(event, stage_digest=digest[0], face=0) for event in same]
        ledger.append_events(faces, stage="brighten", **told)
        said = {"stage_digest": digest, "outcome": "restored"}
        detail = VerdictDetail(outcome="restored", faces={"restored": 1}).to_detail()
        shas = [hashlib.sha256(text.encode()).hexdigest() for text in results.values()]
        verdicts = [replace(e, output_sha256=sha, detail=detail, **said) for e, sha in zip(same, shas, strict=True)]
        ledger.append_events(verdicts, stage=COMMIT, **told)

    @contextmanager
    def held(self):
        with Lease.acquire(self.storage, owner="test") as lease:
            yield Session("tonight", time.time(), self.storage, lease, self.ledger)

    def apply(self):
        with self.held() as session:
            carry_out(session, journals.find(self.storage, PROMOTION), self.source)

    def roll_back(self, again=False):
        with self.held() as session:
            return take_back(session, journals.find(self.storage, PROMOTION), again=again)

    def files(self):
        root = self.folder / "restored"
        return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}

    def state(self):
        """Files and last rows, without what time and repetition change."""
        names = ("image_id", "face", "stage", "stage_digest", "state", "reason_code", "detail", "output_sha256")
        rows = self.ledger.latest(columns=[*names, "outcome"]).to_pylist()
        return self.files(), rows, journals.find(self.storage, PROMOTION).state

    def verdicts(self):
        """image_id → the verdict."""
        return {event.image_id: event for event in events_of(self.ledger.latest(stage=COMMIT))}


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """A workspace with a promotion that is decided."""
    return Site(tmp_path_factory.mktemp("standing")).fill()


@pytest.fixture(scope="module")
def promoted(standing, tmp_path_factory):
    """The same with the promotion carried out."""
    site = standing.copy(tmp_path_factory.mktemp("promoted") / "it")
    site.apply()
    return site


@pytest.fixture
def site(standing, tmp_path):
    return standing.copy(tmp_path / "site")


def test_a_night_begun_by_an_earlier_version_is_brought_to_its_end(site):
    """Its journal called the schema otherwise and said less; its table held the older verdict as text within text."""
    move, path = site.moves[0], f"promotions/{PROMOTION}"
    old = {"image_id": move.image_id, "state": "done", "attempt": 2, "reason_code": "ok", "reason": None}
    old |= {"detail": json.dumps(move.older.detail), "output_uri": None, "output_sha256": move.older.output_sha256}
    old |= {"outcome": "restored", "stage_digest": OLD, "run_id": "run-1"}
    old |= {"token": move.older.token, "seq": move.older.seq}
    rows = pq.read_table(site.folder / f"{path}.parquet").to_pylist()
    first = {"image_id": move.image_id, "bucket": 0, "paths": list(move.paths), "planned": "stale", "action": "promote"}
    rows[0] = first | {"why": "because", "differs": True, "old": json.dumps(old)}
    pq.write_table(pa.Table.from_pylist(rows), site.folder / f"{path}.parquet")
    decision = {"promote": True, "checks": [{"name": "score", "passed": True, "said": "better"}], "faces": 8}
    decision |= {"score": [0.5, 0.6, None, None], "terms": ["niqe"], "pictures_failing": 0, "differences": []}
    journal = {"schema_version": 1, "id": PROMOTION, "digest": NEW, "recipe": "story", "candidate": CANDIDATE}
    journal |= {"counts": {"promote": 5}, "decision": decision, "bounds": {"margin": 0.01, "forgotten": True}}
    site.storage.write_atomic(f"{path}.json", json.dumps(journal).encode())
    stood = next(journals.read_moves(site.storage, PROMOTION, 1))[0].older
    assert (stood.attempt, stood.detail, stood.stage) == (2, {"outcome": "restored", "faces": {"restored": 1}}, COMMIT)
    site.apply()
    assert site.files()[move.paths[0].replace("%25", "%")] == "new 0"
    told = journals.told(site.storage.url).promotions[0]
    assert (told.state, told.promoted, told.refused_because, told.moved_on) == ("applied", True, (), 0)


def test_a_journal_holds_what_was_decided(tmp_path):
    decision = decided(*archive(quality=-0.05))
    journal = Journal(id=PROMOTION, digest=NEW, recipe="a|b", candidate=CANDIDATE, decision=decision.facts())
    Ledger.open(Storage(tmp_path))  # a folder without one is no workspace
    journals.write(Storage(tmp_path), journal)
    written = (tmp_path / f"promotions/{PROMOTION}.json").read_text()
    assert json.loads(written)["schema"] == 1
    assert journals.find(Storage(tmp_path), PROMOTION) == journal
    assert "score 0." in journals.told(str(tmp_path)).promotions[0].refused_because[0]
    assert "fell furthest" in markdown(journal)


def test_a_promotion_moves_what_it_says_and_the_ledger_follows(site):
    before = site.files()
    site.apply()
    after, verdicts = site.files(), site.verdicts()
    for n, move in enumerate(site.moves):
        expected = {"promote": f"new {n}" if move.differs else f"old {n}", "keep": f"old {n}", "take": f"old {n}"}
        for path in move.paths:
            assert after[path.replace("%25", "%")] == expected.get(move.action, f"original {n}")
        assert verdicts[move.image_id].stage_digest == NEW, "tomorrow's plan is quiet"
        assert verdicts[move.image_id].detail["promotion"] == PROMOTION
    assert len(after) > len(before)
    kept, low = verdicts[site.moves[4].image_id], verdicts[site.moves[7].image_id]
    assert (kept.detail["kept"], kept.detail["made_by"], kept.detail["made_in"]) == (True, OLD, "run-1")
    assert (low.reason_code, low.outcome) == ("below_floor", "left_alone")
    assert low.detail["faces"] == {"left_alone": 1}
    assert illegal_transitions(site.ledger) == {}
    assert journals.find(site.storage, PROMOTION).state == "applied"
    again = site.state()
    site.apply()
    assert site.state() == again


@pytest.mark.parametrize("again", [False, True])
def test_a_rollback_gives_the_older_results_back_byte_by_byte(site, again):
    before, stages = site.files(), site.ledger.latest(stage="brighten").to_pylist()
    site.apply()
    assert site.roll_back(again=again) == 5
    after, verdicts = site.files(), site.verdicts()
    assert {path: after[path] for path in before} == before
    promoted = [move.image_id for move in site.moves if move.action == "promote"]
    assert {verdicts[i].stage_digest for i in promoted} == {OLD if again else NEW}
    assert all(verdicts[i].detail["rolled_back"] for i in promoted)
    made = {event.image_id: event.stage_digest for event in events_of(site.ledger.latest(stage="brighten"))}
    assert {made[i] for i in promoted} == {"o"}, "the stages' rows say again who made them"
    assert len(stages) == 6
    assert illegal_transitions(site.ledger) == {}
    assert not (site.folder / "superseded" / PROMOTION).exists()
    with pytest.raises(JobError, match="no promotion stands"):
        journals.find(site.storage, None)


@pytest.mark.parametrize("action", ["keep", "promote"])
def test_a_promotion_can_be_rolled_back_after_a_later_night(site, action):
    """A second recipe's night has the last word on every verdict; what it kept is still the first promotion's."""
    before, later, digest = site.files(), "20260102T020000-abcdef", "z" * 64
    site.apply()
    place = f"candidates/{digest[:12]}"
    candidate, stood = Ledger.open(Storage(site.folder / place), buckets=1), site.verdicts()
    moves = [
        replace(move, action=action, old=stood[move.image_id])
        for move in site.moves
        if move.action == "promote" and move.differs
    ]
    for path in (path for move in moves for path in move.paths):
        Storage(site.folder / place).write_atomic(f"restored/{path.replace('%25', '%')}", b"third")
    site.events(candidate, "run-z", digest, {move.image_id: "third" for move in moves})
    digests = {"detect_align": "same", "brighten": "z", COMMIT: digest}
    site.storage.write_atomic(f"runs/{later}.json", json.dumps({"digests": digests}).encode())
    journals.write_moves(site.storage, later, moves)
    counts = {action: len(moves)}
    journals.write(site.storage, Journal(id=later, digest=digest, recipe="third", candidate=place, counts=counts))
    with site.held() as held:
        carry_out(held, journals.find(site.storage, later), site.source)
        if action == "promote":
            assert take_back(held, journals.find(site.storage, None), again=False) == len(moves)
        assert take_back(held, journals.find(site.storage, PROMOTION), again=False) == 5
    after = site.files()
    assert {path: after[path] for path in before} == before


def test_a_rollback_follows_pictures_and_writes_over_nobody_else(site):
    site.apply()
    move, other = site.moves[1], hashlib.sha256(b"another person").hexdigest()
    (path,) = move.paths
    place = path.replace("%25", "%")
    site.now_at([path], other)
    site.now_at(["moved.png"], move.image_id)
    site.storage.write_atomic(f"restored/{place}", b"another person, restored")
    site.storage.write_atomic("restored/moved.png", b"new 1")
    site.roll_back(again=False)
    assert site.files()[place] == "another person, restored"
    assert site.files()["moved.png"] == "old 1"


class PowerCut(BaseException):
    pass


WRITES = ("write_atomic", "create_new", "copy", "delete", "delete_tree")


def cut_at(monkeypatch, allowed):
    """The process dies at its n-th change of a storage: that one and all later ones do not happen."""
    left, lock = [allowed], threading.Lock()

    def guard(name):
        whole = getattr(Storage, name)

        def change(self, *args):
            if "leases" not in args[0]:
                with lock:
                    left[0] -= 1
                    if left[0] < 0:
                        raise PowerCut
            return whole(self, *args)

        monkeypatch.setattr(Storage, name, change)

    for name in WRITES:
        guard(name)
    return left


def ends_after_power_cuts(model, act, steps, folder, monkeypatch):
    """The end of an action, and its ends after power cuts at `steps` moments spread over it and a second try."""
    whole = model.copy(folder / "whole")
    with monkeypatch.context() as patch:
        counted = cut_at(patch, 10**6)
        act(whole)
        total = 10**6 - counted[0]
    assert total > 2 * steps
    ends, texts = [whole.state()], model.files()
    for moment in sorted({round(n) for n in np.linspace(0, total - 1, steps)}):
        site = model.copy(folder / str(moment))
        with monkeypatch.context() as patch:
            cut_at(patch, moment)
            with pytest.raises(PowerCut):
                act(site)
        for path, text in site.files().items():
            assert text[-1] == texts.get(path, text)[-1], "older or new, never none"
        assert set(texts) <= set(site.files())
        act(site)
        ends.append(site.state())
    return ends


def test_power_cuts_at_any_moment_of_a_promotion_lose_nothing(standing, tmp_path, monkeypatch):
    first, *others = ends_after_power_cuts(standing, Site.apply, 6, tmp_path, monkeypatch)
    assert all(end == first for end in others)


def test_power_cuts_at_any_moment_of_a_rollback_lose_nothing(promoted, tmp_path, monkeypatch):
    first, *others = ends_after_power_cuts(promoted, Site.roll_back, 4, tmp_path, monkeypatch)
    assert all(end == first for end in others)


def test_a_promotion_that_was_cut_short_can_be_taken_back(standing, site, monkeypatch):
    with monkeypatch.context() as patch:
        cut_at(patch, 10)  # six second names and the three files of pictures without an older result may come first
        with pytest.raises(PowerCut):
            site.apply()
    before = standing.files()
    assert any(site.files()[path] != text for path, text in before.items())
    site.roll_back()
    assert {path: site.files()[path] for path in before} == before
    assert journals.find(site.storage, PROMOTION).state == "rolled_back"


def test_what_something_else_has_dealt_with_is_left_alone(site):
    move = site.moves[0]
    site.events(site.ledger, "run-9", "x" * 64, {move.image_id: "by hand"})
    path = move.paths[0].replace("%25", "%")
    site.storage.write_atomic(f"restored/{path}", b"by hand")
    site.apply()
    assert site.files()[path] == "by hand"
    assert journals.find(site.storage, PROMOTION).moved_on == 1
    assert site.roll_back() == 4
    assert site.files()[path] == "by hand"


def test_a_rollback_without_the_older_results_is_refused_before_anything_is_touched(promoted, tmp_path):
    site = promoted.copy(tmp_path / "site")
    site.storage.delete_tree(f"superseded/{PROMOTION}")
    before = site.state()
    with pytest.raises(JobError, match="older results of 4 pictures are gone"):
        site.roll_back()
    assert site.state() == before


def test_a_further_path_of_a_kept_picture_gets_the_older_result(promoted, tmp_path):
    site = promoted.copy(tmp_path / "site")
    pictures = {move.image_id: [*move.paths, f"further/{n}.png"] for n, move in enumerate(site.moves)}
    with site.held() as session:
        delivered = deliver_kept(session, pictures, NEW)
    assert delivered == [site.moves[4].image_id]
    assert site.files()["further/4.png"] == "old 4"
    assert "further/3.png" not in site.files()
    assert illegal_transitions(site.ledger) == {}
