"""Taking away what was given: certificates, secrets, tokens. The seam between the API and the issuing parts."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Withdrawn(NamedTuple):
    """What one revocation took away. `identities` are edges' uids; `user` is an account's uid, "" if none was shut."""

    identities: tuple[str, ...] = ()
    secrets: int = 0
    tokens: int = 0
    user: str = ""


class Because(NamedTuple):
    """Who revokes, and why: for the audit log and for whoever asks what became of an identity."""

    by: str
    reason: str


class Revoker(Protocol):
    """Revokes at once and for good: what was taken away is never accepted again, a restart or restore included.

    Whoever may can give anew: a new secret, a new token. Every method raises NotFound where there is nothing of that
    name, and what has been revoked before counts again.
    """

    async def agent(self, namespace: str, uid: str, because: Because) -> Withdrawn:
        """One agent of a project. Its tunnels and its feed end."""
        ...

    async def service(self, namespace: str, name: str, because: Because) -> Withdrawn:
        """Every agent that serves a DRTPService, and the secrets that would let in more."""
        ...

    async def user(self, name: str, because: Because) -> Withdrawn:
        """A user: their tokens, certificates and unspent secrets, and the agents that they let in by themselves.

        Agents that came by a secret belong to their project and go on.
        """
        ...

    async def pop(self, name: str, because: Because) -> Withdrawn:
        """The POP that serves a DRTPServer. It ends its visitors' connections and leaves."""
        ...

    async def gateway(self, name: str, because: Because) -> Withdrawn:
        """A gateway, by the name it joined under. POPs stop believing it."""
        ...
