"""What people need to use an instance: a context for datumctl, a kubeconfig for kubectl, the CA to trust."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from drtp.api.people import SYSTEM_MASTERS
from drtp.kit.clock import Clock
from drtp.kit.errors import Retryable
from drtp.kit.files import write_atomic
from drtp.kit.observe import logger
from drtp.kit.secret import Secret
from drtp.main.embedded.layout import Layout
from drtp.main.embedded.operator_client import OperatorClient

log = logger("up")

NAMESPACE = "default"
_LIFETIME_S = 30 * 24 * 3600
_RENEW_AFTER_S = 10 * 24 * 3600
"""Well before they run out, so that an instance that is stopped for a fortnight still has good ones."""
_CHECK_EVERY_S = 10.0
"""A root that is rotated shows in the files before the control plane's doors change."""


async def write_access(layout: Layout, operator: OperatorClient, clock: Clock) -> None:
    """Write the files, unless good ones are there. Raises: Retryable, Terminal from the operator's socket."""
    facts = await operator.call("GET", "/v1/access")
    # Visitors' root first: a browser imports one. The control plane's own is there for its API.
    ca = str(facts["webCa"]) + str(facts["ca"])
    if layout.ca.exists() and layout.ca.read_text() == ca and _fresh(layout.context, clock):
        return
    write_atomic(layout.ca, ca.encode(), mode=0o644)
    user = await _token(operator, "local", (NAMESPACE,), ())
    admin = await _token(operator, "local-admin", (NAMESPACE,), (SYSTEM_MASTERS,))
    _write(layout, facts, user, admin)


async def keep_access(layout: Layout, operator: OperatorClient, clock: Clock) -> None:
    """Renew the tokens of an instance that runs for weeks."""
    while True:
        await clock.sleep(_CHECK_EVERY_S)
        try:
            await write_access(layout, operator, clock)
        except Retryable as fault:
            log.warning("files of access not renewed yet", reason=fault.what)


def _write(layout: Layout, facts: dict[str, Any], user: Secret[str], admin: Secret[str]) -> None:
    # Late: the supervisor starts its children before it needs this.
    from drtp.client.context import Context, save_context, save_kubeconfig

    api, ca = str(facts["api"]), str(facts["ca"]).encode()
    founding = str(facts["foundingCa"]).encode()
    context = Context(api=api, ca_pem=ca, namespace=NAMESPACE, founding_pem=b"" if founding == ca else founding)
    save_kubeconfig(layout.kubeconfig, replace(context, token=admin))
    save_context(layout.context, replace(context, token=user))


async def _token(
    operator: OperatorClient, name: str, namespaces: tuple[str, ...], groups: tuple[str, ...]
) -> Secret[str]:
    ask = {"name": name, "namespaces": namespaces, "groups": groups, "lifetimeS": _LIFETIME_S}
    return Secret(str((await operator.call("POST", "/v1/tokens", ask))["token"]))


def _fresh(path: Path, clock: Clock) -> bool:
    try:
        return clock.now().timestamp() - path.stat().st_mtime < _RENEW_AFTER_S
    except FileNotFoundError:
        return False
