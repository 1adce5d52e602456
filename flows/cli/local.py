"""Runs the flow from a terminal: on the Prefect server that is there, else on an ephemeral one."""

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

from flows.cli.words import terminal
from flows.jobs import Job, insist_on_folder
from flows.session import Progress, Summary, watched
from infra.prefect_server import locked, use_known_key

LOCAL_SERVER = ("127.0.0.1", 4200)
SERVER_SECONDS = 120
"""How long an ephemeral server may take to answer; Prefect's own 20 s are too few for a busy machine."""


def run_flow(job: Job) -> Summary:
    """Runs restore-dataset for a job in this process, with progress on stderr; returns its summary."""
    recipe, settings = job.load_recipe(), job.load_settings()
    insist_on_folder(job.source, "pictures")
    quiet_prefect()
    from flows.restore_dataset import restore_dataset
    from flows.session import present_weights

    present_weights(recipe, settings)  # what is wrong or missing is said at once, before any server starts

    progress = Progress()
    try:
        with at_the_terminal(progress):
            summary: Summary = restore_dataset(**job.model_dump(mode="json"))
            return summary
    except Exception as error:
        if progress.summary is None:
            raise
        terminal.print_error(f"everything is restored and written, but Prefect's server could not be told: {error}")
        return progress.summary


@contextmanager
def at_the_terminal(progress: Progress) -> Iterator[None]:
    """Where a flow runs in this process: a server, progress on stderr, and words about what an interruption keeps."""
    with terminal.shown(progress) as shown, _told_when_interrupted():
        before = watched.set(shown)
        try:
            start_server()
            yield
        finally:
            watched.reset(before)


@contextmanager
def _told_when_interrupted() -> Iterator[None]:
    """Ctrl-C reaches every process of the terminal; whatever fails after it is still an interruption."""
    interrupted: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
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
