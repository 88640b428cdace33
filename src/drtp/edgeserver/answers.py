"""Answers of the plain routes, and who asks: from the connection, never from a header."""

from __future__ import annotations

import hashlib
import ssl

import msgspec
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from drtp.api.feed import Fault
from drtp.api.meta import Model
from drtp.kit.codes import CODES
from drtp.kit.errors import Conflict, DrtpError, Invalid, NotFound, Refused, Retryable

_STATUS: dict[type[DrtpError], int] = {Refused: 403, Invalid: 422, NotFound: 404, Conflict: 409, Retryable: 503}

_UNKEPT = {"Cache-Control": "no-store"}


def answer(value: Model, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=_UNKEPT
    )


def fault(error: DrtpError) -> web.Response:
    """An error as the caller sees it."""
    status = 429 if error.code == "DRTP-2003" else next((_STATUS[k] for k in _STATUS if isinstance(error, k)), 500)
    return answer(Fault(code=error.code, message=error.what, remedy=error.remedy), status)


def plain_fault(code: str, status: int) -> web.Response:
    """A registered error without any detail of this case."""
    entry = CODES[code]
    return answer(Fault(code=code, message=entry.what, remedy=entry.remedy), status)


def remote_of(request: web.Request) -> str:
    """The address of the connection, or of the WebSocket around it; `X-Forwarded-For` is anybody's to write."""
    return request.remote or ""


def leaf_of(request: web.Request) -> x509.Certificate | None:
    """The client's leaf, which TLS has verified; None if it showed none."""
    tls: ssl.SSLObject | None = request.transport.get_extra_info("ssl_object") if request.transport else None
    der = tls.getpeercert(binary_form=True) if tls else None
    return x509.load_der_x509_certificate(der) if der else None


def bearer_of(request: web.Request) -> str:
    """The bearer token; "" if there is none, or more than one header."""
    values = request.headers.getall("Authorization", [])
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else ""


def key_of(leaf: x509.Certificate) -> str:
    """SHA-256 (hex) of the leaf's public key."""
    der = leaf.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()
