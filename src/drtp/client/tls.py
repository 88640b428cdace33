"""TLS as an edge speaks it to the control plane: 1.3, private roots only, no resumption, the peer's leaf checked."""

from __future__ import annotations

import ssl

import aiohttp

from drtp.api.spiffe import PeerRole, SpiffeId, identity_of
from drtp.client.identity import Identity, IdentityPaths
from drtp.kit.clock import Clock
from drtp.kit.errors import DrtpError, Refused, Retryable, Terminal

ALPN = "http/1.1"


def trusting(bundle_pem: bytes) -> ssl.SSLContext:
    """Trusts these roots and no others, and checks the name. Raises: ssl.SSLError for an unreadable bundle."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    # Resumption admits what a full handshake would refuse (CVE-2025-23419, CVE-2025-68121).
    context.options |= ssl.OP_NO_TICKET
    context.load_verify_locations(cadata=bundle_pem.decode())
    context.set_alpn_protocols([ALPN])
    return context


def presenting(identity: Identity, paths: IdentityPaths) -> ssl.SSLContext:
    """`trusting` the identity's own bundle, with its certificate shown to whoever asks."""
    context = trusting(identity.bundle_pem)
    context.load_cert_chain(paths.chain, paths.key)
    return context


def control_plane_behind(socket: aiohttp.ClientWebSocketResponse) -> SpiffeId:
    """Who answered: the name in the leaf says it is a control plane, whatever DNS name was dialled. Raises: Refused.

    Short requests rest on the DNS name alone: the authority gives a control plane's names to control planes only, and
    certificates for visitors come from another root.
    """
    tls: ssl.SSLObject | None = socket.get_extra_info("ssl_object")
    leaf = tls.getpeercert(binary_form=True) if tls else None
    peer = identity_of(leaf) if leaf else None
    if peer is None or peer.role is not PeerRole.CONTROLPLANE:
        raise Refused("DRTP-2014", "Something that is not a control plane answered at its address.")
    return peer


def untrusted(where: str, error: BaseException, clock: Clock) -> DrtpError:
    """Why the certificate of `where` did not pass. A clock that is off is no attack, and may be set at any moment."""
    said = str(error)
    early, late = "certificate is not yet valid" in said, "certificate has expired" in said
    if early or late:
        fault = "is not valid yet" if early else "has expired"
        now = f"{clock.now():%Y-%m-%d %H:%M} UTC"
        return Retryable("DRTP-3012", f"The certificate of {where} {fault} by this machine's clock, which says {now}.")
    return Terminal("DRTP-2014", f"The certificate of {where} is not trusted: {said}.")
