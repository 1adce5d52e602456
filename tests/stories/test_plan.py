"""Planning: shards that stay what they are, and names that would meet."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from flows.restoration.plan import Plan, collisions
from flows.session.patience import Patience
from infra.ledger.ledger import Ledger
from infra.storage.storage import Storage
from tasks.recipes.recipe import load_recipe


def inventory(tmp_path, *paths):
    ledger = Ledger.open(Storage(tmp_path), buckets=1)
    rows = [{"path": p, "image_id": hashlib.sha256(p.encode()).hexdigest(), "bytes": 1, "format": "PNG"} for p in paths]
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
