"""Thirty mistakes: each is said before anything starts, in one sentence, with the exit code of wrong usage."""

from __future__ import annotations

import json
import os
import re
import socket

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import main as cli
from flows.jobs import job_for

RUN = ("run", "photos", "-w", "out")
MISTAKES = {
    # what is to be restored
    "no such folder": (["run", "nowhere", "-w", "out"], "no folder with pictures at .*nowhere"),
    "no such picture": (["run", "photos/two.png", "-w", "out"], r"no folder with pictures at .*two\.png"),
    "neither": (["run", "-w", "out"], "Missing argument"),
    "a bucket without credentials": (["run", "s3://bucket/x", "-w", "out"], "credentials and endpoint"),
    "an unknown protocol": (["run", "zzz://bucket/x", "-w", "out"], "Protocol not known"),
    "a secret in the address": (["run", "s3://me:secret@bucket/x", "-w", "out"], "credentials in the environment"),
    # where to
    "no workspace": (["run", "photos"], "Missing option '--workspace'"),
    "a file for a workspace": (["run", "photos", "-w", "file"], "expected a folder for the workspace, got .*file"),
    "a workspace below a file": (["run", "photos", "-w", "file/out"], "where .*file is a file"),
    "a workspace without permission": (["run", "photos", "-w", "locked/out"], "no permission in .*locked"),
    "a workspace in the archive": (["run", "photos", "-w", "photos/out"], "overlap"),
    "a workspace around the archive": (["run", "photos", "-w", "."], "overlap"),
    "a workspace around the picture": (["run", "photos/one.png", "-w", "photos"], "lies in the workspace"),
    "somebody else's folder restored": (["run", "photos", "-w", "mine"], "nothing is overwritten"),
    "a workspace of a newer version": (["run", "photos", "-w", "newer"], "install a newer one"),
    "a damaged workspace": (["run", "photos", "-w", "torn"], "a disk or a copy damaged it"),
    "a bucket for a workspace": (["run", "photos", "-w", "s3://bucket/x"], "credentials and endpoint"),
    # how
    "a mistyped recipe": ([*RUN, "--recipe", "compcat"], "did you mean 'compact'"),
    "a recipe file that is not there": ([*RUN, "--recipe", "mine.toml"], r"no recipe file .*mine\.toml"),
    "a recipe file that is no TOML": ([*RUN, "--recipe", "broken.toml"], "is not TOML"),
    "a recipe with an unknown stage": ([*RUN, "--recipe", "odd.toml"], "nothing is called 'beauty'"),
    "a recipe without its weights": ([*RUN, "--recipe", "mpsr-ntire2025"], "mpsr-ntire2025|models pull"),
    "a mistyped setting": ([*RUN, "--set", "wokers=2"], "known settings are"),
    "a setting out of range": ([*RUN, "--set", "workers=-1"], "workers.*greater than or equal to 0.*-1"),
    "a setting without a value": ([*RUN, "--set", "workers"], "NAME=VALUE"),
    "a mistyped setting of a stage": ([*RUN, "--set", "identity.treshold=1"], "treshold"),
    "a pool that is not there": ([*RUN, "--set", 'placement={"identity": "x"}'], "placement identity = 'x'"),
    "pools without processes": ([*RUN, "--engine", "local", "--set", 'pools={"x": 1}'], "use engine = 'ray'"),
    "an unknown engine": ([*RUN, "--engine", "spark"], "spark"),
    "an unknown option": ([*RUN, "--frobnicate"], "No such option"),
    "a mistyped command": (["rnu", "photos"], "No such command"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws"))
    monkeypatch.setenv("MPSR_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setattr("flows.cli.local.quiet_prefect", lambda: pytest.fail("something was started"))
    monkeypatch.setattr("flows.restoration.run.open_session", lambda *_: pytest.fail("something was done"))
    for folder in ("photos", "mine/restored", "newer", "torn", "locked"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "photos/one.png")
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "newer/_format.json").write_text('{"format": 99, "buckets": 1}')
    (tmp_path / "torn/_format.json").write_text('{"form')
    (tmp_path / "broken.toml").write_text("name = ")
    (tmp_path / "odd.toml").write_text('name = "odd"\n[[stage]]\nid = "beauty"\n')
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path) and real(path, mode))
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_in_one_sentence_before_anything_starts(mistake, here, monkeypatch, capsys):
    arguments, words = MISTAKES[mistake]
    before = sorted(path.name for path in here.rglob("*"))
    said = ended(arguments, monkeypatch, capsys)
    flat = " ".join(said.err.replace("│", " ").split())
    assert said.code == 2, said
    assert re.search(words, flat), flat
    assert "Traceback" not in flat
    assert "hint: run the same command again" not in flat
    assert "secret@" not in flat
    assert sorted(path.name for path in here.rglob("*")) == before, "something was made"


def test_a_taken_port_is_left_alone(here, monkeypatch, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        said = ended(["serve", "--port", str(other.getsockname()[1])], monkeypatch, capsys)
    assert said.code == 2
    assert "is taken" in said.err


def test_data_sets_of_the_package_are_found_anywhere_and_their_folders_are_here(here):
    job = job_for(dataset="ntire2025-realworld-face", source=None, workspace="out")
    assert job.source.startswith(str(here / "data_manifests"))


def test_with_json_the_error_is_an_object(here, monkeypatch, capsys):
    said = ended(["run", "nowhere", "-w", "out", "--json"], monkeypatch, capsys)
    told = json.loads(said.out)["error"]
    assert (told["kind"], told["exit_code"], told["hint"]) == ("JobError", 2, "")
    assert "nowhere" in told["message"]


def test_a_defect_goes_to_the_log_which_is_named(here, monkeypatch, capsys):
    monkeypatch.setattr("flows.cli.questions.engine.placed", lambda job: 1 / 0)
    said = ended(["--log-file", str(here / "a log"), "plan", "photos", "-w", "out"], monkeypatch, capsys)
    assert said.code == 3
    assert "ZeroDivisionError: division by zero; this is a defect" in said.err
    assert str(here / "a log") in said.err
    assert said.err.count("\n") == 1
    assert "Traceback" in (here / "a log").read_text()


class Ended:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"{self.code}: {self.out} {self.err}"


def ended(arguments, monkeypatch, capsys):
    """What `mpsr` with these arguments said, and how it ended."""
    monkeypatch.setattr("sys.argv", ["mpsr", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return Ended(exit_.value.code, *capsys.readouterr())


@pytest.mark.parametrize("option", ["-h", "--help", "--version"])
def test_what_everybody_tries_first(option):
    result = CliRunner().invoke(cli.app, [option])
    assert result.exit_code == 0
    assert "mpsr" in result.output
