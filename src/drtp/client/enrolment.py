"""Getting an identity: with a one-time secret, or with a user's token for services the user may change.

The key is made and kept here; only its public half and a proof travel. Asking twice with the same key is safe: the
pending key on disk makes a retry, even after a crash, get the same certificate.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

import aiohttp
import msgspec
from yarl import URL

from drtp.api.feed import EnrolRequest, EnrolResponse, Fault
from drtp.api.reports import Registration
from drtp.client.dialling import ProxyFailure, web_session
from drtp.client.identity import Identity, IdentityStore, build_identity
from drtp.client.joining import EdgeAddress, pinned_root
from drtp.client.keys import request_for
from drtp.client.tls import trusting, untrusted
from drtp.client.vouching import offered
from drtp.kit.clock import SystemClock
from drtp.kit.codes import CODES
from drtp.kit.errors import Conflict, DrtpError, Refused, Retryable, Terminal
from drtp.kit.secret import Secret

TIMEOUT_S = 15.0


async def enrol(
    edge: EdgeAddress,
    identities: IdentityStore,
    registration: Registration,
    *,
    secret: Secret[str] | None = None,
    token: Secret[str] | None = None,
    namespace: str = "",
    services: Sequence[str] = (),
) -> Identity:
    """Enrol and install the identity. Either `secret`, or `token` with `namespace` and `services`.

    Raises: Terminal (refused, used, wrong authority), Retryable (unreachable, too many attempts).
    """
    key = await asyncio.to_thread(identities.pending_key)
    request = EnrolRequest(
        csr_pem=request_for(key),
        registration=registration,
        secret=secret.reveal() if secret else None,
        namespace=namespace or None,
        services=tuple(services),
    )
    answer = await _post(edge, request, token)
    identity = build_identity(
        answer.chain_pem.encode(),
        key,
        answer.bundle_pem.encode(),
        generation=answer.generation,
        suffix=answer.suffix,
        feed_url=answer.feed_url or f"{edge.url}/v1/feed",
    )
    await asyncio.to_thread(identities.install, identity)
    return identity


async def bind_services(
    edge: EdgeAddress,
    identity: Identity,
    registration: Registration,
    *,
    token: Secret[str] | None,
    namespace: str,
    services: Sequence[str],
) -> None:
    """Be the agent of exactly these services from now on; key, certificate and uid stay.

    Raises: Refused (DRTP-2001: the key is not the newest), Retryable.
    """
    request = EnrolRequest(
        csr_pem=request_for(identity.key_pem),
        registration=registration,
        namespace=namespace,
        services=tuple(services),
    )
    await _post(edge, request, token)


async def fetch_bundle(edge: EdgeAddress) -> bytes:
    """The roots to trust at `edge` (PEM): those given, or the one that has the pin. Raises: Refused, Retryable."""
    if edge.bundle_pem:
        return edge.bundle_pem
    return pinned_root(await offered(URL(f"{edge.url}/v1/bundle")), edge.pin, SystemClock().now())


async def _post(edge: EdgeAddress, request: EnrolRequest, token: Secret[str] | None) -> EnrolResponse:
    headers = {"Authorization": f"Bearer {token.reveal()}"} if token else {}
    try:
        async with asyncio.timeout(TIMEOUT_S):
            tls = trusting(await fetch_bundle(edge))
            async with (
                web_session(tls) as http,
                http.post(f"{edge.url}/v1/enrol", data=msgspec.json.encode(request), headers=headers) as response,
            ):
                body = await response.read()
                status = response.status
    except (ssl.SSLError, aiohttp.ClientConnectorCertificateError) as error:
        raise untrusted(edge.url, error, SystemClock()) from error
    except ProxyFailure as error:
        raise error.error from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise Retryable("DRTP-3001", f"{edge.url} cannot be reached: {str(error) or 'timeout'}.") from error
    if status != 200:
        raise fault_of(status, body)
    try:
        return msgspec.json.decode(body, type=EnrolResponse)
    except msgspec.DecodeError as error:
        raise Terminal("DRTP-3006", f"The answer to the enrolment cannot be read: {error}") from error


def fault_of(status: int, body: bytes) -> DrtpError:
    """The error behind an answer of the edge server's plain routes, by what to do next."""
    try:
        fault = msgspec.json.decode(body, type=Fault)
    except msgspec.DecodeError:
        fault = Fault(code="DRTP-3001", message=f"The control plane answered {status}.")
    if fault.code not in CODES:
        fault = Fault(code="DRTP-3004", message=f"{fault.code}: {fault.message}", remedy=fault.remedy)
    if status == 409:
        return Conflict(fault.code, fault.message, fault.remedy)
    if status == 429 or status >= 500:
        return Retryable(fault.code, fault.message, fault.remedy)
    if status in (401, 403):
        return Refused(fault.code, fault.message, fault.remedy)
    return Terminal(fault.code, fault.message, fault.remedy)
