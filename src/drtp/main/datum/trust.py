"""What the agent trusts at an `https://` target: this machine's roots, or the file that `--trust` names."""

from __future__ import annotations

import base64
from pathlib import Path

from drtp.main.datum.serve_request import ServeRequest
from drtp.main.shell import Misconfigured
from drtp.tunnel import Target, TargetTls


def target_of(request: ServeRequest) -> Target:
    """The pinned target of a request that names one. Raises: Misconfigured (DRTP-7013) for an unreadable file."""
    assert request.target is not None
    local = request.target.local
    tls = None
    if local.tls is not None:
        tls = TargetTls(server_name=local.tls.server_name) if request.trust is None else trust_in(request.trust)
    return Target(host=local.host, port=local.port, tls=tls, app_protocol=local.app_protocol)


def trust_in(path: Path) -> TargetTls:
    """Read PEM. One certificate that names hosts is the server's own: exactly it is trusted. Others are authorities.

    `openssl req -x509` marks a server's own certificate as an authority too, which no verifier takes as a server's;
    the names in it tell the two apart.
    """
    # Late: few targets need it, and every start would pay for it.
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as fault:
        raise Misconfigured("DRTP-7013", f"{path} holds no certificate: {fault}.", "Give a PEM file.") from fault
    if len(certificates) == 1 and _names_hosts(certificates[0]):
        return TargetTls(pinned_leaf_der=base64.b64encode(certificates[0].public_bytes(Encoding.DER)).decode())
    return TargetTls(roots_pem="".join(one.public_bytes(Encoding.PEM).decode() for one in certificates))


def _names_hosts(certificate: object) -> bool:
    from cryptography import x509

    assert isinstance(certificate, x509.Certificate)
    try:
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return False
    return True
