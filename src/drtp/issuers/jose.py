"""Signed tokens (JWS, compact), read strictly: pinned algorithms, the issuer's key alone, each name once.

`joserfc` does the mathematics.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, NamedTuple, cast

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from drtp.kit.errors import Refused

TOKEN_BYTES_MAX = 16 * 1024
"""With many groups in it an ID token has some kilobytes; the HTTP door takes no larger header anyway."""

ALGORITHMS = {"EC": {"P-256": ("ES256",), "P-384": ("ES384",)}, "RSA": {"": ("RS256", "PS256")}}
"""By key type and curve. No `none`, and no HMAC: who knows a public key could make such a token (CVE-2015-9235)."""
RSA_BITS_MIN = 2048
KEYS_MAX = 64

_FORM = re.compile(r"[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{2,}")
_LIBRARY = jws.JWSRegistry(algorithms=["ES256", "ES384", "RS256", "PS256"], strict_check_header=False)
_NOT_UNDERSTOOD = ("crit", "b64", "zip")
"""They change what the signature means; `jwk`, `jku`, `x5c` and the like are never looked at."""

PublicKey = ECKey | RSAKey


class VerifyingKey(NamedTuple):
    """A public key of an issuer, and what it may sign with."""

    kid: str
    key: PublicKey
    algorithms: tuple[str, ...]


class Unverified(NamedTuple):
    """What a token says, believed by nobody yet: enough to choose the issuer and the key."""

    text: str
    kid: str
    algorithm: str
    claims: dict[str, Any]


def read_token(text: str) -> Unverified:
    """Take a token apart. Raises: Refused DRTP-2030."""
    if len(text) > TOKEN_BYTES_MAX or _FORM.fullmatch(text) is None:
        raise _unfit("it is no signed token")
    head, body, _ = text.split(".")
    header, claims = _object(head), _object(body)
    kid, algorithm = header.get("kid"), header.get("alg")
    if not isinstance(kid, str) or not isinstance(algorithm, str):
        raise _unfit("its header names no key or no algorithm")
    if str(header.get("typ", "JWT")).upper() != "JWT" or any(name in header for name in _NOT_UNDERSTOOD):
        raise _unfit("it is another kind of token")
    return Unverified(text, kid, algorithm, claims)


def verify(token: Unverified, key: VerifyingKey) -> dict[str, Any]:
    """The claims, now that the key's owner has said them. Raises: Refused DRTP-2030."""
    if token.algorithm not in key.algorithms:
        raise _unfit("its algorithm is not its key's")
    try:
        jws.deserialize_compact(token.text, key.key, algorithms=list(key.algorithms), registry=_LIBRARY)
    except (JoseError, ValueError, TypeError):
        raise _unfit("its signature does not hold") from None
    return token.claims


def key_set(document: bytes) -> dict[str, VerifyingKey]:
    """The usable keys of a JWK set by kid; others are passed over. Raises: ValueError for what is no JWK set."""
    parsed: Any = json.loads(document)
    found: dict[str, VerifyingKey] = {}
    for jwk in cast("list[Any]", parsed["keys"])[:KEYS_MAX]:
        key = _verifying(cast("dict[str, Any]", jwk)) if isinstance(jwk, dict) else None
        if key is not None:
            found[key.kid] = key
    return found


def _verifying(jwk: dict[str, Any]) -> VerifyingKey | None:
    kid, kind, curve = jwk.get("kid"), jwk.get("kty"), jwk.get("crv", "")
    allowed = ALGORITHMS.get(str(kind), {}).get(str(curve), ())
    if "alg" in jwk:
        allowed = tuple(one for one in allowed if one == jwk["alg"])
    if not isinstance(kid, str) or not kid or jwk.get("use", "sig") != "sig" or not allowed:
        return None
    public = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if isinstance(jwk.get(name), str)}
    try:
        if kind == "RSA" and int.from_bytes(_bytes(public["n"])).bit_length() < RSA_BITS_MIN:
            return None
        key = ECKey.import_key(public) if kind == "EC" else RSAKey.import_key(public)
    except (JoseError, binascii.Error, ValueError, TypeError, KeyError):
        return None
    return VerifyingKey(kid, key, allowed)


def _object(part: str) -> dict[str, Any]:
    try:
        value: Any = json.loads(_bytes(part), object_pairs_hook=_each_once, parse_constant=_no_number)
    except (binascii.Error, ValueError, RecursionError):
        raise _unfit("it cannot be read") from None
    if not isinstance(value, dict):
        raise _unfit("it cannot be read")
    return cast("dict[str, Any]", value)


def _bytes(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two claims of one name, who reads the first and who reads the last would see different tokens."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _unfit(why: str) -> Refused:
    return Refused("DRTP-2030", f"The ID token is not accepted: {why}.")
