"""The operator's file of trusted issuers, parsed once, and what of it people are told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import yaml

from drtp.api.jsonvalue import JsonObject
from drtp.api.meta import Model
from drtp.api.people import FOREIGN, RESERVED
from drtp.issuers.idtokens import TrustedIssuer
from drtp.issuers.localissuer import LocalIssuer
from drtp.issuers.remotekeys import checked_url
from drtp.kit.errors import Terminal
from drtp.kit.files import read_private
from drtp.kit.secret import Secret
from drtp.main.settings import ControlPlaneSettings

FILE = "issuers.yaml"


class _Issuer(Model, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the file. `client_id` is the audience too, unless `audience` says another one."""

    issuer: str
    client_id: str = msgspec.field(name="clientID")
    audience: str = ""
    user_prefix: str = ""
    groups_claim: str = ""
    login: bool = True
    scopes: tuple[str, ...] = ("openid", "offline_access")
    ca_file: str = ""
    client_secret_file: str = ""


class _File(Model, frozen=True, forbid_unknown_fields=True):
    issuers: tuple[_Issuer, ...] = ()


def trusted_issuers(settings: ControlPlaneSettings) -> tuple[TrustedIssuer, ...]:
    """What the file says; none where there is no file. Raises: Terminal DRTP-7088."""
    path = settings.issuers or settings.directory / FILE
    return read_issuers(path) if settings.issuers is not None or path.exists() else ()


def read_issuers(path: Path) -> tuple[TrustedIssuer, ...]:
    """What a file says. Raises: Terminal DRTP-7088."""
    try:
        content = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, type=_File)
        found = tuple(_trusted(one, path.parent) for one in content.issuers)
        _apart(found)
    except (yaml.YAMLError, msgspec.ValidationError, OSError, ValueError) as error:
        raise Terminal("DRTP-7088", f"{path} cannot be used: {error}.") from None
    return found


def offered(trusted: Sequence[TrustedIssuer], local: LocalIssuer) -> tuple[JsonObject, ...]:
    """What people are told: the operator's issuers first, then the accounts of this installation."""
    found: list[JsonObject] = []
    for one in trusted:
        if one.login:
            entry: JsonObject = {"issuer": one.issuer, "clientID": one.audience, "scopes": list(one.scopes)}
            found.append(entry | ({"ca": one.ca_pem.decode()} if one.ca_pem else {}))
    return (
        *found,
        {"issuer": local.issuer, "clientID": local.client, "scopes": ["openid", "offline_access"], "local": True},
    )


def _trusted(entry: _Issuer, folder: Path) -> TrustedIssuer:
    checked_url(entry.issuer)
    if not entry.client_id:
        raise ValueError(f"{entry.issuer} has no clientID")
    audience = entry.audience or entry.client_id
    if entry.login and audience != entry.client_id:
        raise ValueError(f"people sign in at {entry.issuer}, so its audience is its clientID")
    prefix = entry.user_prefix or f"{entry.issuer}{FOREIGN}"
    if not prefix.endswith(FOREIGN) or len(prefix) < 2 or prefix.startswith(RESERVED):
        raise ValueError(f"userPrefix {prefix!r} must end with {FOREIGN} and not begin with {RESERVED}")
    return TrustedIssuer(
        issuer=entry.issuer,
        audience=audience,
        prefix=prefix,
        groups_claim=entry.groups_claim,
        login=entry.login,
        scopes=entry.scopes,
        ca_pem=(folder / entry.ca_file).read_bytes() if entry.ca_file else b"",
        client_secret=_secret(folder / entry.client_secret_file) if entry.client_secret_file else None,
    )


def _secret(path: Path) -> Secret[str]:
    return Secret(read_private(path).decode().strip())


def _apart(issuers: Sequence[TrustedIssuer]) -> None:
    """No name could be somebody of two issuers. Raises: ValueError."""
    for one in issuers:
        for other in issuers:
            if one is not other and (one.issuer == other.issuer or other.prefix.startswith(one.prefix)):
                raise ValueError(f"{one.issuer} and {other.issuer} are the same, or their names could be")
