"""Who calls an API, and whether they may: the two seams in front of every look-up.

The identity part implements `Authenticator`; one `Authoriser` decides for the Kubernetes API and for enrolment alike.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple, Protocol

from drtp.kit.secret import Secret

SYSTEM_MASTERS = "system:masters"
"""The group that may do everything; the operator's own certificate carries it through the authenticator."""

AUTHENTICATED = "system:authenticated"
"""The group that every authenticated user is in."""


FOREIGN = "#"
"""In the name of a user whom a foreign issuer proves, between the issuer and its own name for them, as Kubernetes has
it. No local account has it in its name, so nobody is called like somebody of an issuer.
"""

RESERVED = "system:"
"""What users' names never begin with; Kubernetes gives such names itself."""


_ACCOUNTS = uuid.UUID("6e2f2a5e-3f0e-5d6c-9a51-9f1f0f6d7c11")
"""Name space of accounts that are made by name: a random constant."""


def account_uid(name: str) -> str:
    """A user's uid by the user's name: the same account for the same name, whoever asks first."""
    return str(uuid.uuid5(_ACCOUNTS, name))


class Proof(Enum):
    """What a caller showed."""

    LOGIN = "login"
    TOKEN = "token"  # noqa: S105 - a word
    CERTIFICATE = "certificate"


class User(NamedTuple):
    """An authenticated caller. What it may do is in roles; `within`, unless empty, are the only tenants for it.

    `read_only`: nothing is changed in its name. `until`: when what it showed ends, if that is known.
    """

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    within: frozenset[str] = frozenset()
    read_only: bool = False
    until: datetime | None = None
    proof: Proof = Proof.TOKEN


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

SERVICE_ACCOUNT_PREFIX = f"{RESERVED}serviceaccount:"
"""What a service account's name as a user begins with: project and name follow."""


def service_account_user(namespace: str, name: str) -> User:
    """A service account as a user, with the name and groups that Kubernetes gives it."""
    return User(
        f"{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}", groups=(SERVICE_ACCOUNTS, f"{SERVICE_ACCOUNTS}:{namespace}")
    )


class TokenAsk(NamedTuple):
    """A narrowed token that a user wants. `namespaces` empty: as wide as what they show."""

    namespaces: tuple[str, ...]
    lifetime: timedelta
    read_only: bool = False
    description: str = ""


class OwnToken(NamedTuple):
    """One of a user's tokens, without what makes it one."""

    id: str
    namespaces: tuple[str, ...]
    expires_at: datetime | None
    read_only: bool
    description: str


class Certified(NamedTuple):
    """A user's client certificate with the intermediate above it, and the roots; PEM."""

    chain_pem: str
    bundle_pem: str
    not_after: datetime


class CredentialIssuer(Protocol):
    """Makes what proves users, for themselves; and passwords, for operators."""

    async def set_password(self, name: str, password: Secret[str], by: User) -> str:
        """A user's password, who is made if need be; gives the uid. Raises: Refused DRTP-1031, Invalid DRTP-2037."""
        ...

    async def make_token(self, user: User, ask: TokenAsk) -> tuple[OwnToken, Secret[str]]:
        """A token of their own, shown once. Raises: Refused DRTP-2035 where it would allow more, Invalid DRTP-2036."""
        ...

    async def tokens_of(self, user: User) -> tuple[OwnToken, ...]:
        """Their tokens, those that end first ahead. Raises: Refused DRTP-2035 for a narrowed caller."""
        ...

    async def drop_token(self, user: User, token_id: str) -> None:
        """From now on it proves nobody. Raises: NotFound, Refused DRTP-2035."""
        ...

    async def certify(self, user: User, csr_pem: str) -> Certified:
        """A client certificate for a key that the user made. Raises: Refused DRTP-2035, DRTP-2011, DRTP-2012."""
        ...


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
