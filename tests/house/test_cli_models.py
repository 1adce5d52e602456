"""`mpsr models` and `mpsr plan` for a newcomer: what to get, from where, how big, under which licence, and how."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from flows.cli import main as cli
from flows.cli.words import terminal
from flows.cli.words import weights as tell_weights
from infra.weights.store import open_store

GATE = {"clip_rn50", "musiq_koniq"}
NEEDED = {"sd21_base", "pisa_sr", "gfpgan_v1_3", "diffbir_v2", "ffa_net_ots", "face_tone_net", *GATE}
BY_HAND = {"pisa_sr", "ffa_net_ots", "face_tone_net"}


@pytest.fixture
def mpsr(tmp_path, monkeypatch):
    """The command line, 80 columns wide, with an empty folder of weights."""
    monkeypatch.setenv("MPSR_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setattr(terminal.out, "_width", 80)

    def call(*arguments):
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])

    return call


def test_the_table_fits_eighty_columns(mpsr):
    lines = mpsr("models", "list").stdout.splitlines()
    table = [line for line in lines if not line.startswith("`mpsr")]
    assert len(table) == len(open_store("nowhere").table) + 1, "one line a file, and the headings"
    assert max(map(len, table)) <= 80


@pytest.mark.parametrize("recipe", ["mpsr", "mpsr-ntire2025"])
def test_a_recipe_says_of_each_missing_file_what_where_how_big_and_how(mpsr, recipe):
    said = mpsr("models", "list", "--recipe", recipe).stdout
    store = open_store("nowhere")
    for name in NEEDED:
        weight, licence = store.table[name], store.table.licence(name)
        (paragraph,) = [part for part in said.split("\n\n") if part.lstrip().startswith(f"{name}  ")]
        for word in (weight.title, licence.title, f"commercial use: {licence.commercial}", store.instructions(name)):
            assert word in paragraph, (name, word)
        assert all(address in paragraph for address in (*weight.sources, *weight.mirrors))
        assert re.search(r"size     (about )?[\d.]+ [MG]B\n", paragraph)
    assert "8 needed files are missing, about 7.6 GB" in said
    accept = "--accept-licence OpenRAIL++-M --accept-licence PolyForm-Noncommercial-1.0.0"
    assert f"mpsr models pull --recipe {recipe} {accept}" in said
    (last,) = [line for line in said.splitlines() if line.startswith("In a browser")]
    assert all(name in last for name in BY_HAND)
    assert re.search(r"GPU memory: about [\d.]+ GB .* fits a card of 24 GB", said)


def test_a_plan_says_the_same_and_fails(mpsr, tmp_path):
    (tmp_path / "archive").mkdir()
    result = mpsr("plan", tmp_path / "archive", "-w", tmp_path / "ws", "--recipe", "mpsr")
    assert result.exit_code == 2
    assert all(f"\n{name}  " in result.stdout for name in NEEDED)
    assert "mpsr models pull --recipe mpsr" in result.stdout


def test_scripts_get_every_field(mpsr):
    rows = json.loads(mpsr("models", "list", "--recipe", "mpsr", "--json").stdout)["weights"]
    assert {row["name"] for row in rows if row["needed"]} >= NEEDED
    base = next(row for row in rows if row["name"] == "sd21_base")
    assert (base["bytes"], base["licence_name"], base["present"]) == (5_214_604_494, "OpenRAIL++-M", False)
    assert base["from"][0].startswith("https://")


def test_pulling_a_recipe_leaves_what_only_a_browser_can_get_and_says_so(mpsr, monkeypatch):
    asked = []
    monkeypatch.setattr("infra.weights.WeightsStore.pull", lambda self, names, **options: asked.extend(names))
    result = mpsr("models", "pull", "--recipe", "mpsr")
    assert result.exit_code == 1
    assert set(asked) >= NEEDED - BY_HAND
    assert not set(asked) & (BY_HAND | {"face_embedding_onnx", "adaface_ir50_ms1mv2"})
    assert all(f"\n{name}  " in result.stdout for name in BY_HAND)


def test_sizes_in_words():
    assert [tell_weights.human_bytes(n) for n in (7, 1536, 5.2e9)] == ["7 B", "1.5 kB", "5.2 GB"]
