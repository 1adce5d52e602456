"""`mpsr demo`: an archive made on the spot, restored for real, and measured against its known originals."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from flows.cli.words import restoration as tell
from flows.cli.words import terminal
from flows.jobs.restoration import DEMO_SEED, Job

if TYPE_CHECKING:
    from tasks.archive.demo import Expected, Gain


def run_demo(folder: Path, as_json: bool) -> int:
    """Makes the archive, restores it, prints gains and balance; 0 when every file had an outcome it should have."""
    from flows.cli.local import run_flow
    from flows.cli.questions.preview import file_outcomes
    from infra.ledger.ledger import Ledger
    from infra.storage.storage import Storage
    from tasks.archive.demo import gains, make

    began = time.monotonic()
    archive, workspace = folder / "archive", folder / "workspace"
    expected = make(folder, DEMO_SEED)
    terminal.err.print(f"made {len(expected)} files in {archive}; restoring them with the compact recipe …")
    summary = run_flow(Job(source=str(archive.absolute()), workspace=str(workspace.absolute())))
    outcomes = file_outcomes(Ledger.open(Storage(workspace), create=False))
    surprises = [e for e in expected if outcomes.get(e.path) not in e.outcomes]
    table = gains(expected, workspace / "restored")
    if as_json:
        terminal.print_json(
            {**summary, "gains": [gain.as_dict() for gain in table], "surprises": [s.path for s in surprises]}
        )
    else:
        _print(summary, table, expected, outcomes, workspace, time.monotonic() - began)
    for surprise in surprises:
        wanted = " or ".join(sorted(surprise.outcomes))
        terminal.print_error(f"{surprise.path}: expected {wanted}, got {outcomes.get(surprise.path, 'nothing')}")
    return 1 if surprises else 0


def _print(
    summary: dict[str, Any],
    table: Sequence[Gain],
    expected: Sequence[Expected],
    outcomes: dict[str, str],
    workspace: Path,
    seconds: float,
) -> None:
    shown = Table(title="true gains against the known originals", title_justify="left", show_edge=False)
    shown.add_column("file", overflow="fold")
    for title in ("face PSNR", "gain", "face SSIM", "gain", "whole PSNR", "gain"):
        shown.add_column(title, justify="right")
    for gain in table:
        shown.add_row(gain.path, *gain.cells())
    terminal.out.print(shown)
    tell.print_stages(summary["stages"])
    terminal.print_summary(summary, str(workspace / "report" / "index.html"))
    as_wanted = sum(outcomes.get(e.path) in e.outcomes for e in expected)
    terminal.out.print(
        f"{as_wanted} of {len(expected)} files had the outcome that the demo expects; {seconds:.0f} s in all"
    )
    terminal.out.print(f"restored pictures: {workspace / 'restored'}", soft_wrap=True)
