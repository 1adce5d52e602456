"""Does a job from a terminal: small ones here, others on the Prefect server that is there, else an ephemeral one."""

from __future__ import annotations

import http.client
import os
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType

from flows.cli.questions.engine import evaluation_placed, placed
from flows.cli.words import terminal
from flows.evaluation import evaluate, told_of
from flows.jobs import EvaluationJob, Job, output_of
from flows.restoration import check, refuse_busy, restore
from flows.session import Progress, Summary, watched
from infra.prefect_server import locked, use_known_key
from infra.storage import Storage
from tasks.measuring import EvaluationTold

LOCAL_SERVER = ("127.0.0.1", 4200)
SERVER_SECONDS = 120
"""How long an ephemeral server may take to answer; Prefect's own 20 s are too few for a busy machine."""


def run_job(job: Job) -> Summary:
    """Restores in this process or under Prefect, with progress on stderr; returns the summary."""
    job = placed(job)
    progress = Progress()
    if job.load_settings().engine == "local":
        with watched_here(progress):
            return restore(job)
    check(job)  # what is wrong or missing is said at once, before any server starts
    refuse_busy(job)
    quiet_prefect()
    from flows.restore_dataset import restore_dataset

    try:
        with under_prefect(progress):
            summary: Summary = restore_dataset(**job.model_dump(mode="json"))
            return summary
    except Exception as error:
        if progress.summary is None:
            raise
        terminal.print_error(f"everything is restored and written, but Prefect's server could not be told: {error}")
        return progress.summary


def evaluate_job(job: EvaluationJob) -> EvaluationTold:
    """Measures in this process or under Prefect, with progress on stderr; returns what the answer says."""
    job = evaluation_placed(job)
    if job.load_settings().engine == "local":
        with watched_here(Progress()):
            return told_of(evaluate(job), Storage(output_of(job)))
    quiet_prefect()
    from flows.evaluate_dataset import evaluate_dataset

    with under_prefect(Progress()):
        told: EvaluationTold = evaluate_dataset(**job.model_dump(mode="json"))
        return told


@contextmanager
def under_prefect(progress: Progress) -> Iterator[None]:
    """Where a flow runs in this process: `watched_here`, and a server."""
    with watched_here(progress):
        start_server()
        yield


@contextmanager
def watched_here(progress: Progress) -> Iterator[None]:
    """Where work is done in this process: progress on stderr, and words about what an interruption keeps."""
    with terminal.shown(progress) as shown, _told_when_interrupted():
        before = watched.set(shown)
        try:
            yield
        finally:
            watched.reset(before)


@contextmanager
def _told_when_interrupted() -> Iterator[None]:
    """Ctrl-C reaches every process of the terminal; whatever fails after it is still an interruption."""
    interrupted: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not interrupted:
            terminal.say_beside("stopping: what is in flight is finished; what is done is kept")
        interrupted.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException:
        if not interrupted:
            raise
        end_server()
        terminal.print_error("interrupted", "what is done is kept; run the same command again to resume")
        raise KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start_server() -> None:
    """Starts Prefect's ephemeral server where none is named, with a key, deaf to the Ctrl-C that is meant for the run.

    A server that ends first leaves Prefect's client trying for more than a minute. A process inherits the blocked
    signals of the thread that starts it; a thread of its own keeps this one open to Ctrl-C meanwhile. Prefect ends the
    server when this process exits, `end_server` sooner.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_ENABLED

    if PREFECT_API_URL.value() or not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        return
    os.environ.update(locked())
    refresh_global_settings_context()
    started: Future[None] = Future()
    threading.Thread(target=_start_deaf, args=(started,), name="prefect-server", daemon=True).start()
    started.result()


def end_server() -> None:
    """Ends the ephemeral server as soon as the last words of the run are with it.

    Its own way out waits for open connections; its database is made for being killed.
    """
    if "prefect.server.api.server" in sys.modules:
        from prefect.logging.handlers import APILogHandler
        from prefect.server.api.server import SubprocessASGIServer

        if process := SubprocessASGIServer().server_process:
            APILogHandler().flush()
            process.kill()


def _start_deaf(started: Future[None]) -> None:
    from prefect.server.api.server import SubprocessASGIServer

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        SubprocessASGIServer().start(timeout=SERVER_SECONDS)
        started.set_result(None)
    except BaseException as error:
        started.set_exception(error)


def quiet_prefect() -> None:
    """Settings that Prefect reads when it is imported: no telemetry, no chatter, the server that is running here."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # `mpsr` says itself what went wrong
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "PREFECT_API_URL" not in os.environ and _answers(*LOCAL_SERVER):
        os.environ["PREFECT_API_URL"] = f"http://{LOCAL_SERVER[0]}:{LOCAL_SERVER[1]}/api"
    use_known_key()


def _answers(host: str, port: int) -> bool:
    """Whether a Prefect server is there; other programs like that port, too."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/api/health", timeout=1) as answer:
            return bool(answer.read().strip() == b"true")
    except (OSError, http.client.HTTPException):
        return False
