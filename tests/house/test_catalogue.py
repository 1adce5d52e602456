"""Which recipe for whom: the catalogue says of every recipe what its stages and the table of weights say."""

from __future__ import annotations

import json

import pytest
from places import ROOT
from typer.testing import CliRunner

from flows.cli import main as cli
from flows.cli.words import terminal
from tasks.recipes import offers
from tasks.recipes.recipe import load_recipe, recipe_names


def offer(name):
    return next(each for each in offers() if each.name == name)


def test_every_recipe_is_offered_the_cheapest_first():
    found = offers()
    assert sorted(each.name for each in found) == recipe_names()
    assert [each.tflop for each in found] == sorted(each.tflop for each in found)


def test_terms_are_those_of_the_strictest_file():
    assert [offer(name).commercial for name in ("compact", "gfpgan", "codeformer")] == ["yes", "unknown", "no"]


def test_downloads_are_what_a_recipe_cannot_run_without():
    assert offer("compact").download_gb == 0
    assert offer("codeformer").download_gb == pytest.approx(0.376637898)
    assert offer("tsd-sr").download_gb is None, "nobody has said how large its LoRAs are"


def test_arithmetic_is_that_of_the_published_networks_and_follows_the_settings():
    assert offer("mpsr-ntire2025").tflop == pytest.approx(118.3, rel=0.005)
    stage = load_recipe("mpsr", {"diffbir": {"cfg_scale": 1.0, "steps": 10}}).stage("diffbir")
    assert stage.cls.tflop(stage.settings) == pytest.approx(3.63 + 10.735)
    two, one = (load_recipe("mpsr", {"pisa_sr": {"lambda_pix": x}}).stage("pisa_sr") for x in (0.5, 1.0))
    assert two.cls.tflop(two.settings) - one.cls.tflop(one.settings) == pytest.approx(0.8)


def test_only_the_challenges_entries_check_no_identity():
    unjudged = {each.name for each in offers() if not each.judged}
    folder = ROOT / "tasks" / "recipes" / "challenge"
    assert unjudged == {path.stem for path in folder.glob("*.toml")} | {"mpsr-ntire2025"}


def test_the_command_prints_a_line_for_each_within_80_columns(monkeypatch):
    monkeypatch.setattr(terminal.out, "_width", 80)
    lines = CliRunner().invoke(cli.app, ["recipes"]).stdout.splitlines()
    table = lines[: len(recipe_names()) + 1]
    assert {line.split()[0] for line in table[1:]} == set(recipe_names())
    assert max(map(len, table)) <= 80
    told = json.loads(CliRunner().invoke(cli.app, ["recipes", "--json"]).stdout)["recipes"]
    assert {each["name"] for each in told} == set(recipe_names())


def test_every_recipe_stands_in_the_page():
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert [name for name in recipe_names() if f"`{name}`" not in page] == []
