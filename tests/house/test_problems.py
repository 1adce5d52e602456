"""Errors that are for people: how a command ends, what it says, and that none of them shows a traceback."""

from __future__ import annotations

import ast
import builtins
import pickle
import re

import pytest
from places import ROOT
from typer.testing import CliRunner

from flows.cli import main as cli
from flows.jobs import JobError
from flows.session import RunStopped
from infra import problems
from infra.problems import ForPeople
from infra.storage import StorageFullError
from infra.workers.errors import WorkersKeepDying

runner = CliRunner()
EVALUATE = ("evaluate", "photos", "--against", "photos")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of pictures, an empty folder, and a file, as places that a command may be given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPSR_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setattr("flows.cli.local.quiet_prefect", lambda: None)
    (tmp_path / "photos").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no folder")
    return tmp_path


def classes():
    """Every class of ours as it is written."""
    paths = (path for folder in ("flows", "tasks", "infra") for path in (ROOT / folder).rglob("*.py"))
    for path in paths:
        yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef))


def bases_of(node):
    return {ast.unparse(base) for base in node.bases}


def code_of(node):
    return next((ast.unparse(line.value) for line in node.body if ast.unparse(line).startswith("exit_code =")), "3")


def test_the_tree_names_every_error_for_people_with_its_code():
    drawn = dict(re.findall(r"^[├└]── (\w+) +(\d)", problems.__doc__, re.MULTILINE))
    assert drawn == {node.name: code_of(node) for node in classes() if "ForPeople" in bases_of(node)}


def test_an_error_that_is_for_nobody_is_one_that_its_callers_catch():
    kinds = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert {node.name for node in classes() if bases_of(node) and bases_of(node) <= kinds} == {
        "ForPeople",
        "CheckpointError",
        "NoRoom",
        "DecodeError",
        "DegenerateLandmarksError",
        "IQAUnavailableError",
        "InfrastructureError",
        "MissingTerm",
        "PairProblem",
        "ResourceExhausted",
        "Unmeasurable",
        "_Cut",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scan", "nowhere"], "nowhere"),
        (["scan", "file"], "no folder with pictures"),
        (["scan", "memory://nowhere"], "no folder with pictures"),
        (["scan", "zzz://nowhere/x"], "Protocol not known"),
        (["scan", "s3://me:secret@bucket/x"], "give credentials in the environment"),
        (["plan", "nowhere", "-w", "out"], "nowhere"),
        (["run", "nowhere", "-w", "out"], "nowhere"),
        (["run", "memory://nowhere", "-w", "out"], "nowhere"),
        (["report", "-w", "empty"], "expected a workspace"),
        (["report", "-w", "nowhere"], "expected a workspace"),
        (["report", "-w", "memory://nowhere"], "expected a workspace"),
        (["status", "-w", "empty"], "expected a workspace"),
        (["status", "-w", "zzz://nowhere"], "Protocol not known"),
        (["explain", "a.jpg", "-w", "empty"], "expected a workspace"),
        (["clean", "-w", "nowhere"], "expected a workspace"),
        (["retry", "-w", "empty"], "expected a workspace"),
        (["promotions", "empty"], "expected a workspace"),
        (["rollback", "nowhere"], "expected a workspace"),
        (["evaluate", "nowhere", "--against", "photos"], "no folder with restored pictures"),
        (["evaluate", "photos", "--against", "memory://nowhere"], "no folder with inputs"),
        ([*EVALUATE, "--truth", "nowhere"], "no folder with true pictures"),
        ([*EVALUATE, "--metrics", "beauty"], "no metric is called 'beauty'"),
        (["compare", "photos", "empty", "--against", "nowhere"], "no folder with pictures"),
        (["compare", "photos", "empty", "--against", "photos", "--truth", "nowhere"], "no folder with true pictures"),
        (["compare", "nowhere", "photos", "--against", "photos"], "there is nothing at"),
        (["train", "niqe", "--data", "nowhere"], "nowhere"),
        (["train", "niqe", "--data", "file"], "file"),
        (["models", "list", "beauty"], "no weights are called 'beauty'"),
    ],
)
def test_what_is_not_there_is_wrong_usage(arguments, words, here):
    result = runner.invoke(cli.app, arguments)
    assert isinstance(result.exception, ForPeople), result.exception
    assert (result.exception.exit_code, result.exception.hint) == (2, "")
    assert words in str(result.exception)
    assert "secret" not in str(result.exception)
    assert sorted(path.name for path in here.iterdir()) == ["empty", "file", "photos"], "something was made"


@pytest.mark.parametrize(("file", "variable"), [("retries = [", ""), ("", "{"), ("", "[1]")])
def test_settings_that_cannot_be_read_are_wrong_usage(file, variable, here, monkeypatch):
    (here / "mpsr.toml").write_text(file)
    monkeypatch.setenv("MPSR_POOLS", variable)
    assert runner.invoke(cli.app, ["doctor"]).exception.exit_code == 2


def test_a_table_of_weights_that_is_not_there_is_wrong_usage(here, monkeypatch):
    monkeypatch.setenv("MPSR_WEIGHTS_TABLE", "nowhere.toml")
    error = runner.invoke(cli.app, ["models", "list"]).exception
    assert error.exit_code == 2
    assert "nowhere.toml" in str(error)


@pytest.mark.parametrize(
    ("error", "code", "hint"),
    [
        (JobError("no archive"), 2, False),
        (RunStopped("too many"), 3, True),
        (StorageFullError("no space"), 3, True),
        (WorkersKeepDying("four times"), 3, True),
        (KeyError("a defect"), 3, False),
    ],
)
def test_the_command_ends_as_the_error_says(error, code, hint, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == code
    assert (problems.RESUME in said) == hint
    assert "Traceback" not in said
    assert ("defect" in said) != isinstance(error, ForPeople)


def test_errors_for_people_survive_the_way_out_of_a_process():
    for error in (JobError("a"), RunStopped("b"), StorageFullError("c"), WorkersKeepDying("d")):
        twin = pickle.loads(pickle.dumps(error))
        assert (type(twin), str(twin)) == (type(error), str(error))
