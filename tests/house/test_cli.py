"""The command line: what scripts rely on."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from rich.table import Table
from typer.testing import CliRunner

from flows.cli.main import app
from flows.cli.options import EXIT_CODES
from flows.cli.words import terminal
from flows.jobs.data_set import JobError
from flows.jobs.restoration import job_for
from infra.settings import SettingsError, load_settings

runner = CliRunner()


def mpsr(*arguments, **environment):
    """The real command in a process of its own."""
    command = [sys.executable, "-c", "from flows.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )


def test_help_names_every_command():
    text = runner.invoke(app, ["--help"]).output
    commands = "scan plan run status report explain retry clean models train doctor demo serve"
    assert all(command in text for command in commands.split())


def test_without_arguments_there_is_help_and_code_2():
    assert runner.invoke(app, []).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere", "-w", "out", "--recipe", "compcat"], ["compcat", "did you mean 'compact'"]),
        (["run", "x", "-w", "x/out"], ["overlap"]),
        (["run", "x", "-w", "out", "--set", "wokers=2"], ["wokers", "known settings"]),
        (["run", "x", "-w", "out", "--set", "identity.treshold=1"], ["treshold", "threshold"]),
        (["run", "x", "-w", "out", "--set", "workers"], ["NAME=VALUE"]),
        (["status", "-w", "nothing-here"], ["expected a workspace"]),
        (["retry", "-w", "nothing-here"], ["expected a workspace"]),
        (["explain", "some.jpg"], ["no workspace"]),
    ],
)
def test_wrong_usage_is_said_in_words_with_code_2_and_nothing_is_made(arguments, words, tmp_path):
    done = mpsr(*arguments, PYTHONPATH=str(ROOT), HOME=str(tmp_path))
    assert done.returncode == 2, done.stderr
    flat = " ".join(done.stderr.replace("│", " ").split())
    assert all(word in flat for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert not (Path.cwd() / "out").exists()


def test_scan_counts_formats_and_problems(tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    (tmp_path / "b.png").write_bytes(b"")
    result = runner.invoke(app, ["scan", str(tmp_path), "--json"])
    counts = json.loads(result.stdout)
    assert counts["found"] == 2
    assert counts["not_an_image"] == 1
    assert counts["empty_file"] == 1


def test_a_missing_source_is_an_error_with_its_name(tmp_path):
    done = mpsr("scan", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hint" not in done.stderr


def test_flags_beat_environment_beats_file_beats_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_settings().retries == 3
    (tmp_path / "mpsr.toml").write_text("retries = 4\nshard_size = 9\n")
    assert load_settings().retries == 4
    monkeypatch.setenv("MPSR_RETRIES", "5")
    assert load_settings().retries == 5
    assert load_settings(retries=6).retries == 6
    assert load_settings(retries=None).shard_size == 9


def test_a_setting_out_of_range_names_itself(monkeypatch):
    monkeypatch.setenv("MPSR_QUARANTINE_BUDGET", "1.5")
    with pytest.raises(SettingsError, match=r"quarantine_budget.*1\.5"):
        load_settings()


def test_originals_and_outputs_may_not_overlap(tmp_path):
    for source, workspace in (("a", "a"), ("a", "a/b"), ("a/b", "a"), ("s3://x/a", "s3://x/a/ws")):
        roots = [p if "://" in p else str(tmp_path / p) for p in (source, workspace)]
        with pytest.raises(JobError, match="overlap"):
            job_for(source=roots[0], workspace=roots[1])
    job_for(source="s3://x/a", workspace="s3://x/ab")


def test_an_unknown_data_set_names_the_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_manifests").mkdir()
    (tmp_path / "data_manifests/holiday.toml").write_text('source = "a"\nworkspace = "b"\n')
    assert job_for(dataset="holiday").source == str(tmp_path / "data_manifests/a")
    (tmp_path / "data_manifests/holiday.toml").write_text('recipe = "compact"\n')
    with pytest.raises(JobError, match=r"holiday\.toml names no source"):
        job_for(dataset="holiday")
    (tmp_path / "data_manifests/holiday.toml").write_text('source = "a"\n')
    with pytest.raises(JobError, match="expected a workspace"):
        job_for(dataset="holiday")
    with pytest.raises(JobError, match="holiday"):
        job_for(dataset="holidays")


def test_every_declared_exit_code_is_documented():
    page = (ROOT / "docs" / "commands.md").read_text()
    assert all(f"| {code} | {words}" in page for code, words in EXIT_CODES.items())
    assert JobError("x").exit_code == 2


def test_no_name_is_markup_and_no_terminal_obeys_one(monkeypatch):
    """Names of files come from anywhere: `[/]` ended `explain`, and an escape could rewrite the screen."""
    shown = io.StringIO()
    for console in (terminal.out, terminal.err):
        monkeypatch.setattr(console, "_file", shown)
    name = "a[/]b[red]\\[x] \x1b[2J\x1b]0;evil\x07 \u202egpj.exe \udcff:smile:.jpg"
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    for tell in (terminal.say, terminal.print_error, terminal.out.print, lambda text: terminal.print_error("x", text)):
        tell(name)
    terminal.out.print(table, width=400)
    told = shown.getvalue()
    assert not set(told) & {"\x1b", "\x07", "\u202e", "\udcff"}
    assert told.count("a[/]b[red]\\[x] \\x1b[2J\\x1b]0;evil\\x07 \\u202egpj.exe \\udcff:smile:.jpg") >= 7


def test_what_a_run_warns_of_reaches_the_person_at_the_terminal(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(terminal.err, "file", shown)
    with terminal.warnings_told():
        logging.getLogger("mpsr.ledger").warning("%s was damaged", "a[/]\x1b.parquet")
    logging.getLogger("mpsr.ledger").warning("later")
    assert shown.getvalue() == "note: a[/]\\x1b.parquet was damaged\n"
