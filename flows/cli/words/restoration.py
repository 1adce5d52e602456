"""Tables and paragraphs of `mpsr`'s answers, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from flows.cli.words.terminal import duration, out, plural, printable, say
from flows.cli.words.weights import human_bytes, print_missing
from infra.extras import how_to_get

if TYPE_CHECKING:
    from flows.cli.questions.doctor import Check
    from flows.cli.questions.explain import Explanation, Step
    from flows.cli.questions.preview import Preview
    from flows.cli.questions.status import Status
    from flows.restoration import Repair, Verification
    from flows.session import Balance, StageTotal, Summary
    from tasks.recipes import Forecast, Held


def print_counts(title: str, counts: Mapping[str, Any]) -> None:
    """A two-column table."""
    table = Table(title=title, title_justify="left", show_edge=False, show_header=False)
    for name, value in counts.items():
        table.add_row(name, human_bytes(value) if name.endswith("bytes") else str(value))
    out.print(table)


def print_stages(stages: Mapping[str, StageTotal]) -> None:
    """Items, seconds inside the stages, and rate per worker."""
    table = Table(title="time by stage, added over workers", title_justify="left", show_edge=False)
    for heading in ("stage", "items", "seconds", "ms each"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for name, stage in stages.items():
        each = 1000 * stage.seconds / stage.items if stage.items else 0.0
        table.add_row(name, str(stage.items), f"{stage.seconds:.2f}", f"{each:.0f}")
    out.print(table)


def print_plan(told: Preview) -> None:
    """The plan in words: what, why, what is missing, whether it fits."""
    why = ", ".join(f"{n} {name}" for name, n in told.why.items()) or "nothing"
    say(f"to do:    {plural(told.images, 'image')} of {plural(told.found, 'file')} ({why})")
    if told.problems:
        say("not used: ", ", ".join(f"{n} {name}" for name, n in told.problems.items()))
    if told.gone:
        say(f"gone:     {plural(told.gone, 'file')} of the last scan")
    say(f"recipe:   {told.recipe}: {' → '.join(told.stages)}")
    say(f"gpu:      memory of a worker there: {told.gpu_memory}")
    free = "unknown" if told.free_bytes is None else human_bytes(told.free_bytes)
    say(f"disk:     about {human_bytes(told.output_bytes)} of restored files; free: {free}")
    print_forecast(told.forecast, told.no_forecast)
    for extra in told.extras_missing:
        say("package: ", how_to_get(extra))
    print_missing(told.weights_missing, told.recipe)


def print_forecast(told: Forecast | None, why_not: str) -> None:
    """Time with its range and parts, what it stands on, and the money."""
    if told is None:
        say("time:    ", f"not known: {why_not}" if why_not else "nothing to do")
        return
    parts = ", ".join(f"{name.replace('_', ' ')} {duration(seconds)}" for name, seconds in told.parts.items())
    devices = f"{plural(told.workers, 'worker')}, {plural(told.devices, 'GPU or machine', 'GPUs or machines')}"
    say(f"time:     about {duration(told.seconds)} ({duration(told.low)} to {duration(told.high)}) with {devices}")
    say(f"          {parts}")
    say(f"          from a {told.how} of {plural(told.pictures, 'picture')}; about {told.faces} faces expected")
    if told.shares:
        say(f"          assumed shares of the faces: {_shares(told.shares)}")
    if told.assumed:
        say(f"          assumed: {told.assumed}")
    if told.cost is None:
        say("cost:     not known without a price; give --price-per-gpu-hour")
        return
    money = f"{told.cost:.2f} ({told.cost_low:.2f} to {told.cost_high:.2f})"
    say(f"cost:     about {money}: {told.device_hours:.2f} device hours at {told.price_per_gpu_hour:g}")


def _shares(shares: Mapping[str, float]) -> str:
    """Stages with the same share together."""
    by_share: dict[str, list[str]] = {}
    for name, share in shares.items():
        by_share.setdefault(f"{100 * share:.0f} %", []).append(name)
    return "; ".join(f"{share} through {', '.join(names)}" for share, names in by_share.items())


def print_summary(summary: Summary, report: str) -> None:
    """The balance of a run, how long it took, and where to look."""
    print_balance(summary)
    say(f"time:    {summary.seconds or 0:.1f} s")
    if summary.forecast:
        say(f"forecast: {_held_to_it(summary.forecast)}")
    out.print(f"report:  {report}", soft_wrap=True)


def print_balance(balance: Balance) -> None:
    """Outcomes that add up, and reasons."""
    table = Table(title=plural(balance.found, "file"), title_justify="left", show_edge=False)
    table.add_column("outcome")
    table.add_column("files", justify="right")
    for outcome, files in balance.outcomes.items():
        table.add_row(outcome.replace("_", " "), str(files), style=None if files else "dim")
    out.print(table)
    reasons = ", ".join(f"{name} {n}" for name, n in balance.reasons.items())
    out.print(f"reasons: {reasons or 'none'}")
    say(f"faces:   {balance.faces['found']}")
    if sidecars := balance.reasons.get("sidecar"):
        say(f"sidecars: {sidecars} files that go with pictures (.xmp, .aae, …) stayed in the archive, unchanged")


def _held_to_it(told: Held) -> str:
    """A forecast beside what the run took and cost."""
    error, within = told.error_percent, told.low <= told.took_seconds <= told.high
    off = f"{abs(error):.0f} % {'more' if error > 0 else 'less'} than the {duration(told.took_seconds)} it took"
    range_ = f"{duration(told.low)} to {duration(told.high)}, {'kept' if within else 'missed'}"
    money = "" if told.cost is None else f"; cost {told.cost_of_run:.2f}, forecast {told.cost:.2f}"
    return f"{duration(told.seconds)} ({range_}), {off}, start of Prefect and report included{money}"


def print_status(told: Status) -> None:
    """Outcomes, who is running, the last run."""
    print_balance(told)
    running, last = told.running, told.last_run
    say("running: ", f"{running.run_id} on {running.host}, process {running.pid}" if running else "nobody")
    say(f"last run: {last.run_id}, started {last.started},", "finished" if last.finished else "not finished")
    if gate := told.last_promotion:
        counts = ", ".join(f"{action} {n}" for action, n in gate.counts.items())
        say(f"nightly:  promotion {gate.id} {gate.state} ({counts})", "; ".join(gate.refused_because))
    for file in told.files or ():
        say(f"{file.path}: {file.reason}", file.said or "")


def print_verification(told: Verification) -> None:
    """What is not as it was written, and that all else is."""
    for path in told.ledger:
        say(f"{path} is not what was written")
    for path in told.intermediates:
        say(f"{path} is not what was written; it will be made again when it is needed")
    for wrong in told.restored:
        say(wrong)
    if told.ledger:
        say("restored files were not compared, for want of a whole ledger; `mpsr repair` sets damaged files aside")
    else:
        say(f"{told.compared - len(told.restored)} of {told.compared} restored files are what was delivered")


def print_repair(told: Repair) -> None:
    """What was set aside, delivered again, and is left to be made."""
    for path in told.set_aside:
        say(f"set aside: {path}, now in damaged/")
    for path in told.delivered:
        say(f"delivered again: {path}")
    for path in told.to_make:
        say(f"to be made again by `mpsr run`: {path}")
    if not (told.set_aside or told.delivered or told.to_make):
        say("everything is what was written")


def print_explanation(told: Explanation, *, faces: bool) -> None:
    """One file's story, stage by stage: what became of its faces in all, or (`faces`) of each."""
    given, verdict = told.input, told.verdict
    say(told.path)
    say(f"input    {given.format}, {given.width}×{given.height}, {given.bytes} bytes, sha256 {given.image_id}")
    if given.problem:
        say(f"problem  {given.problem}", given.problem_text or "")
    if verdict:
        say(f"verdict  {verdict.detail.get('outcome')} ({verdict.reason_code})", verdict.reason or "")
        say(f"output   {verdict.output or 'none'}  sha256 {verdict.output_sha256 or 'none'}")
    if gate := told.promotion:
        made_in = f", made in run {gate.made_in}" if gate.made_in else ""
        say(f"nightly  {gate.did}{made_in}, promotion {gate.id}", gate.why or "")
    for note in (note for step in told.stages for note in _texts(step.detail.get("notes"))):
        say(f"note     {note}")
    out.print(_stage_table(told.stages) if faces else _stage_summary(told.stages))
    if not faces and any(step.face >= 0 for step in told.stages):
        say("         --faces shows every face")
    for run_id, run in told.runs.items():
        say(f"run {run_id}: {run.software}, {run.device}, recipe {run.recipe.name}")
        for name, sha in run.weights.items():
            say(f"  weights {name} sha256 {sha}")


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _stage_summary(steps: Sequence[Step]) -> Table:
    table = Table(show_edge=False)
    for heading in ("stage", "network", "what became of it", "ms"):
        table.add_column(heading, overflow="fold")
    for (stage, network), group in groupby(steps, key=lambda step: (step.stage, step.network)):
        members = list(group)
        counts = Counter(step.reason_code or step.state for step in members if step.face >= 0)
        whole = [step.reason_code or step.state for step in members if step.face < 0]
        became = [f"picture: {reason}" for reason in whole] + [f"{n} faces: {reason}" for reason, n in counts.items()]
        took = sum(step.device_ms or 0 for step in members)
        table.add_row(stage, network, ", ".join(became), f"{took:.0f}")
    return table


def _stage_table(steps: Sequence[Step]) -> Table:
    table = Table(show_edge=False)
    for heading in ("stage", "face", "state", "reason", "scores", "ms"):
        table.add_column(heading, overflow="fold")
    for step in steps:
        scores = " ".join(f"{name}={value:.3g}" for name, value in step.metrics.items())
        face = "image" if step.face < 0 else str(step.face)
        table.add_row(step.stage, face, step.state, step.reason_code, scores, f"{step.device_ms or 0:.0f}")
    return table


def print_checks(checks: Sequence[Check]) -> None:
    """The doctor's findings, with a cure beside each that needs one."""
    marks = {"good": ("ok  ", "green"), "note": ("note", "yellow"), "bad": ("bad ", "red")}
    for check in checks:
        cure = f"  → {check.cure}" if check.cure else ""
        said = printable(f" {check.name}: {check.found}{cure}")
        out.print(Text.assemble(marks[check.level], said), soft_wrap=True)
