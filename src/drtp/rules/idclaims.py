"""What an ID token must say to prove somebody here. Pure: whoever asks has checked the signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from drtp.kit.errors import Refused

LEEWAY_S = 30.0
"""Clocks of issuers are not exact; NTP keeps honest ones far closer."""
LIFETIME_S_MAX = 25 * 3600.0
"""A token that is good for longer is no ID token of a sign-in but a password; issuers give a day at most."""
SUBJECT_MAX = 255
"""OpenID Connect Core, section 2."""
GROUPS_MAX = 256


class Expected(NamedTuple):
    """`audience`: the one party that the token may be for. `groups_claim` "": groups are not read."""

    issuer: str
    audience: str
    groups_claim: str = ""


class Subject(NamedTuple):
    """Whom a token proves, as its issuer calls them; `expires_at` in unix seconds."""

    issuer: str
    subject: str
    groups: tuple[str, ...]
    expires_at: float


def subject_of(claims: Mapping[str, Any], expected: Expected, now: float) -> Subject:
    """Who it is; `now` in unix seconds. Raises: Refused DRTP-2030, whose sentence is for logs, never for the caller."""
    if claims.get("iss") != expected.issuer:
        raise _unfit("it is of another issuer")
    _audience(claims, expected.audience)
    expires_at = _times(claims, now)
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_MAX or not subject.isprintable():
        raise _unfit("it has no usable sub")
    return Subject(expected.issuer, subject, _groups(claims, expected.groups_claim), expires_at)


def _audience(claims: Mapping[str, Any], wanted: str) -> None:
    """Exactly one audience, and that is us: what is for others too, others hold and could present here."""
    said: Any = claims.get("aud")
    audiences: list[Any] = cast("list[Any]", said) if isinstance(said, list) else [said]
    if audiences != [wanted]:
        raise _unfit("it is not for this control plane alone")
    if claims.get("azp", wanted) != wanted:
        raise _unfit("it was issued to another party")


def _times(claims: Mapping[str, Any], now: float) -> float:
    expires_at, issued_at = _time(claims, "exp"), _time(claims, "iat")
    if now >= expires_at + LEEWAY_S:
        raise _unfit("it has expired")
    if issued_at > now + LEEWAY_S or ("nbf" in claims and _time(claims, "nbf") > now + LEEWAY_S):
        raise _unfit("it is of the future")
    if expires_at - issued_at > LIFETIME_S_MAX:
        raise _unfit("it is good for too long")
    return expires_at


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    # A bool is an int to Python; a number beyond the year 9999 is no time.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 253402300800:
        raise _unfit(f"it has no usable {name}")
    return float(value)


def _groups(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    said: Any = claims.get(name, []) if name else []
    groups: list[Any] = cast("list[Any]", said) if isinstance(said, list) else [said]
    if len(groups) > GROUPS_MAX or not all(isinstance(one, str) and one and one.isprintable() for one in groups):
        raise _unfit(f"its {name} are no list of names")
    return tuple(groups)


def _unfit(why: str) -> Refused:
    return Refused("DRTP-2030", f"The ID token is not accepted: {why}.")
