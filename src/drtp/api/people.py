"""Who calls an API, and whether they may: the two seams in front of every look-up.

The identity part implements `Authenticator`; one `Authoriser` decides for the Kubernetes API and for enrolment alike.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from drtp.kit.secret import Secret

SYSTEM_MASTERS = "system:masters"
"""The group that may do everything; the operator's own certificate carries it through the authenticator."""

AUTHENTICATED = "system:authenticated"
"""The group that every authenticated user is in."""


RESERVED = "system:"
"""What users' names never begin with; Kubernetes gives such names itself."""


class User(NamedTuple):
    """An authenticated caller. What it may do is in roles; `within`, unless empty, are the only tenants for it."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    within: frozenset[str] = frozenset()


class Decision(NamedTuple):
    """Whether the action may go on; `reason` is said to the caller and names nothing of another tenant."""

    allowed: bool
    reason: str = ""


class Authenticator(Protocol):
    """Turns what a connection proves into a user."""

    async def authenticate(self, token: str, peer_cert_der: bytes | None, remote: str) -> User | None:
        """The user behind a bearer token ("" for none) or a verified client certificate; None when neither is good."""
        ...


class IssuedToken(NamedTuple):
    """A token for a user, shown once."""

    uid: str
    token: Secret[str]
    expires_at: datetime


class TokenIssuer(Protocol):
    """Makes users, and what proves them."""

    async def issue(self, user: str, lifetime: timedelta, *, reinstate: bool = False) -> IssuedToken:
        """A token of the user of this name, who is made if need be. Raises: Refused DRTP-1031.

        `reinstate`: a user who was revoked is a user again.
        """
        ...

    async def issue_to_program(self, namespace: str, name: str, uid: str, lifetime: timedelta) -> IssuedToken:
        """A token of the ServiceAccount of this uid, good for as long as it is there."""
        ...


SERVICE_ACCOUNTS = f"{RESERVED}serviceaccounts"
"""The group of all service accounts; those of a project are in `<this>:<project>` too."""


class Authoriser(Protocol):
    """Decides before anything is looked up, so that what one may not read is refused whether it exists or not."""

    def decide(  # noqa: PLR0917 - the seven attributes of a request, in the order Kubernetes lists them
        self, user: User, verb: str, group: str, resource: str, subresource: str, namespace: str, name: str
    ) -> Decision:
        """`verb` as Kubernetes names it (get, list, watch, create, update, patch, delete, deletecollection).

        `namespace` is "" for all namespaces or a cluster-scoped resource; `name` "" for a collection. A Namespace is in
        itself: both are its name.
        """
        ...
