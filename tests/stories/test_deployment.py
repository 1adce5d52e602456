"""The user's literal command, the plugin behind it, and `mpsr serve`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from places import ROOT


@pytest.fixture
def deployments(prefect_server):
    """Two deployments of one name, and one whose name is its own."""
    from prefect import flow
    from prefect.client.orchestration import get_client

    @flow
    def a():
        pass

    @flow
    def b():
        pass

    with get_client(sync_client=True) as client:
        for function, name in ((a, "restore-dataset"), (a, "twice"), (b, "twice")):
            client.create_deployment(flow_id=client.create_flow(function), name=name)


async def found(name):
    from prefect.client.orchestration import get_client

    from infra.prefect_plugin import setup_environment

    setup_environment(ctx=None)
    async with get_client() as client:
        return (await client.read_deployment_by_name(name)).name


def run_async(coroutine):
    import asyncio

    return asyncio.run(coroutine)


def test_a_bare_name_finds_the_only_deployment_of_that_name(deployments):
    assert run_async(found("restore-dataset")) == "restore-dataset"
    assert run_async(found("a/restore-dataset")) == "restore-dataset"


@pytest.mark.parametrize("name", ["twice", "nobody"])
def test_otherwise_prefect_says_what_it_always_said(deployments, name):
    with pytest.raises(ValueError, match="Expected format: <FLOW_NAME>/<DEPLOYMENT_NAME>"):
        run_async(found(name))


def test_the_plugin_wraps_once_and_gives_way_when_prefect_moves(monkeypatch):
    from prefect.client.orchestration import PrefectClient

    from infra import prefect_plugin

    prefect_plugin.setup_environment(ctx=None)
    once = PrefectClient.read_deployment_by_name
    prefect_plugin.setup_environment(ctx=None)
    assert PrefectClient.read_deployment_by_name is once

    class Moved:
        async def read_deployments(self, **anything):
            raise TypeError("unexpected keyword argument")

    assert run_async(prefect_plugin._only_deployment(Moved(), "restore-dataset")) is None
    monkeypatch.setitem(sys.modules, "prefect.client.orchestration", None)
    prefect_plugin.setup_environment(ctx=None)


def test_the_deployments_are_what_the_readme_says():
    written = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    by_name = {deployment["name"]: deployment for deployment in written}
    runs, tools = {"restore-dataset", "evaluate-dataset", "reprocess-nightly"}, {"compare-recipes", "benchmark-recipes"}
    assert set(by_name) == runs | tools | {"train-compact"}
    assert by_name["restore-dataset"]["parameters"] == {"dataset": "demo"}
    (schedule,) = by_name["reprocess-nightly"]["schedules"]
    assert (schedule["cron"], schedule["timezone"]) == ("0 2 * * *", "UTC")
    assert by_name["reprocess-nightly"]["concurrency_limit"]["limit"] == 1
    for deployment in written:
        module, _, function = deployment["entrypoint"].rpartition(".")
        assert f"def {function}(" in (ROOT / f"{module.replace('.', '/')}.py").read_text()


@pytest.mark.slow
def test_the_literal_command_restores_an_archive(tmp_path):
    """`mpsr serve`, then `prefect deployment run restore-dataset --watch` from the repository's root."""
    (tmp_path / "archive").mkdir()
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / "archive" / "grey.png")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": api}
    bin_ = Path(sys.executable).parent
    serve = subprocess.Popen([bin_ / "mpsr", "serve", "--port", str(port)], cwd=ROOT, env=environment, text=True)
    try:
        wait_for(f"{api}/health", serve)
        wait_for_deployment(environment, bin_)
        command = [bin_ / "prefect", "deployment", "run", "restore-dataset", "--watch"]
        parameters = {"source": tmp_path / "archive", "workspace": tmp_path / "ws"}
        for name, value in parameters.items():
            command += ["--param", f"{name}={value}"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (tmp_path / "ws" / "restored" / "grey.png").exists()
    finally:
        serve.terminate()
        serve.wait(timeout=60)


def wait_for(url, process, seconds=150):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} did not answer")


def wait_for_deployment(environment, bin_, seconds=150):
    deadline = time.monotonic() + seconds
    command = [bin_ / "prefect", "deployment", "inspect", "restore-dataset/restore-dataset"]
    while time.monotonic() < deadline:
        if subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(1)
    raise AssertionError("the deployment was not registered")
