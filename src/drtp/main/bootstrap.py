"""The objects every control plane has: the operator's namespaces, class and Gateway; made once, then the operator's.

Only what this process alone knows is kept up to date: ports and hostnames of the Gateway's two listeners.
"""

from __future__ import annotations

from typing import Any

from drtp.api.meta import Key
from drtp.kit.observe import logger
from drtp.main.roles import bind_former_members, ensure_roles
from drtp.main.settings import ControlPlaneSettings
from drtp.rules.attachment import CONTROLLER_NAME
from drtp.store.protocol import Create, NotFound, Object, Store, UpdateStatus, key_of, merged

SYSTEM_NAMESPACE = "datum-system"
GATEWAY_CLASS = "datum-external-global-proxy"
GATEWAY = "global"
SERVING_SECRET = "serving-wildcard"  # noqa: S105 - an object's name

_log = logger("bootstrap")


async def bootstrap(store: Store, settings: ControlPlaneSettings) -> None:
    """Make what is missing."""
    for name in (SYSTEM_NAMESPACE, "default"):
        await _ensure(store, _namespace(name))
    await ensure_roles(store)
    await bind_former_members(store)
    await _ensure(store, _gateway_class())
    await _ensure(store, _gateway(settings))
    await _keep_listeners(store, settings)


async def _ensure(store: Store, obj: Object) -> None:
    key = key_of(obj)
    try:
        await store.get(key)
    except NotFound:
        status = (UpdateStatus(obj),) if "status" in obj else ()
        await store.apply((Create(obj), *status))
        _log.info("object made", object=str(key))


async def _keep_listeners(store: Store, settings: ControlPlaneSettings) -> None:
    """The operator may add listeners; `http` and `https` follow the settings."""
    wanted = {listener["name"]: listener for listener in _listeners(settings)}
    stored = await store.get(Key("Gateway.gateway.networking.k8s.io", SYSTEM_NAMESPACE, GATEWAY))
    present: list[dict[str, Any]] = stored.object["spec"]["listeners"]
    kept = [_with_place(listener, wanted.get(listener["name"])) for listener in present]
    if kept != present:
        await store.update(merged(stored.object, {"spec": {"listeners": kept}}))
        _log.info("listeners moved", http=settings.http_port, https=settings.https_port)


def _with_place(listener: dict[str, Any], wanted: dict[str, Any] | None) -> dict[str, Any]:
    if wanted is None:
        return listener
    return listener | {"port": wanted["port"], "hostname": wanted["hostname"]}


def _namespace(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def _gateway_class() -> dict[str, Any]:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": GATEWAY_CLASS},
        "spec": {"controllerName": CONTROLLER_NAME, "description": "Public listeners on the operator's gateways."},
    }


def _gateway(settings: ControlPlaneSettings) -> dict[str, Any]:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": GATEWAY, "namespace": SYSTEM_NAMESPACE},
        "spec": {
            "gatewayClassName": GATEWAY_CLASS,
            "listeners": _listeners(settings),
            "allowedListeners": {"namespaces": {"from": "All"}},
        },
    }


def _listeners(settings: ControlPlaneSettings) -> list[dict[str, Any]]:
    everywhere = {"namespaces": {"from": "All"}}
    hostname = f"*.{settings.suffix}"
    certificate = {"group": "", "kind": "Secret", "name": SERVING_SECRET}
    return [
        {
            "name": "http",
            "port": settings.http_port,
            "protocol": "HTTP",
            "hostname": hostname,
            "allowedRoutes": everywhere,
        },
        {
            "name": "https",
            "port": settings.https_port,
            "protocol": "HTTPS",
            "hostname": hostname,
            "tls": {"mode": "Terminate", "certificateRefs": [certificate]},
            "allowedRoutes": everywhere,
        },
    ]
