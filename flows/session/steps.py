"""Steps of a story: task runs inside a Prefect flow run, plain calls elsewhere.

Prefect is loaded only where it is at work, so a small job can do without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State

P = ParamSpec("P")
Result = TypeVar("Result")


def in_flow() -> bool:
    """Whether this is done inside a flow run; where Prefect was never loaded there is none."""
    context = sys.modules.get("prefect.context")
    return context is not None and context.FlowRunContext.get() is not None


def flow_url() -> str:
    """The page of this flow run in the dashboard; empty where there is none."""
    if not in_flow():
        return ""
    from prefect.runtime import flow_run
    from prefect.settings import PREFECT_UI_URL

    return (flow_run.ui_url or "") if PREFECT_UI_URL.value() else ""


def step(name: str) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Makes a function a step of that name, which is done anew whenever it is asked for."""

    def named(do: Callable[P, Result]) -> Callable[P, Result]:
        @wraps(do)
        def done(*args: P.args, **kwargs: P.kwargs) -> Result:
            if not in_flow():
                return do(*args, **kwargs)
            from prefect import task
            from prefect.cache_policies import NO_CACHE

            return task(name=name, cache_policy=NO_CACHE)(do)(*args, **kwargs)

        return done

    return named


class CachedStep(Generic[P, Result]):
    """A step that Prefect retries after the machinery's failures, and does once for all runs that ask with one key."""

    def __init__(self, do: Callable[P, Result], key: Callable[..., str]) -> None:
        """`do` returns what JSON can hold; `key` takes the same arguments."""
        self._do, self._key = do, key

    def __call__(self, name: str, *args: P.args, **kwargs: P.kwargs) -> None:
        """Done, or known to be done: what it returned is in the dashboard only. `name`: of this task run."""
        self._as(name, afresh=False)(*args, **kwargs)

    def afresh(self, name: str, *args: P.args, **kwargs: P.kwargs) -> None:
        """Done, whatever a cache says."""
        self._as(name, afresh=True)(*args, **kwargs)

    def _as(self, name: str, *, afresh: bool) -> Callable[P, object]:
        if not in_flow():
            return self._do
        return self._task.with_options(name=name.partition(" · ")[0], task_run_name=name, refresh_cache=afresh)

    @cached_property
    def _task(self) -> Task[P, Any]:
        from prefect import task

        return task(
            retries=2,
            retry_delay_seconds=[2, 10],
            retry_jitter_factor=0.5,
            cache_key_fn=lambda context, parameters: self._key(**parameters),
            persist_result=True,
            result_serializer="json",
            retry_condition_fn=lambda task, run, state: worth_retrying(state),
        )(self._do)


def worth_retrying(state: State[Any]) -> bool:
    """Whether a failed task is tried again: the machinery's failures are, decisions of the run are not."""
    from flows.jobs import JobError
    from flows.session.session import RunStopped
    from infra.ledger import LeaseLost
    from infra.workers import ExecutorCancelled, WorkerStartFailed

    error = state.data if isinstance(state.data, BaseException) else state.result(raise_on_failure=False)
    return not isinstance(error, (JobError, RunStopped, WorkerStartFailed, LeaseLost, ExecutorCancelled))
