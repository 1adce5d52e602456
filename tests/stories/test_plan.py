"""Planning: shards that stay what they are, and names that would meet."""

from __future__ import annotations

import hashlib
import shutil

import cv2
import numpy as np
import pyarrow as pa
import pytest

from flows.cli.questions.preview import preview
from flows.jobs.restoration import Job
from flows.restoration.plan import Plan, collisions, plan_of
from flows.session.patience import Patience
from flows.session.session import prepare
from infra.ledger.inventory import known_files
from infra.ledger.ledger import Ledger
from infra.ledger.rows import Event, FileRow
from infra.ledger.schema import COMMIT
from infra.storage.storage import Storage
from tasks.archive.scan import scan_archive
from tasks.recipes.recipe import load_recipe


def inventory(tmp_path, *paths):
    ledger = Ledger.open(Storage(tmp_path), buckets=1)
    ids = {path: hashlib.sha256(path.encode()).hexdigest() for path in paths}
    rows = [FileRow(path=path, image_id=ids[path], bytes=1, format="PNG") for path in paths]
    ledger.append_inventory(rows, "run")
    return ledger


def test_names_that_a_file_system_without_case_would_mix_up_are_found(tmp_path):
    ledger = inventory(tmp_path, "a/B.jpg", "a/b.jpg", "c.jpg", "u\u0308.png", "\u00fc.png")
    assert collisions(ledger) == [["a/B.jpg", "a/b.jpg"], ["u\u0308.png", "\u00fc.png"]]


class Run:
    """As much of a run as cutting shards asks for."""

    recipe = load_recipe("compact")
    digests = None

    def __init__(self, ledger):
        self.ledger, self.patience = ledger, Patience()


def shards(ledger, ids, bits):
    table = pa.table({"image_id": ids, "bucket": [0] * len(ids), "why": ["new"] * len(ids), "attempt": [0] * len(ids)})
    return {shard.id: set(shard.images) for shard in Plan(table, {}, bits, False).shards(Run(ledger))}


def test_a_shard_does_not_depend_on_what_is_pending(tmp_path):
    ledger = inventory(tmp_path, *[f"{n}.jpg" for n in range(200)])
    ids = sorted(ledger.files().column("image_id").to_pylist())
    whole, half = shards(ledger, ids, 3), shards(ledger, ids[::2], 3)
    assert set().union(*whole.values()) == set(ids)
    assert len(whole) == 8
    assert all(half[name] == whole[name] & set(ids[::2]) for name in half)


class Archive:
    """An archive whose every picture was restored by the compact recipe, by what the ledger says; then it changes."""

    def __init__(self, folder):
        self.folder, self.workspace = folder / "archive", Storage(folder / "ws")
        self.folder.mkdir()
        for n in range(3):
            pixels = np.full((16, 16, 3), 40 * n, np.uint8)
            cv2.imwrite(str(self.folder / f"{n}.png"), pixels)
        self.job = Job(source=str(self.folder), workspace=str(folder / "ws"), settings={"device": "cpu"})
        self.ledger = Ledger.open(self.workspace, buckets=1)
        self.scan()
        told = {"state": "done", "reason_code": "ok", "outcome": "restored"}
        ids = set(self.ledger.files()["image_id"].to_pylist())
        digest = prepare(self.job).digests[COMMIT]
        events = [Event(image_id=image_id, stage_digest=digest, **told) for image_id in sorted(ids)]
        self.ledger.append_events(events, run_id="run", token=1, stage=COMMIT, bucket=0)

    def scan(self):
        """As a run does."""
        if rows := list(scan_archive(Storage(self.folder), known_files(self.ledger))):
            self.ledger.append_inventory(rows, "run")

    def told_and_done(self, **changes):
        """What `mpsr plan` says is to be done, and what a run then plans."""
        job = self.job.model_copy(update=changes)
        told = preview(job, preflight=False)
        self.scan()
        prepared = prepare(job)
        done = plan_of(self.ledger, prepared.digests[COMMIT], prepared.settings)
        return (told.images, told.why), (done.images, done.counts)


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


def test_plan_and_run_agree_on_a_copy_of_a_finished_picture(archive):
    shutil.copy(archive.folder / "0.png", archive.folder / "copy.png")
    told, done = archive.told_and_done()
    assert told == done == (1, {"new_path": 1})


def test_plan_and_run_agree_on_a_changed_recipe_and_a_deleted_file(archive):
    (archive.folder / "1.png").unlink()
    told, done = archive.told_and_done(stages={"paste_back": {"strength": 0.5}})
    assert told == done == (2, {"stale": 2})


def test_plan_and_run_agree_on_new_exchanged_and_broken_files(archive):
    (archive.folder / "0.png").rename(archive.folder / "moved.png")
    (archive.folder / "2.png").write_bytes((archive.folder / "1.png").read_bytes())
    (archive.folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    cv2.imwrite(str(archive.folder / "new.png"), np.full((16, 16, 3), 200, np.uint8))
    told, done = archive.told_and_done()
    assert told == done
    assert told[1]["new"] == 1
