"""Which issuer a control plane's people sign in with, as they once confirmed: in a file of theirs, as ssh knows hosts.

An issuer's token is for one client id, and counts wherever that id does. A control plane chooses both, so a hostile one
could name those of another, and use there what it is given. Three rules stand against it:

- the accounts of a control plane are at its own address, and their client id names that address;
- an issuer elsewhere counts once somebody has named or confirmed it for this control plane, and a change does anew;
- an issuer's client id is known for one control plane, and no other gets a token for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from drtp.client.oidc import Issuer
from drtp.kit.errors import Refused, Terminal
from drtp.kit.files import private_directory, read_private, write_atomic
from drtp.kit.observe import printable

LOCAL_CLIENT = "datumctl@"
"""What the client id of a control plane's own accounts begins with; its origin follows."""


class Known(msgspec.Struct, frozen=True):
    """One line: people of `api` (an origin) sign in at `issuer` as `client_id`."""

    api: str
    issuer: str
    client_id: str


class _File(msgspec.Struct, frozen=True):
    issuers: tuple[Known, ...] = ()


class KnownIssuers:
    """The file. One for a person, whatever contexts there are."""

    def __init__(self, path: Path) -> None:
        """Raises: Terminal DRTP-7091 for a file that cannot be read: nobody guesses what was in it."""
        self._path = path
        try:
            self._known = msgspec.json.decode(read_private(path), type=_File).issuers
        except FileNotFoundError:
            self._known = ()
        except msgspec.MsgspecError:
            raise Terminal("DRTP-7091", f"{path} cannot be read.", f"Look at it, and remove it: {path}.") from None

    def is_confirmed(self, api: str, chosen: Issuer, *, named: bool) -> bool:
        """Whether people of `api` may sign in there unasked. `named`: whoever asks has said this very issuer.

        Raises: Refused DRTP-7092 for the issuer of another control plane, DRTP-7091 for one that has changed.
        """
        here = origin_of(api)
        _check_own(here, chosen)
        pair = (chosen.issuer, chosen.client_id)
        theirs = next((one for one in self._known if (one.issuer, one.client_id) == pair and one.api != here), None)
        if theirs is not None:
            raise Refused(
                "DRTP-7092",
                f"{here} wants a token of {_said(chosen)}, which is good at {theirs.api}: it could be you there.",
                f"If both are one control plane, remove the line of {theirs.api} from {self._path} and sign in again.",
            )
        before = [one for one in self._known if one.api == here]
        if chosen.local or any((one.issuer, one.client_id) == pair for one in before):
            return True
        if before and not named:
            former = ", ".join(_said(one) for one in before)
            raise Refused(
                "DRTP-7091",
                f"{here} sends people to {_said(chosen)}, and sent you to {former}.",
                f"Ask the operator; if it is meant, name it: datumctl login {here} --issuer {printable(chosen.issuer)}",
            )
        return named

    def preferred(self, api: str, offers: Sequence[Issuer]) -> Issuer:
        """Of several, the one that was confirmed before; else the first."""
        known = {(one.issuer, one.client_id) for one in self._known if one.api == origin_of(api)}
        return next((one for one in offers if (one.issuer, one.client_id) in known), offers[0])

    def remember(self, api: str, confirmed: Issuer) -> None:
        """From now on people of `api` sign in there, and nobody else's do with this client id. Durable."""
        fresh = Known(origin_of(api), confirmed.issuer, confirmed.client_id)
        if confirmed.local or fresh in self._known:
            return
        others = [one for one in self._known if (one.api, one.issuer) != (fresh.api, fresh.issuer)]
        self._known = (*others, fresh)
        if not self._path.parent.exists():
            private_directory(self._path.parent)
        write_atomic(self._path, msgspec.json.format(msgspec.json.encode(_File(self._known)), indent=2) + b"\n")


def origin_of(url: str) -> str:
    """Scheme, host and port, in one spelling; what is no address stays as it is."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return url  # of nobody
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def _said(one: Issuer | Known) -> str:
    return f"{printable(one.issuer)} (client {printable(one.client_id)})"


def _check_own(here: str, chosen: Issuer) -> None:
    """Accounts of a control plane are at its own address, and told as its own. Raises: Refused DRTP-7092."""
    mark, _, owner = chosen.client_id.partition("@")
    of_accounts = f"{mark}@" == LOCAL_CLIENT
    if not chosen.local and not of_accounts:
        return
    places = {origin_of(chosen.issuer), origin_of(owner)}
    if chosen.local and of_accounts and places == {here}:
        return
    there = printable(next(iter(sorted(places - {here})), here))
    raise Refused(
        "DRTP-7092",
        f"{here} wants you to sign in with accounts of {there}.",
        f"If that is the control plane you mean, sign in there: datumctl login {there}",
    )
