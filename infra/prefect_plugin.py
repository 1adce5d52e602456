"""Lets `prefect deployment run restore-dataset` find a deployment by its bare name, and this user's server its key.

Stock Prefect wants `flow/deployment`. This hook wraps the client's look-up: a name with a slash, or one that is not
exactly one deployment's, goes to Prefect's own code and gets Prefect's own answer. Should Prefect's internals move,
nothing is wrapped and `restore-dataset/restore-dataset` works as ever.
"""

from __future__ import annotations

import functools
from typing import Any

from prefect.plugins import register_hook

from infra.prefect_server import use_known_key


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Called by Prefect before any of its commands, where plugins are switched on (`[tool.prefect.plugins]`).

    What is set in the environment here Prefect reads afterwards.
    """
    use_known_key()
    try:
        from prefect.client.orchestration import PrefectClient

        original = PrefectClient.read_deployment_by_name
    except (ImportError, AttributeError):
        return
    if not getattr(original, "takes_bare_names", False):
        # setattr: the client's methods are declared final for type checkers.
        setattr(PrefectClient, "read_deployment_by_name", _with_bare_names(original))  # noqa: B010


def _with_bare_names(original: Any) -> Any:
    @functools.wraps(original)
    async def read_deployment_by_name(self: Any, name: str) -> Any:
        return (None if "/" in name else await _only_deployment(self, name)) or await original(self, name)

    read_deployment_by_name.takes_bare_names = True  # type: ignore[attr-defined]
    return read_deployment_by_name


async def _only_deployment(client: Any, name: str) -> Any:
    """The deployment of that name when there is exactly one; None otherwise, or when it cannot be asked for."""
    try:
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
        from prefect.client.schemas.sorting import DeploymentSort

        # limit and sort are given because the server refuses a request in which they are null
        found = await client.read_deployments(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name])),
            limit=2,
            sort=DeploymentSort.NAME_ASC,
        )
    except (ImportError, TypeError, AttributeError):
        return None
    return found[0] if len(found) == 1 else None
