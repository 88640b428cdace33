"""A real API server over real TLS on a free port, with a memory store and a test authority."""

from __future__ import annotations

import asyncio
import datetime
import io
import ipaddress
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drtp.api.core import ServiceAccount
from drtp.api.internal import Account
from drtp.api.people import AUTHENTICATED, SYSTEM_MASTERS, Certified, IssuedToken, OwnToken, TokenAsk, User
from drtp.api.rbac import KINDS
from drtp.api.revoking import Because, Withdrawn
from drtp.apiserver.admissions import Admissions
from drtp.apiserver.catalogue import Catalogue
from drtp.apiserver.organizations import Organizations
from drtp.apiserver.rbac import Rbac
from drtp.apiserver.server import ApiServer, ServerInfo
from drtp.apiserver.servicecredentials import ServiceCredentials
from drtp.issuers.audit import AuditLog
from drtp.issuers.digests import Pepper
from drtp.issuers.invitations import Invitations
from drtp.issuers.records import find
from drtp.issuers.secrets import EnrolmentSecrets
from drtp.kit.clock import SystemClock
from drtp.kit.errors import NotFound, Refused
from drtp.kit.secret import Secret
from drtp.main.roles import ensure_roles, set_projects
from drtp.rules import catalogue_indexes
from drtp.store.engine import Engine
from drtp.store.memory import MemoryStore
from drtp.store.view import View, kind_key

ADMIN = "admin-token"
JOE = "joe-token"
EVE = "eve-token"

USERS = {
    ADMIN: User("admin", "u-admin", (SYSTEM_MASTERS, AUTHENTICATED)),
    JOE: User("joe", "u-joe", (AUTHENTICATED,)),
    EVE: User("eve", "u-eve", (AUTHENTICATED,)),
}

JOINED = f"@127.0.0.1:8443#{'A' * 43}"
"""What follows a secret in the string that is given out."""

NAMESPACES = ("default", "datum-system", "joe", "eve")


class Tokens:
    """Knows users by token, unless their account is shut; nobody by certificate."""

    def __init__(self, store: Engine | MemoryStore) -> None:
        self.users = dict(USERS)
        self.store = store

    async def authenticate(self, token: str, peer_cert_der: bytes | None, remote: str) -> User | None:
        user = self.users.get(token)
        held = await find(self.store, Account, user.uid) if user is not None else None
        return None if held is not None and held.record.spec.disabled else user

    async def issue_to_program(self, namespace: str, name: str, uid: str, lifetime: datetime.timedelta) -> IssuedToken:
        return await self.issue(f"system:serviceaccount:{namespace}:{name}", lifetime)

    async def issue(self, user: str, lifetime: datetime.timedelta, *, reinstate: bool = False) -> IssuedToken:
        self.users[f"{user}-token"] = User(user, f"u-{user}", (AUTHENTICATED,))
        return IssuedToken(f"u-{user}", Secret(f"{user}-token"), datetime.datetime.now(datetime.UTC) + lifetime)

    async def set_password(self, name: str, password: Secret[str], by: User) -> str:
        return f"u-{name}"

    async def make_token(self, user: User, ask: TokenAsk) -> tuple[OwnToken, Secret[str]]:
        made = OwnToken("t1", ask.namespaces, datetime.datetime.now(datetime.UTC) + ask.lifetime, ask.read_only, "")
        return made, Secret(f"{user.name}-own")

    async def tokens_of(self, user: User) -> tuple[OwnToken, ...]:
        return ()

    async def drop_token(self, user: User, token_id: str) -> None:
        raise NotFound("DRTP-1001", f"You have no token {token_id}.")

    async def certify(self, user: User, csr_pem: str) -> Certified:
        raise Refused("DRTP-2012")


class Revocations:
    """Takes nothing away, and remembers what it was asked to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, Because]] = []

    async def agent(self, namespace: str, uid: str, because: Because) -> Withdrawn:
        return self._asked("agent", namespace, uid, because)

    async def service(self, namespace: str, name: str, because: Because) -> Withdrawn:
        return self._asked("service", namespace, name, because)

    async def user(self, name: str, because: Because) -> Withdrawn:
        return self._asked("user", "", name, because)

    async def pop(self, name: str, because: Because) -> Withdrawn:
        return self._asked("pop", "", name, because)

    async def gateway(self, name: str, because: Because) -> Withdrawn:
        return self._asked("gateway", "", name, because)

    def _asked(self, what: str, namespace: str, name: str, because: Because) -> Withdrawn:
        self.asked.append((what, namespace, name, because))
        return Withdrawn(identities=("1",), secrets=2)


def make_certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for loopback: its path, and the server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    ca = folder / "ca.pem"
    ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = folder / "key.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(ca, private)
    return ca, context


@dataclass
class Served:
    """A running server and a way to call it."""

    url: str
    ca: Path
    store: Engine
    session: aiohttp.ClientSession
    server: ApiServer
    tokens: Tokens
    rbac: Rbac
    revocations: Revocations
    audit: AuditLog
    audit_path: Path
    uids: dict[str, str]
    """Of the namespaces, by name."""

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str = ADMIN, **headers: str
    ) -> tuple[int, Any]:
        """Status and decoded JSON body (text where it is none)."""
        sent = {"Authorization": f"Bearer {token}"} if token else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        raw = body if isinstance(body, (bytes, io.BytesIO)) or body is None else msgspec.json.encode(body)
        if raw is not None:
            sent.setdefault("Content-Type", "application/json")
        async with self.session.request(method, self.url + path, data=raw, headers=sent) as response:
            text = await response.read()
            kind = response.headers.get("Content-Type", "")
            return response.status, msgspec.json.decode(text) if kind.startswith("application/json") else text.decode()


@asynccontextmanager
async def _followed(view: View) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(view.run())
        await view.synced.wait()
        yield
        following.cancel()


@asynccontextmanager
async def serving(folder: Path, store: Engine | None = None) -> AsyncGenerator[Served]:
    """A server with the usual namespaces and roles; joe and eve may edit what is theirs."""
    store = store or MemoryStore()
    uids = {
        name: (await store.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).uid
        for name in NAMESPACES
    }
    await ensure_roles(store)
    for user in ("joe", "eve"):
        await set_projects(store, f"u-{user}", user, [user])
    ca, context = make_certificate(folder)
    info = ServerInfo("https://127.0.0.1:1", "example.localhost", "drtp.test", "0.1.0")
    models = (ServiceAccount, *catalogue_indexes.KINDS)
    followed = (*(kind.key for kind in KINDS), *map(kind_key, models))
    view, tokens, clock = View(store, followed), Tokens(store), SystemClock()
    rbac, revocations = Rbac(view), Revocations()
    audit_path = folder / "audit" / "audit.log"
    audit, pepper = AuditLog(audit_path, clock), Pepper(b"pepper")
    audit.uid_of = lambda name: uids.get(name, "")
    api = ApiServer(
        store,
        tokens,
        rbac,
        info,
        clock,
        issuer=tokens,
        revoker=revocations,
        audit=audit,
        service_credentials=ServiceCredentials(
            store, rbac, EnrolmentSecrets(store, pepper, audit, clock), lambda: JOINED
        ),
        organizations=Organizations(store, rbac, Invitations(store, pepper, audit, clock), audit),
        catalogue=Catalogue(view, clock),
        admissions=Admissions(store, view, rbac),
        own=tokens,
    )
    async with _followed(view), api.serve("127.0.0.1", 0, lambda: context) as listening:
        trust = ssl.create_default_context(cafile=str(ca))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust, limit=0)) as session:
            url = f"https://127.0.0.1:{listening.port}"
            yield Served(url, ca, store, session, api, tokens, rbac, revocations, audit, audit_path, uids)
