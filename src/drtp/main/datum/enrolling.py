"""How an agent comes to its identity: the one on disk, a one-time secret, or the user's own token."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec

from drtp import __version__
from drtp.api.drtp import API_VERSION
from drtp.api.reports import AgentRegistration
from drtp.client.api import ApiClient
from drtp.client.context import Context
from drtp.client.enrolment import bind_services, enrol
from drtp.client.identity import IdentityStore
from drtp.client.joining import EdgeAddress, parse_join
from drtp.kit.errors import Conflict, NotFound, Refused, Retryable
from drtp.kit.files import private_directory, write_atomic
from drtp.kit.observe import logger
from drtp.main.datum.definition import change, new_service
from drtp.main.datum.serve_request import ServeRequest, ServeSettings
from drtp.main.shell import Misused

log = logger("serve")

PLURAL = "drtpservices"
_RECORD = "services.json"


@dataclass(frozen=True)
class Enrolment:
    """What is known before the agent starts. `context` None: a secret or a stored identity is all there is."""

    settings: ServeSettings
    namespace: str
    state_dir: Path
    context: Context | None


def registration(settings: ServeSettings) -> AgentRegistration:
    """What the agent says of itself."""
    latitude, longitude = settings.location or (None, None)
    return AgentRegistration(hostname=socket.gethostname(), version=__version__, latitude=latitude, longitude=longitude)


def has_identity(state_dir: Path) -> bool:
    """Whether an earlier start got one."""
    return (state_dir / "identity" / "current").is_symlink()


async def prepare(enrolment: Enrolment) -> None:
    """Bring the services and the identity into being, as far as they are not there yet.

    Raises: Retryable (unreachable), Refused, Terminal, Invalid, Conflict (a spent secret).
    """
    settings, state_dir = enrolment.settings, enrolment.state_dir
    private_directory(state_dir)
    if settings.secret is not None and not has_identity(state_dir):
        join = parse_join(settings.secret.reveal())
        await enrol(join.edge, IdentityStore(state_dir), registration(settings), secret=join.secret)
        return
    if all(request.predefined for request in settings.requests) and has_identity(state_dir):
        return
    if enrolment.context is None:
        raise Misused("DRTP-7010", "No identity is here yet, and no secret was given to get one.")
    edge, uids = await _services(enrolment, enrolment.context)
    _forget_replaced(state_dir, uids)
    if has_identity(state_dir):
        await _bind(enrolment, enrolment.context, edge, uids)
        return
    await enrol(
        edge,
        IdentityStore(state_dir),
        registration(settings),
        token=enrolment.context.token,
        namespace=enrolment.namespace,
        services=tuple(uids),
    )
    _record(state_dir, uids)


async def prepare_anew(enrolment: Enrolment, former: Enrolment) -> None:
    """While the agent runs: bring into being what was not asked for before, and be the agent of all that is now.

    Raises: Refused, Invalid, Conflict, Retryable; then nothing has changed for the agent.
    """
    if enrolment.context is None:
        return
    recorded = _recorded(enrolment.state_dir)
    asked = {request.name for request in enrolment.settings.requests if request in former.settings.requests}
    known = {name: uid for name, uid in recorded.items() if name in asked}
    try:
        await _bind(enrolment, enrolment.context, *await _services(enrolment, enrolment.context, known))
    except Refused as fault:
        if fault.code != "DRTP-2017" or not known:
            raise
        # One of them was deleted meanwhile: the file says that it shall be.
        await _bind(enrolment, enrolment.context, *await _services(enrolment, enrolment.context))


async def _services(
    enrolment: Enrolment, context: Context, known: Mapping[str, str] = MappingProxyType({})
) -> tuple[EdgeAddress, dict[str, str]]:
    """Where edges connect, and the uid of each service: made, or changed as far as it differs; `known` stay."""
    async with ApiClient(context) as api, asyncio.TaskGroup() as together:
        asking = together.create_task(edge_address(api, context))
        services = {
            request.name: together.create_task(service_uid(api, request, enrolment.namespace))
            for request in enrolment.settings.requests
            if request.name not in known
        }
    return asking.result(), {**known, **{name: service.result() for name, service in services.items()}}


async def _bind(enrolment: Enrolment, context: Context, edge: EdgeAddress, uids: dict[str, str]) -> None:
    """Tell the control plane which services this agent serves, unless it knows."""
    identity = IdentityStore(enrolment.state_dir).load()
    if identity is None or _recorded(enrolment.state_dir) == uids:
        return
    try:
        await bind_services(
            edge,
            identity,
            registration(enrolment.settings),
            token=context.token,
            namespace=enrolment.namespace,
            services=tuple(uids),
        )
    except Refused as fault:
        if fault.code != "DRTP-2001":
            raise
        # A renewal whose answer was lost: the next one brings the key that the control plane knows.
        raise Retryable(fault.code, "The control plane waits for this agent's renewal.", "Try again.") from fault
    _record(enrolment.state_dir, uids)


async def service_uid(api: ApiClient, request: ServeRequest, namespace: str) -> str:
    """Create the service, or change what differs from the command line; a predefined one is only looked up."""
    if request.predefined:
        return str((await api.get(API_VERSION, PLURAL, request.name, namespace=namespace))["metadata"]["uid"])
    try:
        present = await api.create(new_service(request), PLURAL, namespace=namespace)
    except Conflict:
        try:
            present = await _changed(api, request, namespace)
        except NotFound:
            # Deleted between the two: whoever did so wanted it gone before, not after, this command.
            present = await api.create(new_service(request), PLURAL, namespace=namespace)
    return str(present["metadata"]["uid"])


async def _changed(api: ApiClient, request: ServeRequest, namespace: str) -> dict[str, Any]:
    present = await api.get(API_VERSION, PLURAL, request.name, namespace=namespace)
    patch = change(request, present)
    if not patch:
        return present
    log.info("service changed", service=request.name, members=sorted(patch["spec"]))
    return await api.patch(API_VERSION, PLURAL, request.name, patch, namespace=namespace)


async def edge_address(api: ApiClient, context: Context) -> EdgeAddress:
    """Where edges connect, as the API says it; trusted by the roots that the API itself is trusted by."""
    answer = await api.request("GET", "/.well-known/drtp")
    parts = urlsplit(str(answer["edge"]))
    return EdgeAddress(parts.hostname or "", parts.port or 443, bundle_pem=api.context.ca_pem)


def _forget_replaced(state_dir: Path, uids: dict[str, str]) -> None:
    """An identity is bound to the services it was made for: where one was deleted and made anew, it serves nothing."""
    former = _recorded(state_dir)
    if has_identity(state_dir) and any(former.get(name, uid) != uid for name, uid in uids.items()):
        log.info("identity given up", reason="its services were made anew")
        shutil.rmtree(state_dir / "identity")


def _recorded(state_dir: Path) -> dict[str, str]:
    """The services (name -> uid) that the identity here is known to be bound to."""
    try:
        return msgspec.json.decode((state_dir / _RECORD).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _record(state_dir: Path, uids: dict[str, str]) -> None:
    write_atomic(state_dir / _RECORD, msgspec.json.encode(uids))
