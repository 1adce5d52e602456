"""`mpsr verify` finds what is not as it was written; `mpsr repair` puts right what there is another copy of."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from infra.ledger import Event, FileRow
from infra.ledger.ledger import Ledger
from infra.storage.storage import Storage
from tasks.worker import Entry, intermediate

INTERMEDIATE = "intermediates/detect/x.arrow"


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def storage(tmp_path):
    """Two pictures, one of them at two paths, restored; the ledger folded."""
    place = Storage(tmp_path / "ws")
    ledger = Ledger.open(place, buckets=1)
    paths = {"A": ["1.jpg", "twin/1.jpg"], "B": ["50% é.jpg"]}
    rows = [FileRow(path=path.replace("%", "%25"), image_id=sha(name)) for name, held in paths.items() for path in held]
    ledger.append_inventory(rows, "run")
    events = []
    for name, held in paths.items():
        for path in held:
            place.write_atomic(f"restored/{path}", f"restored {name}".encode())
        told = {"output_uri": f"restored/{held[0].replace('%', '%25')}", "output_sha256": sha(f"restored {name}")}
        verdict = {"state": "done", "outcome": "restored", "reason_code": "ok", "stage_digest": "D"}
        events.append(Event(image_id=sha(name), **told, **verdict))
    ledger.append_events(events, run_id="run", token=1, stage="commit", bucket=0)
    ledger.fold()
    intermediate.write(
        place, INTERMEDIATE, [Entry("a:0", "{}", {"aligned": np.zeros((2, 2, 3), np.float32)})], "float16"
    )
    return place


def asked(command, storage):
    """Exit code and answer."""
    done = CliRunner().invoke(app, [command, "-w", storage.url, "--json"])
    return done.exit_code, json.loads(done.stdout) if done.stdout else done.exception


def test_what_is_whole_is_said_to_be(storage):
    code, told = asked("verify", storage)
    assert (code, told["compared"]) == (0, 3)
    assert told["ledger"] == told["intermediates"] == told["restored"] == []
    assert asked("repair", storage)[1] == {"schema": 1, "set_aside": [], "delivered": [], "to_make": []}


def test_files_that_are_gone_or_others_are_found_and_what_has_a_copy_is_delivered_again(storage):
    storage.delete("restored/1.jpg")
    storage.write_atomic("restored/50% é.jpg", b"touched up by hand")
    storage.write_atomic(INTERMEDIATE, storage.read_bytes(INTERMEDIATE)[:-1] + b"x")
    code, told = asked("verify", storage)
    assert (code, told["intermediates"]) == (1, [INTERMEDIATE])
    assert told["restored"] == [
        "restored/1.jpg is gone",
        "restored/50%25 é.jpg is not the file that was delivered",
    ]
    code, done = asked("repair", storage)
    assert (code, done["delivered"], done["to_make"]) == (0, ["1.jpg"], ["50%25 é.jpg"])
    assert storage.read_bytes("restored/1.jpg") == b"restored A"
    assert storage.read_bytes("damaged/restored/50% é.jpg") == b"touched up by hand", "nobody's work is deleted"
    assert asked("verify", storage)[1]["restored"] == ["restored/50%25 é.jpg is gone"], "the next run makes it again"


def test_a_damaged_ledger_is_named_and_repaired(storage):
    path = Ledger.open(storage).holdings().snapshot_of("commit", {0})[0]
    storage.write_atomic(path, storage.read_bytes(path)[:-9])
    code, told = asked("verify", storage)
    assert (code, told["ledger"]) == (1, [path])
    assert asked("repair", storage)[1]["set_aside"] == [path]
    assert asked("verify", storage)[1]["compared"] == 3
