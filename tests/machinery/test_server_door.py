"""Prefect's server as `mpsr serve` starts it: what a page of another origin, or another user, gets from it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import httpx
import pytest
from places import ROOT
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from flows.cli import server
from infra.prefect_server import locked, remember_key, use_known_key

EVIL = "http://evil.example"
FLOW = {"name": "a-flow-of-another-page"}


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """Address and key of the server alone; deployments and a worker are nothing that an attacker needs."""
    with socket.socket() as free:
        free.bind((server.HOST, 0))
        port = free.getsockname()[1]
    home = str(tmp_path_factory.mktemp("prefect"))
    environment = {**os.environ, **server._environment(port), "PREFECT_HOME": home, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *server.SERVER, "--host", server.HOST, "--port", str(port)]
    process = subprocess.Popen(command, env=environment)
    try:
        server._wait_for(f"http://{server.HOST}:{port}/api/health", process)
        yield f"http://{server.HOST}:{port}", environment["PREFECT_API_AUTH_STRING"]
    finally:
        process.kill()
        process.wait(timeout=20)


def test_a_page_of_another_origin_makes_nothing_and_learns_nothing(serving):
    address, _ = serving
    asks = {"Origin": EVIL, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = httpx.options(f"{address}/api/flows/", headers=asks)
    assert "access-control-allow-origin" not in allowed.headers
    made = httpx.post(f"{address}/api/flows/", json=FLOW, headers={"Origin": EVIL})
    assert made.status_code == 401
    plain = httpx.post(f"{address}/api/flows/", content=json.dumps(FLOW), headers={"Content-Type": "text/plain"})
    assert plain.status_code == 401, "what a form can send needs no leave of the browser"
    assert httpx.post(f"{address}/api/deployments/filter", json={}).status_code == 401
    assert httpx.post(f"{address}/api/flows/filter", auth=("mpsr", "guessed"), json={}).status_code == 401


def test_a_page_that_had_its_name_turned_to_this_machine_is_refused(serving):
    address, key = serving
    for path in ("/", "/api/health", "/api/flows/count"):
        got = httpx.get(f"{address}{path}", headers={"Host": "evil.example:4200"}, auth=tuple(key.split(":")))
        assert got.status_code == 400


def events_sent_to(address, token):
    with connect(f"{address.replace('http', 'ws')}/api/events/in", subprotocols=["prefect"]) as line:
        line.send(json.dumps({"type": "auth", "token": token}))
        return [line.recv(), line.recv()]


def test_a_socket_without_the_key_is_closed(serving):
    address, _ = serving
    with pytest.raises(ConnectionClosed):
        events_sent_to(address, "guessed")


def test_who_has_the_key_is_served_and_so_is_the_dashboards_own_page(serving):
    address, key = serving
    made = httpx.post(f"{address}/api/flows/", json=FLOW, auth=tuple(key.split(":")))
    assert made.status_code == 201
    own = address.replace(server.HOST, "localhost")
    asks = {"Origin": own, "Access-Control-Request-Method": "POST"}
    assert httpx.options(f"{address}/api/flows/", headers=asks).headers["access-control-allow-origin"] == own


def test_every_server_has_a_key_of_its_own():
    assert locked(4200)["PREFECT_API_AUTH_STRING"] != locked(4200)["PREFECT_API_AUTH_STRING"]


def test_the_key_is_found_by_its_user_alone_and_only_for_that_server(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    place = remember_key(4321, "mpsr:key")
    assert place.stat().st_mode & 0o777 == 0o600
    for url in ("http://127.0.0.1:4322/api", "http://evil.example:4321/api", "https://app.prefect.cloud/api", ""):
        monkeypatch.setenv("PREFECT_API_URL", url)
        use_known_key()
        assert "PREFECT_API_AUTH_STRING" not in os.environ
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4321/api")
    use_known_key()
    assert os.environ["PREFECT_API_AUTH_STRING"] == "mpsr:key"
    remember_key(4321, "mpsr:another")
    use_known_key()
    assert os.environ["PREFECT_API_AUTH_STRING"] == "mpsr:key", "what somebody set stands"
    monkeypatch.delenv("PREFECT_API_AUTH_STRING")


EPHEMERAL = """
from flows.cli.local import end_server, quiet_prefect, start_server
quiet_prefect()
from prefect import flow
from prefect.client.orchestration import get_client
@flow
def a(): return 1
start_server()
from prefect.server.api.server import SubprocessASGIServer
import httpx
address = SubprocessASGIServer().api_url
print(httpx.post(f"{address}/flows/", json={"name": "x"}).status_code)
print(a())
with get_client(sync_client=True) as client: print(len(client.read_flow_runs()))
end_server()
"""


def test_the_server_of_a_single_run_asks_for_a_key_and_the_run_has_it(tmp_path):
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", EPHEMERAL]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.split() == ["401", "1", "1"], done.stderr
