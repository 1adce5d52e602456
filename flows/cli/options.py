"""What the commands share: the options that more than one takes, and how their texts are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from flows.jobs import Asked

EXIT_CODES = {
    0: "all handled",
    1: "finished, but some files failed or were quarantined",
    2: "wrong usage or configuration; nothing was done",
    3: "could not finish; what is done is kept, run again to resume",
    130: "interrupted",
}


EngineChoice = Literal["auto", "local", "ray"]
INPUT, QUALITY, COMPUTE, OUTPUT = "Input", "Quality", "Compute", "Output"
"""Panels of a command's help."""

Source = Annotated[
    str,
    typer.Argument(help="folder or URL of the archive, or one picture; it is never written to", show_default=False),
]
Workspace = Annotated[
    str,
    typer.Option(
        "--workspace", "-w", "-o", help="folder or URL for restored files, report and ledger", show_default=False
    ),
]
RecipeName = Annotated[
    str, typer.Option("--recipe", "-r", help="a recipe's name or a .toml file", rich_help_panel=QUALITY)
]
Aligned = Annotated[
    bool, typer.Option("--aligned", help="the pictures are face crops (512 px, else resized)", rich_help_panel=INPUT)
]
Include = Annotated[
    list[str] | None, typer.Option("--include", help="only paths that match this glob", rich_help_panel=INPUT)
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", help="not the paths that match this glob", rich_help_panel=INPUT)
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="a setting, as NAME=VALUE, or a stage's, as STAGE.NAME=VALUE", rich_help_panel=COMPUTE),
]
EngineName = Annotated[
    EngineChoice | None,
    typer.Option(
        "--engine",
        help="local: in this process; ray: worker processes, told to Prefect; default: by the job",
        rich_help_panel=COMPUTE,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object", rich_help_panel=OUTPUT)]
Thumbnails = Annotated[
    bool | None,
    typer.Option("--thumbnails/--no-thumbnails", help="pictures in the report", rich_help_panel=OUTPUT),
]


def settings_of(pairs: list[str] | None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """`workers=2` → settings, `identity.threshold=0.5` → stage settings. Values are JSON where they can be."""
    settings: dict[str, Any] = {}
    stages: dict[str, dict[str, Any]] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"expected NAME=VALUE, got {pair!r}", param_hint="--set")
        stage, dot, key = name.partition(".")
        if dot:
            stages.setdefault(stage, {})[key] = _value(text)
        else:
            settings[name] = _value(text)
    return settings, stages


def plain_settings(pairs: list[str] | None) -> dict[str, Any]:
    """Settings without a stage. Those of stages belong to a recipe, and more than one, or none, may be meant here."""
    settings, stages = settings_of(pairs)
    if stages:
        raise typer.BadParameter(
            f"expected NAME=VALUE, got settings of stages ({', '.join(stages)}); these belong to a recipe: write them "
            "into a .toml file",
            param_hint="--set",
        )
    return settings


def asked(job: type[Asked], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a command that are fields of a job, the settings read; the others say how to answer."""
    fields = {name: value for name, value in options.items() if name in job.model_fields}
    if "stages" in job.model_fields:
        settings, stages = settings_of(options["settings"])
        return fields | {"settings": settings, "stages": stages}
    return fields | {"settings": plain_settings(options["settings"])}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
