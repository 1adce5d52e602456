"""Tables and paragraphs of `mpsr`'s answers, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from flows.cli.words.terminal import duration, out, plain, print_summary, say
from flows.cli.words.weights import human_bytes, print_missing
from infra.extras import how_to_get


def print_counts(title: str, counts: Mapping[str, Any]) -> None:
    """A two-column table."""
    table = Table(title=title, title_justify="left", show_edge=False, show_header=False)
    for name, value in counts.items():
        table.add_row(plain(name), human_bytes(value) if name.endswith("bytes") else str(value))
    out.print(table)


def print_stages(stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Items, seconds inside the stages, and rate per worker."""
    table = Table(title="time by stage, added over workers", title_justify="left", show_edge=False)
    for heading in ("stage", "items", "seconds", "ms each"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for name, stage in stages.items():
        each = 1000 * stage["seconds"] / stage["items"] if stage["items"] else 0.0
        table.add_row(name, str(stage["items"]), f"{stage['seconds']:.2f}", f"{each:.0f}")
    out.print(table)


def print_plan(data: Mapping[str, Any]) -> None:
    """The plan in words: what, why, what is missing, whether it fits."""
    why = ", ".join(f"{n} {name}" for name, n in data["why"].items()) or "nothing"
    say(f"to do:    {data['images']} images of {data['found']} files ({why})")
    if data["problems"]:
        say("not used: ", ", ".join(f"{n} {name}" for name, n in data["problems"].items()))
    if data["gone"]:
        say(f"gone:     {data['gone']} files that were there at the last scan")
    say(f"recipe:   {data['recipe']}: {' → '.join(data['stages'])}")
    free = "unknown" if data["free_bytes"] is None else human_bytes(data["free_bytes"])
    say(f"disk:     about {human_bytes(data['output_bytes'])} of restored files; free: {free}")
    print_forecast(data["forecast"], data["no_forecast"])
    for extra in data["extras_missing"]:
        say("package: ", how_to_get(extra))
    print_missing(data["weights_missing"], data["recipe"])


def print_forecast(told: Mapping[str, Any] | None, why_not: str) -> None:
    """Time with its range and parts, what it stands on, and the money."""
    if told is None:
        say("time:    ", f"not known: {why_not}" if why_not else "nothing to do")
        return
    low, high = duration(told["low"]), duration(told["high"])
    parts = ", ".join(f"{name.replace('_', ' ')} {duration(seconds)}" for name, seconds in told["parts"].items())
    devices = f"{told['workers']} workers, {told['devices']} GPU(s) or machine(s)"
    say(f"time:     about {duration(told['seconds'])} ({low} to {high}) with {devices}")
    say(f"          {parts}")
    say(f"          from a {told['how']} of {told['pictures']} pictures; about {told['faces']} faces expected")
    if told["shares"]:
        say(f"          assumed shares of the faces: {_shares(told['shares'])}")
    if told["assumed"]:
        say(f"          assumed: {told['assumed']}")
    if told["cost"] is None:
        say("cost:     not known without a price; give --price-per-gpu-hour")
        return
    money = f"{told['cost']:.2f} ({told['cost_low']:.2f} to {told['cost_high']:.2f})"
    say(f"cost:     about {money}: {told['device_hours']:.2f} device hours at {told['price_per_gpu_hour']:g}")


def _shares(shares: Mapping[str, float]) -> str:
    """Stages with the same share together."""
    by_share: dict[str, list[str]] = {}
    for name, share in shares.items():
        by_share.setdefault(f"{100 * share:.0f} %", []).append(name)
    return "; ".join(f"{share} through {', '.join(names)}" for share, names in by_share.items())


def print_status(data: Mapping[str, Any]) -> None:
    """Outcomes, who is running, the last run."""
    print_summary({**data, "seconds": None})
    running, last = data["running"], data["last_run"]
    who = f"{running['run_id']} on {running['host']}, process {running['pid']}" if running else "nobody"
    say(f"running:  {who}")
    say(f"last run: {last['run_id']}, started {last['started']},", "finished" if last["finished"] else "not finished")
    if gate := data["last_promotion"]:
        counts = ", ".join(f"{action} {n}" for action, n in gate["counts"].items())
        say(f"nightly:  promotion {gate['id']} {gate['state']} ({counts})", "; ".join(gate["refused_because"]))
    for row in data.get("files", []):
        say(f"{row['path']}: {row['reason']}", row["said"] or "")


def print_explanation(data: Mapping[str, Any]) -> None:
    """One file's story, stage by stage."""
    given, verdict = data["input"], data["verdict"]
    say(data["path"])
    size = f"{given['width']}×{given['height']}, {given['bytes']} bytes"
    say(f"input    {given['format']}, {size}, sha256 {given['image_id']}")
    if given["problem"]:
        say(f"problem  {given['problem']}", given["problem_text"] or "")
    if verdict:
        say(f"verdict  {verdict['detail'].get('outcome')} ({verdict['reason_code']})", verdict["reason"] or "")
        say(f"output   {verdict['output'] or 'none'}  sha256 {verdict['output_sha256'] or 'none'}")
    if gate := data["promotion"]:
        made_in = f", made in run {gate['made_in']}" if gate["made_in"] else ""
        say(f"nightly  {gate['did']}{made_in}, promotion {gate['id']}", gate["why"] or "")
    out.print(_stage_table(data["stages"]))
    for run_id, run in data["runs"].items():
        recipe = run.get("recipe", {}).get("name")
        say(f"run {run_id}: {run.get('software')}, {run.get('device')}, recipe {recipe}")
        for name, sha in run.get("weights", {}).items():
            say(f"  weights {name} sha256 {sha}")


def _stage_table(stages: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(show_edge=False)
    for heading in ("stage", "face", "state", "reason", "scores", "ms"):
        table.add_column(heading, overflow="fold")
    for row in stages:
        scores = " ".join(f"{name}={value:.3g}" for name, value in row["metrics"].items())
        face = "image" if row["face"] < 0 else str(row["face"])
        table.add_row(row["stage"], face, row["state"], row["reason_code"], scores, f"{row['device_ms'] or 0:.0f}")
    return table


def print_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    """The doctor's findings, with a cure beside each that needs one."""
    marks = {"good": "[green]ok[/]  ", "note": "[yellow]note[/]", "bad": "[red]bad[/] "}
    for check in checks:
        cure = f"  → {plain(check['cure'])}" if check["cure"] else ""
        out.print(f"{marks[check['level']]} {check['name']}: {plain(check['found'])}{cure}", soft_wrap=True)
