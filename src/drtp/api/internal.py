"""Records of the control plane that no API serves: group internal.datumapis.com, version v1, all cluster-scoped.

They live in the Store like everything else, so that consumption of a secret, a renewal or a claim is one conditional
write (`resourceVersion` precondition). Nothing here is a secret: secrets are kept as digests.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from drtp.api.feed import EdgeRole
from drtp.api.meta import Model, ObjectMeta

GROUP = "internal.datumapis.com"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"

ENROLMENT_SECRET = f"EnrolmentSecret.{GROUP}"
EDGE_IDENTITY = f"EdgeIdentity.{GROUP}"
ACCOUNT = f"Account.{GROUP}"
API_TOKEN = f"ApiToken.{GROUP}"
LOGIN = f"Login.{GROUP}"
CLAIM = f"Claim.{GROUP}"
INVITATION = f"Invitation.{GROUP}"
VISITORS = "visitors"
"""Name of the one record of the sign-in."""


class Bound(Model, frozen=True):
    """The object an identity or a secret is bound to, by uid; the name is for people. Kind as in `Key.kind`."""

    kind: str
    name: str
    namespace: str = ""
    uid: str = ""


class SecretUse(Model, frozen=True):
    """One consumption. The same `public_key` asking again gets the same identity and certificate."""

    public_key: str
    identity: str
    at: datetime
    remote: str


class EnrolmentSecretSpec(Model, frozen=True):
    """A one-time secret.

    `digest`: HMAC-SHA256 with the pepper (hex). `replays`: refused uses by other keys, beyond the cap. `kept_in`: the
    Secret of the service's project that holds the string for as long as it is good, "" if none does.
    """

    digest: str
    role: EdgeRole
    bound: Bound
    expires_at: datetime
    uses_max: int = 1
    source_cidrs: tuple[str, ...] = ()
    uses: tuple[SecretUse, ...] = ()
    replays: int = 0
    last_replay_at: datetime | None = None
    created_by: str = ""
    kept_in: str = ""


class EnrolmentSecret(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Named by the id in the secret (12 characters)."""

    api_version: str = API_VERSION
    kind: str = "EnrolmentSecret"
    metadata: ObjectMeta
    spec: EnrolmentSecretSpec


class CallerKind(Enum):
    """Whose connector it is."""

    USER = "user"
    APP = "app"


class CallerRecord(Model, frozen=True):
    """Who a connector acts for, as its enrolment proved: `groups`, `within` and `until` as of a `User`.

    Of a local user the account's groups count, as they are now (`projections.connects.present`).

    From `until` on its certificate is not renewed: its user has to prove anew who they are, and what they are in.
    """

    kind: CallerKind
    uid: str
    name: str
    groups: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    until: datetime | None = None


class FormerKey(Model, frozen=True):
    """A key that an edge's new enrolment replaced: SHA-256 of it (hex), and when its last certificate ends.

    Whoever holds it is not that edge any more, so it is on the deny-list until then.
    """

    key: str
    until: datetime


class EdgeIdentitySpec(Model, frozen=True):
    """One edge as its certificate names it.

    `bound`: an agent's DRTPServices, a POP's one DRTPServer; empty for a gateway (its `edge_name` names it).
    `namespace`: an agent's tenant. `generation` counts certificates; `key_now` and `key_before` are the SHA-256 of the
    public keys of that certificate and of the one before (hex). `used_generation`: the newest one that has connected;
    an older one coming later is a copied key, and locks the identity. `key_superseded` is the key that a new enrolment
    of the same edge replaced: it is refused, but no sign of a copy. `former_keys` are all such whose certificates have
    not ended.
    A connector's `caller` is whose it is, and `wants` are the services (`<namespace>/<name>`) that it asked for last;
    `datagrams`: UDP ones, too.
    `bundle`: the digest of the roots that the edge says it trusts; "" from edges before that.
    `addresses`, `version`, `hostname`: from the newest Hello (a gateway's public listeners are reached at `addresses`).
    """

    role: EdgeRole
    uri: str
    namespace: str = ""
    bound: tuple[Bound, ...] = ()
    edge_name: str = ""
    generation: int = 1
    used_generation: int = 0
    key_now: str = ""
    key_before: str = ""
    key_superseded: str = ""
    former_keys: tuple[FormerKey, ...] = ()
    certificate_pem: str = ""
    not_after: datetime | None = None
    revoked: bool = False
    locked: bool = False
    reason: str = ""
    created_by: str = ""
    addresses: tuple[str, ...] = ()
    version: str = ""
    hostname: str = ""
    caller: CallerRecord | None = None
    wants: tuple[str, ...] = ()
    datagrams: bool = False
    bundle: str = ""

    @property
    def denied(self) -> bool:
        """Nothing this identity presents is accepted any more; it belongs on the deny-list with -1."""
        return self.revoked or self.locked


class EdgeIdentity(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Named by the identity's uid, the last part of its SPIFFE URI.

    A POP's uid is its DRTPServer's `metadata.uid`, so `PlanServer.server` and `PopEndpoint.server` are that uid; an
    agent's uid is `DRTPConnection.spec.client.agentID`; a gateway's is its own. This object's `metadata.uid` is unused.
    """

    api_version: str = API_VERSION
    kind: str = "EdgeIdentity"
    metadata: ObjectMeta
    spec: EdgeIdentitySpec


class AccountSpec(Model, frozen=True):
    """A person or program. Groups hold for its tokens and certificates alike; roles are bound to `name` and to them.

    `password`: argon2id, as its encoded text; "" where nobody signs in with one.
    `service_account`: `<namespace>/<name>` of the ServiceAccount that it is for as long as that is there.
    `counts_from`: when it was reinstated; what was made before for whoever had it proves nobody.
    """

    name: str
    groups: tuple[str, ...] = ()
    disabled: bool = False
    password: str = ""
    service_account: str = ""
    counts_from: datetime | None = None


class Account(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Named by the user's uid, as in `.../user/<uid>`."""

    api_version: str = API_VERSION
    kind: str = "Account"
    metadata: ObjectMeta
    spec: AccountSpec


class ApiTokenSpec(Model, frozen=True):
    """A user's bearer token `drtp_pat_<id:12>_<secret>_<crc>`; `digest` as in `EnrolmentSecretSpec`.

    Unless `namespaces` is empty, the token does nothing outside them; `read_only`: it changes nothing.
    """

    digest: str
    account: str
    namespaces: tuple[str, ...] = ()
    expires_at: datetime | None = None
    description: str = ""
    read_only: bool = False


class ApiToken(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Named by the id in the token (12 characters). Deleting it revokes it."""

    api_version: str = API_VERSION
    kind: str = "ApiToken"
    metadata: ObjectMeta
    spec: ApiTokenSpec


class LoginSpec(Model, frozen=True):
    """One sign-in of an account: a chain of refresh tokens, of which the newest counts.

    `digest`: of the newest refresh token `drtp_rft_<id:12>_<secret>_<crc>`; `spent`: of the ones before it. Presenting
    a spent one ends the sign-in: two hold it. `idle_at`: without a refresh it ends then; `ends_at`: in any case.
    """

    account: str
    digest: str
    began_at: datetime
    idle_at: datetime
    ends_at: datetime
    spent: tuple[str, ...] = ()


class Login(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Named by the id in its refresh tokens (12 characters). Deleting it ends the sign-in."""

    api_version: str = API_VERSION
    kind: str = "Login"
    metadata: ObjectMeta
    spec: LoginSpec


class RotationPhase(Enum):
    """How far the change from one root to the next has come. Both are trusted by everybody but in `STANDBY`."""

    STANDBY = "Standby"
    """One root, nothing under way."""
    INIT = "Init"
    """Edges learn the next root; everything is still issued under the former."""
    CLIENTS = "UpdateClients"
    """Edges and people get certificates under the next root."""
    SERVERS = "UpdateServers"
    """The control plane's own doors too; edges' last certificates under the former are replaced."""


class AuthoritySpec(Model, frozen=True):
    """Which roots count, by number. `active` is the one of before, `next` the one that comes; 0: none comes.

    `begun`, `since`: of the rotation, of its phase. `hold_s`: the least time before the doors change, for people and
    secrets that know the former root alone. `grace_s`: how long a root that is gone vouches for the one after it.
    `retired`: roots that still vouch, until when. `floors`: for each usage the least intermediate that may issue.
    `abandoned`: roots that a rollback leaves, or has left: nobody is believed by them alone.
    """

    active: int = 1
    next: int = 0
    phase: RotationPhase = RotationPhase.STANDBY
    begun: datetime | None = None
    since: datetime | None = None
    hold_s: int = 0
    grace_s: int = 0
    retired: dict[str, datetime] = {}
    floors: dict[str, int] = {}
    abandoned: tuple[int, ...] = ()

    @property
    def clients(self) -> int:
        """Under whose root edges and people get certificates."""
        return self.next if self.phase in {RotationPhase.CLIENTS, RotationPhase.SERVERS} else self.active

    @property
    def doors(self) -> int:
        """Under whose root the control plane's own certificate is."""
        return self.next if self.phase is RotationPhase.SERVERS else self.active

    @property
    def trusted(self) -> tuple[int, ...]:
        """What everybody trusts, the one that comes last."""
        return (self.active,) if self.phase is RotationPhase.STANDBY else (self.active, self.next)


class AuthorityRecord(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Named `identity`: the state of the internal authority. Keys are on the control plane's disk alone."""

    api_version: str = API_VERSION
    kind: str = "Authority"
    metadata: ObjectMeta
    spec: AuthoritySpec


class InvitationSpec(Model, frozen=True):
    """Into an organisation, with a role. `organization_uid` tells it from a later one of the same name.

    Whoever made it (`inviter`, of these groups) must still be able to when it is accepted.
    """

    digest: str
    organization: str
    organization_uid: str
    role: str
    expires_at: datetime
    inviter: str
    inviter_uid: str = ""
    inviter_groups: tuple[str, ...] = ()
    accepted_by: str = ""
    accepted_at: datetime | None = None


class Invitation(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Named by the id in the invitation (12 characters)."""

    api_version: str = API_VERSION
    kind: str = "Invitation"
    metadata: ObjectMeta
    spec: InvitationSpec


class SignInSpec(Model, frozen=True):
    """Where visitors of public places say who they are, and what proves it: tokens of `issuer`, by `keys` (JWK set)."""

    issuer: str
    url: str
    keys: str


class SignInRecord(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Named `VISITORS`: what gateways are told of the control plane's sign-in. Public, all of it."""

    api_version: str = API_VERSION
    kind: str = "SignIn"
    metadata: ObjectMeta
    spec: SignInSpec


class ClaimKind(Enum):
    """What a claim holds."""

    HOSTNAME = "Hostname"
    PORT = "Port"
    ADDRESS = "Address"


class ClaimSpec(Model, frozen=True):
    """Who owns a hostname, a port on a shared address (`value` `<address>:<port>`), or a dedicated address.

    `released_at`: the owner let go; other tenants get it only after the quarantine. `owner_namespace_uid` tells a
    namespace from a later one of the same name, which may be another tenant's; "" in claims older than the field.
    """

    kind: ClaimKind
    value: str
    owner_namespace: str
    owner_namespace_uid: str = ""
    owner_uid: str = ""
    owner: str = ""
    released_at: datetime | None = None


class Claim(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Named after the claimed thing, so that two controllers cannot both win."""

    api_version: str = API_VERSION
    kind: str = "Claim"
    metadata: ObjectMeta
    spec: ClaimSpec
