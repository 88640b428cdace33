"""How an agent comes to its identity: the one on disk, a one-time secret, or the user's own token."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
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
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Conflict, DrtpError, NotFound, Refused, Retryable
from drtp.kit.exclusive import exclusive
from drtp.kit.files import private_directory, write_atomic
from drtp.kit.observe import logger
from drtp.kit.secret import Secret
from drtp.main.datum.access import with_token
from drtp.main.datum.definition import change, new_service
from drtp.main.datum.serve_request import ServeRequest, ServeSettings
from drtp.main.datum.undoing import PLURAL, UNDO_WITHIN_S, Made, forget_identity
from drtp.main.shell import Misused

log = logger("serve")

_RECORD = "services.json"
RENEWABLE = timedelta(days=7)
"""An identity that has expired for longer is not renewed any more (`GRACE` of the edge server)."""


@dataclass(frozen=True)
class Enrolment:
    """What is known before the agent starts. `context` None: a secret or a stored identity is all there is."""

    settings: ServeSettings
    namespace: str
    state_dir: Path
    context: Context | None
    made: Made = field(default_factory=Made)
    """What this run has made so far, whoever replaces the rest."""


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
    if settings.identity_token is not None:
        await _by_workload(enrolment, settings.identity_token)
        return
    if all(request.predefined for request in settings.requests) and has_identity(state_dir):
        return
    if enrolment.context is None:
        raise Misused("DRTP-7010", "No identity is here yet, and no secret was given to get one.")
    enrolment = await signed_in_now(enrolment)
    assert enrolment.context is not None
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


async def signed_in_now(enrolment: Enrolment) -> Enrolment:
    """With a token that is good now: an agent that waits for its control plane, or runs for weeks, outlives many.

    Raises: Refused DRTP-7085, Retryable DRTP-7083.
    """
    context = enrolment.context
    if context is None or context.sign_in is None:
        return enrolment
    return replace(enrolment, context=await asyncio.to_thread(with_token, context))


async def _by_workload(enrolment: Enrolment, token_file: Path) -> None:
    """Enrol with the workload's own token, unless there is an identity that can still be renewed.

    Raises: Misused DRTP-7002, DRTP-7089; Refused.
    """
    settings, state_dir = enrolment.settings, enrolment.state_dir
    names = tuple(request.name for request in settings.requests)
    if not all(request.predefined for request in settings.requests):
        raise Misused("DRTP-7002", "A workload's token serves what is defined already.", "Name it with --service.")
    held = IdentityStore(state_dir).load() if has_identity(state_dir) else None
    if held is not None and SystemClock().now() < held.not_after + RENEWABLE:
        return
    edge = settings.control_plane
    if edge is None:
        if enrolment.context is None:
            raise Misused(
                "DRTP-7002", "Where is the control plane?", "Give --control-plane HOST:PORT#PIN, or a context."
            )
        async with ApiClient(enrolment.context) as api:
            edge = await edge_address(api, enrolment.context)
    token = _workload_token(token_file)
    with _aside(state_dir / "identity"):
        identities, said = IdentityStore(state_dir), registration(settings)
        await enrol(edge, identities, said, token=token, namespace=enrolment.namespace, services=names)


@contextlib.contextmanager
def _aside(directory: Path) -> Generator[None]:
    """Out of the way while the block runs: gone after it, and back where it failed."""
    former = directory.with_name(f"{directory.name}.expired")
    shutil.rmtree(former, ignore_errors=True)
    if directory.exists():
        directory.replace(former)
    try:
        yield
    except BaseException:
        if former.exists():
            shutil.rmtree(directory, ignore_errors=True)
            former.replace(directory)
        raise
    if former.exists():
        log.info("identity given up", reason="it had expired for good")
        shutil.rmtree(former)


def _workload_token(path: Path) -> Secret[str]:
    """What is in the file now: whoever runs the workload renews it. Raises: Misused DRTP-7089."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as fault:
        raise Misused("DRTP-7089", f"The identity token cannot be read: {fault}.") from fault
    if not text:
        raise Misused("DRTP-7089", f"{path} is empty.")
    return Secret(text)


async def prepare_anew(enrolment: Enrolment, former: Enrolment) -> None:
    """While the agent runs: bring into being what was not asked for before, and be the agent of all that is now.

    Raises: Refused, Invalid, Conflict, Retryable; then nothing has changed for the agent.
    """
    enrolment = await signed_in_now(enrolment)
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
            request.name: together.create_task(_service_uid(api, request, enrolment))
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


async def _service_uid(api: ApiClient, request: ServeRequest, enrolment: Enrolment) -> str:
    """Create the service, or change what differs from the command line; a predefined one is only looked up."""
    namespace = enrolment.namespace
    if request.predefined:
        return str((await api.get(API_VERSION, PLURAL, request.name, namespace=namespace))["metadata"]["uid"])
    try:
        return await _new_uid(api, request, enrolment)
    except Conflict:
        try:
            return str((await _changed(api, request, namespace))["metadata"]["uid"])
        except NotFound:
            # Deleted between the two: whoever did so wanted it gone before, not after, this command.
            return await _new_uid(api, request, enrolment)


async def _new_uid(api: ApiClient, request: ServeRequest, enrolment: Enrolment) -> str:
    """Make it. A start that is ended meanwhile waits for the answer: what is made must be known to be undone."""

    async def make() -> str:
        present = await api.create(new_service(request), PLURAL, namespace=enrolment.namespace)
        uid = enrolment.made.uids[request.name] = str(present["metadata"]["uid"])
        return uid

    made = asyncio.create_task(make())  # noqa: TID251 -- a group would take it away with whoever waits
    try:
        return await asyncio.shield(made)
    except asyncio.CancelledError:
        with contextlib.suppress(DrtpError, TimeoutError):
            async with asyncio.timeout(UNDO_WITHIN_S):
                await made
        raise


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
    """An identity is bound to the services it was made for: where one was deleted and made anew, it serves nothing.

    Raises: Terminal DRTP-4010 while another process runs with it.
    """
    former = _recorded(state_dir)
    if has_identity(state_dir) and any(former.get(name, uid) != uid for name, uid in uids.items()):
        with free(state_dir, uids):
            log.info("identity given up", reason="its services were made anew")
            shutil.rmtree(state_dir / "identity")


def free(state_dir: Path, services: Iterable[str]) -> contextlib.AbstractContextManager[None]:
    """Nobody else serves with this state while the block runs. Raises: Terminal DRTP-4010, which names who does."""
    names = " and ".join(services)
    what = f"{names} is being served already" if names else f"Another process serves with {state_dir}"
    return exclusive(state_dir / "lock", "DRTP-4010", f"{what}.")


def forget_undone(state_dir: Path, gone: Iterable[str]) -> None:
    """Give the identity here up where none of its services is left."""
    if has_identity(state_dir) and _recorded(state_dir).keys() <= set(gone):
        forget_identity(state_dir, state_dir / _RECORD)


def _recorded(state_dir: Path) -> dict[str, str]:
    """The services (name -> uid) that the identity here is known to be bound to."""
    try:
        return msgspec.json.decode((state_dir / _RECORD).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _record(state_dir: Path, uids: dict[str, str]) -> None:
    write_atomic(state_dir / _RECORD, msgspec.json.encode(uids))
