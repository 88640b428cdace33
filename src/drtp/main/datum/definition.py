"""The service definition behind a `serve`: the object to create, or the change to one that exists. Pure."""

from __future__ import annotations

from typing import Any

from drtp.api.drtp import API_VERSION, AppProtocol, Protocol, ProxyProtocol
from drtp.kit.errors import Invalid
from drtp.main.datum.serve_request import ServeRequest
from drtp.main.datum.target import Target


def new_service(request: ServeRequest) -> dict[str, Any]:
    """The DRTPService for a request with a target. Raises: Invalid DRTP-7005 for UDP that everybody could visit."""
    assert request.target is not None
    if request.target.protocol is Protocol.UDP and request.expose and not request.allow:
        raise Invalid("DRTP-7005")
    spec: dict[str, Any] = {
        "protocol": request.target.protocol.value,
        "local": local_service(request.target),
    }
    if request.wait_for_enable:
        spec["enabled"] = False
    if request.allow:
        spec["edgeAllowlist"] = list(request.allow)
    if request.proxy_protocol is not None:
        spec["proxyProtocol"] = request.proxy_protocol.value
    if request.expose:
        spec["expose"] = _expose(request)
    return {
        "apiVersion": API_VERSION,
        "kind": "DRTPService",
        "metadata": {"name": request.name},
        "spec": spec,
    }


def change(request: ServeRequest, present: dict[str, Any]) -> dict[str, Any]:
    """The merge patch that makes `present` what was asked for; empty if nothing differs.

    What was not said stays as it is: an allowlist written by kubectl survives a restart of the agent, and so does
    whoever disabled the service. Raises: Invalid (DRTP-7015) for another protocol.
    """
    assert request.target is not None
    spec: dict[str, Any] = present.get("spec", {})
    if spec.get("protocol") != request.target.protocol.value:
        raise Invalid(
            "DRTP-7015",
            f"The service {request.name} speaks {spec.get('protocol')}, not {request.target.protocol.value}.",
        )
    wanted: dict[str, Any] = {}
    local = local_service(request.target)
    if _local_facts(spec.get("local", {})) != _local_facts(local):
        # A merge patch removes by null: a former `tls` must not survive.
        wanted["local"] = {"tls": None, **local}
    if request.allow and spec.get("edgeAllowlist") != list(request.allow):
        wanted["edgeAllowlist"] = list(request.allow)
    if request.proxy_protocol is not None and spec.get("proxyProtocol", "None") != request.proxy_protocol.value:
        wanted["proxyProtocol"] = request.proxy_protocol.value
    wanted |= _expose_change(request, spec.get("expose"))
    return {"spec": wanted} if wanted else {}


def local_service(target: Target) -> dict[str, Any]:
    """`spec.local` of a target."""
    local: dict[str, Any] = {"host": target.local.host, "port": target.local.port}
    if target.local.app_protocol is AppProtocol.H2C:
        local["appProtocol"] = AppProtocol.H2C.value
    if target.local.tls is not None:
        local["tls"] = {}
    return local


def proxy_protocol(written: str | None) -> ProxyProtocol | None:
    """`v1`, `v2`, `none`, as options write it."""
    return None if written is None else ProxyProtocol(written.capitalize())


def _local_facts(local: dict[str, Any]) -> tuple[object, ...]:
    return (
        local.get("host"),
        local.get("port"),
        local.get("appProtocol", AppProtocol.HTTP1.value),
        local.get("tls") is not None,
    )


def _expose(request: ServeRequest) -> dict[str, Any]:
    said = {
        "hostname": request.hostname,
        "port": request.port,
        "address": request.address,
        "hostHeader": request.host_header,
    }
    return {name: value for name, value in said.items() if value is not None}


def _expose_change(request: ServeRequest, present: dict[str, Any] | None) -> dict[str, Any]:
    if not request.expose:
        return {} if present is None else {"expose": None}
    said = _expose(request)
    if present is None:
        return {"expose": said} if said else {}
    differing = {name: value for name, value in said.items() if present.get(name) != value}
    return {"expose": differing} if differing else {}
