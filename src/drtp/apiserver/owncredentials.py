"""Posted `SelfToken`, `SelfTokenReview`, `SelfTokenRevocation`, `ClientCertificate`, and the operator's `UserPassword`.

They name what is wanted and come back with it; nothing is kept of them. A secret is in the answer alone.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from drtp.api.jsonvalue import JsonObject, is_list, is_object
from drtp.api.people import CredentialIssuer, OwnToken, TokenAsk, User
from drtp.apiserver.failures import Failure
from drtp.apiserver.usertokens import name_fault
from drtp.kit.secret import Secret

PLURALS = frozenset({"selftokens", "selftokenreviews", "selftokenrevocations", "clientcertificates", "userpasswords"})

LIFETIME_S = 30 * 24 * 3600
LIFETIME_S_MAX = 365 * 24 * 3600
NAMESPACES_MAX = 64
DESCRIPTION_MAX = 200


async def answer(plural: str, body: JsonObject, user: User, issuer: CredentialIssuer) -> JsonObject:
    """The posted object with its status. Raises: Failure 422, Refused, NotFound, Invalid."""
    given: Any = body.get("spec")
    spec: JsonObject = given if is_object(given) else {}
    match plural:
        case "selftokens":
            made, token = await issuer.make_token(user, _ask(spec))
            status: JsonObject = _told(made) | {"token": token.reveal()}
        case "selftokenreviews":
            status = {"tokens": [_told(one) for one in await issuer.tokens_of(user)]}
        case "selftokenrevocations":
            await issuer.drop_token(user, _text(spec, "id", 64))
            status = {}
        case "clientcertificates":
            certified = await issuer.certify(user, _text(spec, "csr", 8192, lines=True))
            status = {
                "certificate": certified.chain_pem,
                "ca": certified.bundle_pem,
                "expires": certified.not_after.isoformat(),
            }
        case _:
            name, password = spec.get("user"), spec.get("password")
            if (fault := name_fault(name)) is not None or not isinstance(password, str):
                raise Failure(422, "DRTP-1010", fault or "spec.password: Required value")
            uid = await issuer.set_password(str(name), Secret(password), user)
            status = {"uid": uid}
            spec = {"user": name}  # the password does not come back
    return body | {"metadata": {}, "spec": spec, "status": status}


def _ask(spec: JsonObject) -> TokenAsk:
    namespaces: Any = spec.get("namespaces") or []
    lifetime: Any = spec.get("lifetimeSeconds", LIFETIME_S)
    read_only: Any = spec.get("readOnly", False)
    description: Any = spec.get("description") or ""
    faults: list[str] = []
    named = is_list(namespaces) and all(isinstance(one, str) and 0 < len(one) <= 63 for one in namespaces)
    if not named or len(namespaces) > NAMESPACES_MAX:
        faults.append(f"spec.namespaces: Invalid value: must be at most {NAMESPACES_MAX} names of projects")
    if isinstance(lifetime, bool) or not isinstance(lifetime, int) or not 60 <= lifetime <= LIFETIME_S_MAX:
        faults.append(f"spec.lifetimeSeconds: Invalid value: must be between 60 and {LIFETIME_S_MAX}")
    if not isinstance(read_only, bool):
        faults.append("spec.readOnly: Invalid value: must be true or false")
    if not isinstance(description, str) or len(description) > DESCRIPTION_MAX or not description.isprintable():
        faults.append(f"spec.description: Invalid value: must be one line of at most {DESCRIPTION_MAX} characters")
    if faults:
        raise Failure(422, "DRTP-1010", "; ".join(faults))
    return TokenAsk(tuple(sorted({*namespaces})), timedelta(seconds=lifetime), read_only, description)


def _text(spec: JsonObject, name: str, most: int, *, lines: bool = False) -> str:
    value: Any = spec.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= most or not (lines or value.isprintable()):
        raise Failure(422, "DRTP-1010", f"spec.{name}: Required value: at most {most} characters")
    return value


def _told(token: OwnToken) -> JsonObject:
    return {
        "id": token.id,
        "namespaces": list(token.namespaces),
        "expires": token.expires_at.isoformat() if token.expires_at else None,
        "readOnly": token.read_only,
        "description": token.description,
    }
