"""The nightly gate: what it lets through, what it keeps, that no moment can lose a file, and the way back."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest

from flows.gate import journal as journals
from flows.gate.journal import Journal
from flows.gate.moves import REMEMBERED, Place, carry_out, deliver_kept, take_back
from flows.jobs.data_set import JobError
from infra.ledger.lease import Lease
from infra.ledger.ledger import Ledger
from infra.settings import Promotion
from infra.storage.storage import Storage
from tasks.comparing.gate import Case, below_floors, decide
from tasks.measuring.files import COLUMNS, Evaluation, faces_schema
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
    known = {name: {"title": name, "better": BETTER[name], "digest": "d"} for name in metrics}
    return Evaluation({"metrics": known, "missing": dict(missing)}, table)


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
        return text and {"state": text[0], "output_sha256": text[1], "reason": "", "reason_code": "why"}

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
        self.rows = []

    def fill(self):
        for run_id, digest in (("run-1", OLD), (PROMOTION, NEW)):
            facts = {"digests": {"detect_align": "same", "brighten": digest[0], COMMIT: digest}}
            self.storage.write_atomic(f"runs/{run_id}.json", json.dumps(facts).encode())
        actions = [("promote", True)] * 4 + [("keep", True), ("promote", False), ("take", False), ("original", False)]
        for n, (action, differs) in enumerate(actions):
            self.add(n, action, differs)
        of_old = [row | {"sha": f"old {n}"} for n, row in enumerate(self.rows) if row["action"] in ("promote", "keep")]
        of_new = [row | {"sha": f"new {n}" if row["differs"] else f"old {n}"} for n, row in enumerate(self.rows)]
        self.events(self.ledger, "run-1", OLD, of_old)
        self.events(self.candidate, "run-c", NEW, of_new)
        self.ledger.fold()
        verdicts = self.ledger.latest(stage=COMMIT, columns=["image_id", *REMEMBERED]).to_pylist()
        stood = {row["image_id"]: json.dumps(row) for row in verdicts}
        for row in self.rows:
            row["old"] = stood.get(row["image_id"])
        journals.write_rows(self.storage, PROMOTION, self.rows)
        journal = Journal(id=PROMOTION, digest=NEW, recipe="story", candidate=CANDIDATE, counts={"promote": 5})
        journals.write(self.storage, journal)
        return self

    def copy(self, folder):
        """The same in another place."""
        shutil.copytree(self.folder.parent, folder)
        twin = Site(folder)
        twin.rows = self.rows
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
        told = {"image_id": hashlib.sha256(original).hexdigest(), "bucket": 0, "paths": paths, "why": "because"}
        self.now_at(paths, told["image_id"])
        self.rows.append(told | {"action": action, "differs": differs, "planned": "stale"})

    def now_at(self, paths, image_id):
        """What a scan finds at some paths; no image_id: nothing."""
        gone = {"present": False} if image_id is None else {}
        rows = [{"path": path, "image_id": image_id or "00" * 32, "bytes": 1} | gone for path in paths]
        self.ledger.append_inventory(rows, "run-1")

    def events(self, ledger, run_id, digest, rows):
        told = {"run_id": run_id, "token": 1, "bucket": 0}
        made = [{"image_id": row["image_id"], "state": "done", "reason_code": "ok"} for row in rows]
        ledger.append_events([row | {"stage_digest": "same"} for row in made], stage="detect_align", **told)
        faces = [row | {"stage_digest": digest[0], "face": 0} for row in made]
        ledger.append_events(faces, stage="brighten", **told)
        said = {"stage_digest": digest, "detail": json.dumps({"outcome": "restored", "faces": {"restored": 1}})}
        shas = [hashlib.sha256(row["sha"].encode()).hexdigest() for row in rows]
        verdicts = [row | said | {"output_sha256": sha} for row, sha in zip(made, shas, strict=True)]
        ledger.append_events(verdicts, stage=COMMIT, **told)

    @contextmanager
    def held(self):
        with Lease.acquire(self.storage, owner="test") as lease:
            yield Place(self.storage, self.ledger, lease)

    def apply(self):
        with self.held() as place:
            carry_out(place, journals.find(self.storage, PROMOTION), self.source)

    def roll_back(self, again=False):
        with self.held() as place:
            return take_back(place, journals.find(self.storage, PROMOTION), again=again)

    def files(self):
        root = self.folder / "restored"
        return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}

    def state(self):
        """Files and last rows, without what time and repetition change."""
        names = ("image_id", "face", "stage", "stage_digest", "state", "reason_code", "detail", "output_sha256")
        rows = self.ledger.latest(columns=[*names, "outcome"]).to_pylist()
        return self.files(), rows, journals.find(self.storage, PROMOTION).state

    def verdicts(self):
        rows = self.ledger.latest(stage=COMMIT).to_pylist()
        return {row["image_id"]: row | {"detail": json.loads(row["detail"])} for row in rows}


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


def test_a_promotion_moves_what_it_says_and_the_ledger_follows(site):
    before = site.files()
    site.apply()
    after, verdicts = site.files(), site.verdicts()
    for row in site.rows:
        n = site.rows.index(row)
        expected = {"promote": f"new {n}" if row["differs"] else f"old {n}", "keep": f"old {n}", "take": f"old {n}"}
        for path in row["paths"]:
            assert after[path.replace("%25", "%")] == expected.get(row["action"], f"original {n}")
        assert verdicts[row["image_id"]]["stage_digest"] == NEW, "tomorrow's plan is quiet"
        assert verdicts[row["image_id"]]["detail"]["promotion"] == PROMOTION
    assert len(after) > len(before)
    kept, low = verdicts[site.rows[4]["image_id"]], verdicts[site.rows[7]["image_id"]]
    assert (kept["detail"]["kept"], kept["detail"]["made_by"], kept["detail"]["made_in"]) == (True, OLD, "run-1")
    assert (low["reason_code"], low["outcome"]) == ("below_floor", "left_alone")
    assert low["detail"]["faces"] == {"left_alone": 1}
    assert site.ledger.illegal_transitions(recount=True) == {}
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
    promoted = [row["image_id"] for row in site.rows if row["action"] == "promote"]
    assert {verdicts[i]["stage_digest"] for i in promoted} == {OLD if again else NEW}
    assert all(verdicts[i]["detail"]["rolled_back"] for i in promoted)
    made = {row["image_id"]: row["stage_digest"] for row in site.ledger.latest(stage="brighten").to_pylist()}
    assert {made[i] for i in promoted} == {"o"}, "the stages' rows say again who made them"
    assert len(stages) == 6
    assert site.ledger.illegal_transitions(recount=True) == {}
    assert not (site.folder / "superseded" / PROMOTION).exists()
    with pytest.raises(JobError, match="no promotion stands"):
        journals.find(site.storage, None)


@pytest.mark.parametrize("action", ["keep", "promote"])
def test_a_promotion_can_be_rolled_back_after_a_later_night(site, action):
    """A second recipe's night has the last word on every verdict; what it kept is still the first promotion's."""
    before, later, digest = site.files(), "20260102T020000-abcdef", "z" * 64
    site.apply()
    place = f"candidates/{digest[:12]}"
    candidate = Ledger.open(Storage(site.folder / place), buckets=1)
    rows = [row | {"action": action} for row in site.rows if row["action"] == "promote" and row["differs"]]
    for row in rows:
        for path in row["paths"]:
            Storage(site.folder / place).write_atomic(f"restored/{path.replace('%25', '%')}", b"third")
    site.events(candidate, "run-z", digest, [row | {"sha": "third"} for row in rows])
    stood = {v["image_id"]: v for v in site.ledger.latest(stage=COMMIT, columns=["image_id", *REMEMBERED]).to_pylist()}
    rows = [row | {"old": json.dumps(stood[row["image_id"]])} for row in rows]
    digests = {"detect_align": "same", "brighten": "z", COMMIT: digest}
    site.storage.write_atomic(f"runs/{later}.json", json.dumps({"digests": digests}).encode())
    journals.write_rows(site.storage, later, rows)
    counts = {action: len(rows)}
    journals.write(site.storage, Journal(id=later, digest=digest, recipe="third", candidate=place, counts=counts))
    with site.held() as held:
        carry_out(held, journals.find(site.storage, later), site.source)
        if action == "promote":
            assert take_back(held, journals.find(site.storage, None), again=False) == len(rows)
        assert take_back(held, journals.find(site.storage, PROMOTION), again=False) == 5
    after = site.files()
    assert {path: after[path] for path in before} == before


def test_a_rollback_follows_pictures_and_writes_over_nobody_else(site):
    site.apply()
    row, other = site.rows[1], hashlib.sha256(b"another person").hexdigest()
    (path,) = row["paths"]
    place = path.replace("%25", "%")
    site.now_at([path], other)
    site.now_at(["moved.png"], row["image_id"])
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
        cut_at(patch, 9)
        with pytest.raises(PowerCut):
            site.apply()
    before = standing.files()
    assert any(site.files()[path] != text for path, text in before.items())
    site.roll_back()
    assert {path: site.files()[path] for path in before} == before
    assert journals.find(site.storage, PROMOTION).state == "rolled_back"


def test_what_something_else_has_dealt_with_is_left_alone(site):
    row = site.rows[0]
    site.events(site.ledger, "run-9", "x" * 64, [row | {"sha": "by hand"}])
    path = row["paths"][0].replace("%25", "%")
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
    rows = [row | {"paths": [*row["paths"], f"further/{n}.png"]} for n, row in enumerate(site.rows)]
    with site.held() as place:
        delivered = deliver_kept(place, "tonight", rows, NEW)
    assert delivered == [site.rows[4]["image_id"]]
    assert site.files()["further/4.png"] == "old 4"
    assert "further/3.png" not in site.files()
    assert site.ledger.illegal_transitions(recount=True) == {}
