"""The house itself: imports run one way, heavy things load late, the lock is whole, the words match the code."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter

import pytest
from places import ROOT

ROOMS = {
    "mpsr": {"mpsr", "flows", "tasks", "infra"},
    "flows": {"flows", "tasks", "infra"},
    "tasks": {"tasks", "infra"},
    "infra": {"infra"},
}
HEAVY_FOR_STAGES = {"ray", "prefect", "polars", "duckdb"}


def modules(room):
    return sorted((ROOT / room).rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def wing_of(module):
    """The wing that a module lies in; None for what lies beside the wings, and for networks: one network, one file."""
    parts = module.split(".")
    if parts[0] not in ROOMS or len(parts) < 2 or parts[:2] == ["tasks", "models"]:
        return None
    depth = 3 if parts[:2] == ["tasks", "pages"] else 2
    return ".".join(parts[:depth]) if (ROOT / "/".join(parts[:depth])).is_dir() else None


def taken_from_other_wings():
    """(module that imports, module named, name) for every import from another wing."""
    for path in (path for room in ROOMS for path in modules(room)):
        here = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                wing = wing_of(node.module)
                if wing is not None and wing.split(".")[:2] != here.split(".")[:2]:
                    yield from ((here, node.module, alias.name) for alias in node.names)


DOORS = sorted(path.parent for room in ROOMS if room != "mpsr" for path in (ROOT / room).rglob("__init__.pyi"))
"""Of every wing; the door of mpsr is for those who use the package."""


def door_names(door):
    return {alias.name for node in ast.parse((door / "__init__.pyi").read_text()).body for alias in node.names}


def test_what_is_taken_from_another_wing_comes_through_its_door():
    wrong = [f"{here}: from {module}" for here, module, _ in taken_from_other_wings() if module != wing_of(module)]
    assert not wrong


@pytest.mark.parametrize("door", DOORS, ids=lambda door: ".".join(door.relative_to(ROOT).parts))
def test_a_door_names_what_is_there_and_what_others_take(door):
    wing = ".".join(door.relative_to(ROOT).parts)
    package = importlib.import_module(wing)
    assert [name for name in door_names(door) if not hasattr(package, name)] == []
    taken = {name for _, module, name in taken_from_other_wings() if module == wing}
    assert door_names(door) - taken == set()
    assert ast.get_docstring(ast.parse((door / "__init__.py").read_text()))


def test_no_folder_holds_more_than_one_looks_over():
    for room in (*ROOMS, "tests"):
        for folder in [ROOT / room, *(path for path in (ROOT / room).rglob("*") if path.is_dir())]:
            entries = {path.name for path in folder.iterdir()} - {"__init__.py", "__init__.pyi", "__pycache__"}
            assert len(entries) <= 12, (folder.relative_to(ROOT), sorted(entries))


def test_no_import_goes_round_in_a_circle():
    """Among imports that run when a module is loaded; a wing's door loads nothing by itself."""
    graph = {}
    for path in (path for room in ROOMS for path in modules(room)):
        here = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        wanted = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ROOMS:
                wanted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[here] = wanted
    graph = {here: wanted & graph.keys() - {here} for here, wanted in graph.items()}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    for path in modules(room):
        for name in imports(path):
            top = name.partition(".")[0]
            assert top not in ROOMS or top in ROOMS[room], f"{path.relative_to(ROOT)} imports {name}"


def test_networks_import_nothing_of_ours_but_networks():
    for path in modules("tasks/models"):
        for name in imports(path):
            assert name.partition(".")[0] not in ROOMS or name.startswith("tasks.models"), f"{path.name}: {name}"


def test_stages_know_neither_ray_nor_prefect():
    for path in modules("tasks"):
        assert not HEAVY_FOR_STAGES & {name.partition(".")[0] for name in imports(path)}, path.name


def loaded_after(code):
    check = f"{code}; import sys; print(*sorted({{'torch', 'ray', 'prefect', 'duckdb', 'cv2'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True, timeout=120
    )
    return done.stdout.split()


def test_the_command_line_starts_light():
    assert loaded_after("import flows, flows.cli.main") == []


def test_recipes_validate_without_torch_or_ray():
    code = "from tasks.recipes.recipe import *; [load_recipe(n) for n in recipe_names()]"
    assert not {"torch", "ray", "prefect"} & set(loaded_after(code))


def test_the_lock_holds_every_dependency_and_no_host():
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?://|find-links|--index|--extra-index", lock)
    locked = {m[1].lower() for m in re.finditer(r"^([A-Za-z0-9_.-]+)==", lock, re.MULTILINE)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dev = [d for d in project["optional-dependencies"]["dev"] if not d.startswith("mpsr-batch")]
    for requirement in project["dependencies"] + project["optional-dependencies"]["s3"] + dev:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower()
        assert name in locked, name
    assert lock.count("--hash=sha256:") >= len(locked)


def test_no_file_outgrows_a_screen_or_two():
    for room in ROOMS:
        for path in modules(room):
            assert len(path.read_text().splitlines()) <= 400, path.relative_to(ROOT)


def test_every_setting_stands_in_the_page_of_settings():
    from infra.settings import Settings

    page = (ROOT / "docs" / "settings.md").read_text()
    assert [name for name in Settings.model_fields if f"`{name}`" not in page] == []


def test_every_reason_stands_in_the_page_of_outcomes():
    from tasks.archive.books import REASONS

    page = (ROOT / "docs" / "outcomes.md").read_text()
    assert [code for code in REASONS if f"`{code}`" not in page] == []


def test_every_test_that_the_crash_matrix_names_is_there():
    page = (ROOT / "docs" / "reliability.md").read_text()
    named = set(re.findall(r"test_\w+\.py", page))
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(named) > 10
    assert named - there == set()


def test_every_setting_has_a_sentence():
    from infra.settings import Settings
    from tasks.recipes.recipe import load_recipe, recipe_names

    models = {Settings, *(stage.cls.Settings for name in recipe_names() for stage in load_recipe(name).stages)}
    for model in models:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
