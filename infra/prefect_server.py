"""Prefect's server with a door: nobody uses it without its key, no page of another origin, no name but this machine's.

Whoever may use such a server may run code as its user, and loopback alone keeps out neither the pages that a browser
of this machine shows nor other people on it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.middleware.trustedhost import TrustedHostMiddleware

NAMES = ("127.0.0.1", "localhost")
"""What such a server is called by those who may use it; another name is a page that had its own turned to here."""


def create_app() -> TrustedHostMiddleware:
    """What uvicorn serves."""
    from prefect.server.api.server import create_app as prefects_own
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return TrustedHostMiddleware(prefects_own(), allowed_hosts=NAMES)


def locked(port: int | None = None) -> dict[str, str]:
    """Settings of Prefect, as environment, for a server at a port (None: any) and for who uses it, with a new key."""
    key = f"mpsr:{secrets.token_urlsafe(32)}"
    origins = [f"http://{name}:{port}" for name in NAMES] if port else [f"http://{NAMES[0]}"]
    return {
        "PREFECT_SERVER_API_AUTH_STRING": key,
        "PREFECT_API_AUTH_STRING": key,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
    }


def remember_key(port: int, key: str) -> Path:
    """Puts the key where only this user finds it; returns the place."""
    path = _key_file(port)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key)
    return path


def use_known_key() -> None:
    """Sets the key of this user's server where the environment names one of this machine and no key."""
    address = urlsplit(os.environ.get("PREFECT_API_URL", ""))
    if address.hostname in NAMES and address.port and _key_file(address.port).is_file():
        os.environ.setdefault("PREFECT_API_AUTH_STRING", _key_file(address.port).read_text())


def _key_file(port: int) -> Path:
    return Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect") / f"mpsr-serve-{port}.key"
