"""The weights table, and the store that holds every file to its hash."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from evil_checkpoints import save_evil
from safetensors.torch import load_file

from infra.weights import store as weights_module
from infra.weights.errors import (
    LicenceNotAccepted,
    WeightsCorrupt,
    WeightsError,
    WeightsMissing,
    WeightsUnknown,
    WeightsUnsafe,
)
from infra.weights.store import WeightsStore
from infra.weights.table import WeightsTable
from tasks.recipes.recipe import load_recipe, recipe_names

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000, np.uint8))
HASH = hashlib.sha256(CONTENT).hexdigest()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_table(tmp_path, **rows):
    """A table with the given rows; each has sensible defaults."""
    lines = ['[licences.free]\ntitle = "Free"\ncommercial = "yes"\n']
    lines += ['[licences.nc]\ntitle = "Strict"\nurl = "https://x"\ncommercial = "no"\nmust_accept = true\n']
    for name, fields in rows.items():
        fields = {"title": f"the net {name}", "file": "net.bin", "licence": "free"} | fields
        lines.append(f'[[weights]]\nname = "{name}"')
        lines += [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    path = tmp_path / "weights.toml"
    path.write_text("\n".join(lines))
    return WeightsTable.load(path)


@pytest.fixture
def store(tmp_path):
    """Builds a store over a table of the given rows."""
    return lambda **rows: WeightsStore(tmp_path / "store", make_table(tmp_path, **rows))


class TestTable:
    def test_the_projects_own_is_whole(self):
        table = WeightsTable.load()
        for name in ("compact_restorer", "compact_severe", "compact_quality", "compact_landmarks", "compact_dehaze"):
            assert (Path(weights_module.__file__).parents[2] / table[name].package).is_file()
        for recipe in ("mpsr", "mpsr-ntire2025", "mpsr-fast", "compact"):
            assert any(recipe in row.recipes for row in table.values())
        ntire = {name for name, row in table.items() if "mpsr-ntire2025" in row.recipes}
        assert {"sd21_base", "diffbir_v2", "pisa_sr", "gfpgan_v1_3", "ffa_net_ots", "face_tone_net"} <= ntire

    def test_a_row_names_every_recipe_that_cannot_run_without_it(self):
        table = WeightsTable.load()
        for name in recipe_names():
            needed = {weight for stage in load_recipe(name).stages for weight in stage.weights}
            assert [weight for weight in needed if name not in table[weight].recipes] == []

    def test_whatever_forbids_commerce_must_be_accepted(self):
        for licence in WeightsTable.load().licences.values():
            assert licence.must_accept or licence.commercial != "no"

    def test_every_address_is_encrypted_and_every_mirror_pinned(self):
        for row in WeightsTable.load().values():
            assert all(url.startswith("https://") for url in (*row.sources, *row.mirrors))
            assert all("/resolve/main/" not in url for url in row.mirrors)

    def test_every_row_says_how_to_get_it(self, tmp_path):
        store = WeightsStore(tmp_path)
        for name, row in store.table.items():
            said = store.instructions(name)
            assert name in said or row.package
            assert ("--accept-licence" in said) == (store.table.licence(name).must_accept and not row.package)

    def test_unknown_name_gets_the_nearest(self):
        with pytest.raises(WeightsUnknown, match="did you mean 'pisa_sr'"):
            WeightsTable.load()["pisasr"]

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"by_hand": "x", "hash": "0"}, "hash"),
            ({}, "needs `package`, `sources`"),
            ({"by_hand": "x", "file": "../net.bin"}, "file"),
            ({"by_hand": "x", "sha256": "0" * 64}, "come together"),
            ({"by_hand": "x", "licence": "gpl"}, "expected a licence"),
        ],
    )
    def test_a_wrong_row_is_named(self, tmp_path, fields, message):
        with pytest.raises(WeightsError, match=message):
            make_table(tmp_path, a=fields)

    def test_two_rows_never_share_a_file(self, tmp_path):
        with pytest.raises(WeightsError, match="two rows"):
            make_table(tmp_path, a={"by_hand": "x"}, b={"by_hand": "x"})

    def test_names_in_the_file_are_unique(self):
        raw = tomllib.loads(Path(weights_module.__file__).with_name("weights.toml").read_text())
        names = [row["name"] for row in raw["weights"]]
        assert len(names) == len(set(names)) == len(WeightsTable.load())


class TestStore:
    def test_missing_says_what_how_big_and_which_command(self, store, tmp_path):
        one = store(a={"sources": ["https://x/net.bin"], "bytes": 1_234_567, "licence": "nc"})
        with pytest.raises(WeightsMissing) as caught:
            one.path("a")
        for part in ("net.bin", "1,234,567 bytes", "mpsr models pull a --accept-licence nc", str(tmp_path / "store")):
            assert part in str(caught.value)

    def test_by_hand_says_where_and_which_command(self, store):
        with pytest.raises(WeightsMissing, match=r"Open the page\. Then run `mpsr models add a FILE`"):
            store(a={"by_hand": "Open the page."}).path("a")

    def test_known_hash_is_held(self, store, tmp_path):
        one = store(a={"by_hand": "x", "sha256": HASH, "known_from": "publisher"})
        one.folder.mkdir()
        (one.folder / "net.bin").write_bytes(CONTENT)
        assert one.path("a") == one.folder / "net.bin"
        assert one.sha256("a") == HASH
        (one.folder / "net.bin").write_bytes(CONTENT[:-1] + b"x")
        with pytest.raises(WeightsCorrupt, match=HASH):
            one.path("a")

    def test_unknown_hash_is_recorded_and_held_from_then_on(self, store):
        one = store(a={"by_hand": "x"})
        one.folder.mkdir()
        file = one.folder / "net.bin"
        file.write_bytes(CONTENT)
        assert not one.status("a").verified
        assert one.sha256("a") == HASH
        assert one.status("a").verified
        file.write_bytes(b"another")
        assert not one.status("a").verified
        with pytest.raises(WeightsCorrupt, match="first used"):
            one.path("a")

    def test_part_of_a_hash_is_held(self, store):
        one = store(a={"by_hand": "x", "sha256_prefix": "00000000"})
        one.folder.mkdir()
        (one.folder / "net.bin").write_bytes(CONTENT)
        with pytest.raises(WeightsCorrupt, match="00000000"):
            one.path("a")

    def test_an_unchanged_file_is_hashed_once(self, store, monkeypatch):
        one = store(a={"by_hand": "x"})
        one.folder.mkdir()
        (one.folder / "net.bin").write_bytes(CONTENT)
        one.path("a")
        monkeypatch.setattr(weights_module, "sha256_of", lambda path: pytest.fail("hashed again"))
        assert one.sha256("a") == HASH

    def test_a_read_only_store_works(self, store, monkeypatch):
        one = store(a={"by_hand": "x"})
        one.folder.mkdir()
        (one.folder / "net.bin").write_bytes(CONTENT)
        monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
        assert one.sha256("a") == HASH

    def test_verify_reads_anew_and_names_what_is_wrong(self, store):
        one = store(a={"by_hand": "x"}, b={"by_hand": "x", "file": "b.bin"}, c={"by_hand": "x", "file": "c.bin"})
        one.folder.mkdir()
        for file in ("net.bin", "b.bin"):
            (one.folder / file).write_bytes(CONTENT)
        assert one.verify() == {"a": None, "b": None}
        stamp = (one.folder / "b.bin").stat()
        (one.folder / "b.bin").write_bytes(CONTENT[::-1])
        os.utime(one.folder / "b.bin", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert one.sha256("b") == HASH  # same size and time: the record is believed …
        assert isinstance(one.verify()["b"], WeightsCorrupt)  # … until somebody asks for a reading
        assert isinstance(one.verify(["c"])["c"], WeightsMissing)

    def test_package_files_need_no_store(self, tmp_path, monkeypatch):
        monkeypatch.setattr(weights_module, "PROJECT", tmp_path)
        (tmp_path / "net.bin").write_bytes(CONTENT)
        one = WeightsStore(tmp_path / "store", make_table(tmp_path, a={"package": "net.bin"}))
        assert one.path("a") == tmp_path / "net.bin"
        assert one.sha256("a") == HASH
        assert one.pull(["a"]) == {"a": tmp_path / "net.bin"}
        assert not list(tmp_path.glob("*.json"))
        with pytest.raises(WeightsError, match="comes with the package"):
            one.add("a", tmp_path / "net.bin")

    def test_folders_are_hashed_by_names_and_contents(self, store, tmp_path):
        one = store(a={"by_hand": "x", "file": "model"})
        source = tmp_path / "elsewhere"
        (source / "part").mkdir(parents=True)
        (source / "part" / "one.bin").write_bytes(b"1")
        assert one.add("a", source).is_dir()
        before = one.sha256("a")
        (one.folder / "model" / "part" / "one.bin").rename(one.folder / "model" / "part" / "two.bin")
        assert isinstance(one.verify(["a"])["a"], WeightsCorrupt)
        (one.folder / "model" / "part" / "two.bin").rename(one.folder / "model" / "part" / "one.bin")
        assert one.sha256("a") == before


class TestAdd:
    def test_copies_and_leaves_the_original(self, store, tmp_path):
        one = store(a={"by_hand": "x", "sha256": HASH, "known_from": "publisher"})
        (tmp_path / "Download (1).bin").write_bytes(CONTENT)
        assert one.add("a", tmp_path / "Download (1).bin").read_bytes() == CONTENT
        assert (tmp_path / "Download (1).bin").exists()

    @pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[::-1]])
    def test_a_wrong_file_is_refused_and_leaves_nothing(self, store, tmp_path, content):
        one = store(a={"by_hand": "x", "sha256": HASH, "known_from": "publisher", "bytes": len(CONTENT)})
        (tmp_path / "wrong.bin").write_bytes(content)
        with pytest.raises(WeightsCorrupt, match="expected"):
            one.add("a", tmp_path / "wrong.bin")
        assert list(one.folder.iterdir()) == []

    def test_replaces_what_was_recorded(self, store, tmp_path):
        one = store(a={"by_hand": "x"})
        for content in (CONTENT, CONTENT[::-1]):
            (tmp_path / "new.bin").write_bytes(content)
            one.add("a", tmp_path / "new.bin")
            assert one.sha256("a") == hashlib.sha256(content).hexdigest()

    def test_licence_and_absence(self, store, tmp_path):
        one = store(a={"by_hand": "x", "licence": "nc"})
        with pytest.raises(LicenceNotAccepted, match="--accept-licence nc"):
            one.add("a", tmp_path / "net.bin")
        with pytest.raises(WeightsMissing, match="found nothing there"):
            one.add("a", tmp_path / "net.bin", accept_licences={"nc"})

    def test_pickles_become_safetensors_once(self, store, tmp_path):
        one = store(a={"by_hand": "x", "file": "net.pth", "convert": True})
        torch.save({"params_ema": {"module.w": torch.arange(6.0).view(2, 3).T}}, tmp_path / "net.pth")
        path = one.add("a", tmp_path / "net.pth")
        assert path.name == "net.safetensors"
        assert torch.equal(load_file(path)["w"], torch.arange(6.0).view(2, 3).T)
        assert not (one.folder / "net.pth").exists()
        assert one.sha256("a") == sha256(tmp_path / "net.pth")

        other = WeightsStore(tmp_path / "other", one.table)  # a machine without a network takes it from this one
        assert other.pull(["a"], from_dir=one.folder)["a"].name == "net.safetensors"
        assert other.sha256("a") == one.sha256("a")
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(WeightsCorrupt, match="as when it was converted"):
            WeightsStore(tmp_path / "third", one.table).pull(["a"], from_dir=one.folder)

    def test_a_pickle_with_code_is_refused_and_leaves_nothing(self, store, tmp_path):
        one = store(a={"by_hand": "x", "file": "net.pth", "convert": True})
        with pytest.raises(WeightsUnsafe):
            one.add("a", save_evil(tmp_path))
        assert list(one.folder.iterdir()) == []
        assert not (tmp_path / "executed").exists()
