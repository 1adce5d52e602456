"""How any flow tells the dashboard: names of runs, words that never stop a run, things told beside it."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

from flows.session.facts import Summary
from flows.session.steps import in_flow

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

P = ParamSpec("P")
log = logging.getLogger("mpsr.publish")


def never_fatal(publish: Callable[P, None]) -> Callable[P, None]:
    """Makes of what shows something in the dashboard what outside a flow run does nothing, and never stops a run."""

    @wraps(publish)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        if not in_flow():
            return
        try:
            publish(*args, **kwargs)
        except Exception as error:  # whatever the server says: the run matters more than its picture
            log.warning("could not publish to the dashboard: %s", error)

    return guarded


def dated_name(verb: str, *parameters: str) -> Callable[[], str]:
    """Names flow runs `restore-photos-2026-11-21`, after the first of these parameters that was given."""

    def name() -> str:
        from prefect.runtime import flow_run

        asked = flow_run.parameters
        what = next((asked[each] for each in parameters if asked.get(each)), "")
        return f"{verb}-{what.rstrip('/').rpartition('/')[2]}-{datetime.now(UTC):%Y-%m-%d}"

    return name


def in_words(summary: Summary) -> str:
    """The totals in a line: `58 files: 44 restored, 3 quarantined`."""
    counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in summary.outcomes.items() if n)
    return f"{summary.found} file{'' if summary.found == 1 else 's'}{': ' + counts if counts else ''}"


def ended(summary: Summary) -> Summary | State[Summary]:
    """How a flow run ends: completed, under a name that says so where files failed or were quarantined."""
    if not in_flow() or not (summary.outcomes.get("failed") or summary.outcomes.get("quarantined")):
        return summary
    from prefect.states import Completed

    return Completed(name="Completed with failures", message=in_words(summary), data=summary)


class Aside:
    """Does one thing at a time beside the run; what comes meanwhile is left out.

    A server that is gone is asked for over a minute each time, and the next shard must not wait for that.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def do(self, job: Callable[[], None]) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=contextvars.copy_context().run, args=(job,), daemon=True)
            self._thread.start()

    def wait(self, seconds: float) -> None:
        """Until it is done, or so long."""
        if self._thread is not None:
            self._thread.join(seconds)


aside = Aside()
