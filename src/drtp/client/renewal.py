"""When a certificate is to be renewed, and how one that expired while its edge was off comes back."""

from __future__ import annotations

import base64
import random
from datetime import datetime, timedelta

import aiohttp
import msgspec
from yarl import URL

from drtp.api.feed import Renewed, RenewRequest, renewal_proof
from drtp.client.dialling import ProxyFailure, web_session
from drtp.client.enrolment import fault_of
from drtp.client.identity import Identity, IdentityStore, build_identity
from drtp.client.keys import request_for, sign
from drtp.client.tls import trusting
from drtp.kit.errors import Refused, Retryable, Terminal

RENEW_AT = 1 / 3
"""Of the lifetime: two thirds remain for trying, at least 15 of 24 hours."""
RENEW_JITTER = 0.1
"""Of that moment: a fleet that enrolled together does not renew together."""
RECHECK_S = 30.0
"""Wall time is looked at this often: a machine that slept finds out soon after it wakes."""


def due_at(identity: Identity, rng: random.Random) -> datetime:
    """The moment to ask for the next certificate: a third of the lifetime, give or take a tenth of that."""
    lifetime_s = (identity.not_after - identity.not_before).total_seconds()
    share = RENEW_AT * rng.uniform(1 - RENEW_JITTER, 1 + RENEW_JITTER)
    return identity.not_before + timedelta(seconds=lifetime_s * share)


def renewed_identity(identity: Identity, store: IdentityStore, answer: Renewed) -> Identity:
    """Check the answer against the key that was asked for, and make it the current identity. Raises: Terminal."""
    following = build_identity(
        answer.chain_pem.encode(),
        store.pending_key(),
        answer.bundle_pem.encode(),
        generation=answer.generation,
        suffix=identity.suffix,
        feed_url=identity.feed_url,
    )
    if following.uri != identity.uri:
        raise Terminal("DRTP-2010", "The renewed certificate names somebody else.")
    store.install(following)
    return following


async def renew_expired(identity: Identity, store: IdentityStore) -> Identity:
    """Renew within the grace period, proving possession of the expired certificate's key instead of presenting it.

    TLS stacks refuse expired client certificates, and rightly; so nothing is presented, and the control plane checks
    the chain as of its last valid moment.
    Raises: Terminal (revoked, locked, too old), Retryable.
    """
    base = URL(identity.feed_url)
    csr_pem = request_for(store.pending_key())
    try:
        async with web_session(trusting(identity.bundle_pem)) as session:
            async with session.get(base.with_path("/v1/nonce"), timeout=aiohttp.ClientTimeout(10)) as response:
                nonce = await response.text()
            proof = sign(identity.key_pem, renewal_proof(nonce, csr_pem, identity.generation))
            request = RenewRequest(
                chain_pem=identity.chain_pem.decode(),
                csr_pem=csr_pem,
                generation=identity.generation,
                nonce=nonce,
                signature=base64.b64encode(proof).decode(),
            )
            body = msgspec.json.encode(request)
            async with session.post(
                base.with_path("/v1/renew"), data=body, timeout=aiohttp.ClientTimeout(10)
            ) as response:
                answer = await response.read()
                status = response.status
    except ProxyFailure as error:
        raise error.error from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Retryable("DRTP-3001") from error
    if status != 200:
        fault = fault_of(status, answer)
        if isinstance(fault, Refused):
            raise Terminal(fault.code, fault.what, fault.remedy)
        raise fault
    return renewed_identity(identity, store, msgspec.json.decode(answer, type=Renewed))
