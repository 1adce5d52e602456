"""A whole archive, or one file of it, restored from Python: what `mpsr run` does, without its terminal."""

from __future__ import annotations

from os import PathLike
from typing import Any, Literal

from flows.jobs import job_for
from flows.restoration import restore
from flows.session import Summary


def restore_folder(
    source: str | PathLike[str],
    workspace: str | PathLike[str],
    recipe: str = "compact",
    *,
    engine: Literal["local", "ray"] = "local",
    settings: dict[str, Any] | None = None,
    **more: Any,
) -> Summary:
    """Restores every face of a folder (or of one picture) into `workspace`/restored; again = resume.

    `settings` are those of docs/settings.md, `more` are further fields of `flows.jobs.Job` (include, exclude, aligned,
    stages, retry). Returns the totals: files by outcome, reasons, faces. Handles no signals, so any thread may call it.
    Raises a subclass of `infra.problems.ForPeople`, with a message for people, where it cannot be done.
    """
    asked = {**(settings or {}), "engine": engine}
    return restore(job_for(source=str(source), workspace=str(workspace), recipe=recipe, settings=asked, **more))
