"""`mpsr serve`: Prefect's server, the deployments of prefect.yaml and a worker, on one machine, until Ctrl-C.

Everything listens on loopback and asks for a key. Larger sites run the same parts apart (infra/docker, infra/k8s).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from flows.cli.words import terminal
from flows.jobs import JobError, shipped
from infra.prefect_server import locked, remember_key
from infra.problems import ForPeople

HOST = "127.0.0.1"
LOG = Path.home() / ".cache" / "mpsr" / "serve.log"
POOL = "mpsr"
SERVER = ("uvicorn", "--factory", "infra.prefect_server:create_app", "--log-level", "warning")
START_SECONDS = 120.0
HEARTBEATS_MISSED_SECONDS = 540  # three of Prefect's default heartbeats


class ServeError(ForPeople):
    """A part of the service did not come up or ended; the message says which and what it printed."""


def serve(port: int) -> None:
    """Starts server, deployments and worker; until Ctrl-C.

    The deployments are those of a prefect.yaml here, else those that come with the package. Raises JobError where the
    port is taken, ServeError when a part ends.
    """
    deployments = Path("prefect.yaml") if Path("prefect.yaml").is_file() else shipped("prefect.yaml")
    _refuse_taken(port)
    environment = _environment(port)
    with ExitStack() as stack:
        log = stack.enter_context(_log())
        command = [*SERVER, "--host", HOST, "--port", str(port)]
        server = stack.enter_context(_process(command, environment, log))
        _wait_for(f"http://{HOST}:{port}/api/health", server)
        key = environment["PREFECT_API_AUTH_STRING"]
        stack.callback(remember_key(port, key).unlink)
        _prefect(["work-pool", "create", POOL, "--type", "process", "--overwrite"], environment)
        _prefect(["--no-prompt", "deploy", "--all", "--prefect-file", str(deployments)], environment)
        _create_zombie_automation(environment)
        worker = stack.enter_context(_process(["prefect", "worker", "start", "--pool", POOL], environment, log))
        terminal.out.print(f"dashboard:  http://{HOST}:{port}  (it asks once for: {key})", soft_wrap=True)
        terminal.out.print(f"log:        {LOG}", soft_wrap=True)
        export = f"export PREFECT_API_URL=http://{HOST}:{port}/api PREFECT_API_AUTH_STRING={key}"
        terminal.out.print(f"in another terminal:  {export}", soft_wrap=True)
        prefect = Path(sys.executable).parent / "prefect"
        command_line = f"{prefect} deployment run restore-dataset/restore-dataset --watch"
        terminal.out.print(f"                      {command_line}", soft_wrap=True)
        while server.poll() is None and worker.poll() is None:
            time.sleep(1)
        raise ServeError(f"{'the server' if worker.poll() is None else 'the worker'} ended by itself; {LOG} says why")


def _refuse_taken(port: int) -> None:
    """Raises JobError where something listens there already; nothing of it is touched."""
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise JobError(f"port {port} is taken (does `mpsr serve` run already?); give another with --port")


@contextmanager
def _log() -> Iterator[BinaryIO]:
    """What server and worker print, of this start alone."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as file:
        yield file


def _environment(port: int) -> dict[str, str]:
    quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "RAY_USAGE_STATS_ENABLED": "0"}
    addresses = {
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api",
    }
    # Old flow runs are swept away only when this is asked for; without it the database grows for ever.
    vacuum = {"PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs"}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    prefects = {"PREFECT_PLUGINS_ENABLED": "1", "PREFECT__SERVER_FINAL": "1"}
    return {**os.environ, **quiet, **addresses, **vacuum, **path, **prefects, **locked(port)}


@contextmanager
def _process(command: Sequence[str], environment: dict[str, str], log: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def _prefect(arguments: Sequence[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    if done.returncode != 0:
        raise ServeError(f"`prefect {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()[-800:]}")


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Until our own server answers; another one that does is none of ours."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServeError(f"Prefect's server ended with code {server.returncode}; {LOG} says why")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    raise ServeError(f"Prefect's server did not answer at {url} within {START_SECONDS:.0f} s")


def _create_zombie_automation(environment: dict[str, str]) -> None:
    """A flow run whose process is gone is marked as crashed; a self-hosted server does that only when told to."""
    done = subprocess.run(
        [sys.executable, "-c", _ZOMBIES],
        env=environment,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        terminal.print_error(
            "the automation that marks dead runs as crashed could not be created",
            f"runs whose process died stay 'Running' in the dashboard: {done.stderr.strip()[-300:]}",
        )


_ZOMBIES = f"""
from datetime import timedelta
from prefect.automations import Automation
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
name = "mark dead runs as crashed"
try:
    Automation.read(name=name)
except ValueError:
    Automation(
        name=name,
        trigger=EventTrigger(
            after={{"prefect.flow-run.heartbeat"}},
            expect={{"prefect.flow-run.*"}},
            match=ResourceSpecification({{"prefect.resource.id": ["prefect.flow-run.*"]}}),
            for_each={{"prefect.resource.id"}},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds={HEARTBEATS_MISSED_SECONDS}),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat: its process is gone.")],
    ).create()
"""
