"""Edges back to back without a control plane: real certificates, hand-made snapshots, the real native core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drtp.api.drtp import Action, LocalService, Protocol, ProxyProtocol, Role
from drtp.api.snapshots import (
    Access,
    AccessList,
    EndpointMode,
    Entry,
    Generation,
    PlanServer,
    PlanService,
    RouteEntry,
    Snapshot,
    Source,
)
from drtp.client.identity import Identity, IdentityStore, build_identity
from drtp.kit.secret import Secret

TRUST_DOMAIN = "test.local"
ANYONE = Access(lists=(AccessList(default=Action.ALLOW),))
NOBODY = Access()


class Authority:
    """One root that signs leaves of every role."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        self._root = (
            _builder(name, name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def bundle_pem(self) -> bytes:
        return self._root.public_bytes(serialization.Encoding.PEM)

    def identity(self, role: str, uid: str, dns: str | None = None, generation: int = 1) -> Identity:
        """`role`: pop, gateway, agent (with organisation and project), controlplane. A POP has names below `dns`."""
        names = [dns] if dns else []
        names += [f"*.{dns}"] if dns and role == "pop" else []
        path = f"org/o1/project/p1/agent/{uid}" if role == "agent" else f"{role}/{uid}"
        return self.leaf([f"spiffe://{TRUST_DOMAIN}/{path}"], names, generation)

    def leaf(self, uris: list[str], dns: list[str], generation: int = 1) -> Identity:
        chain, key = self.signed(uris, dns)
        return build_identity(
            chain,
            Secret(key),
            self.bundle_pem,
            generation=generation,
            suffix="test.example",
            # Nothing listens there: the control plane is down.
            feed_url="wss://127.0.0.1:9/v1/feed",
        )

    def caller(self, path: str) -> tuple[bytes, bytes]:
        """(chain PEM, key PEM) of an identity that is no edge's own, or need not be on disk."""
        return self.signed([f"spiffe://{TRUST_DOMAIN}/{path}"], [])

    def signed(self, uris: list[str], dns: list[str]) -> tuple[bytes, bytes]:
        """(chain PEM, key PEM)."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(uri) for uri in uris] + [x509.DNSName(name) for name in dns]
        leaf = (
            _builder(x509.Name([]), self._root.subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return leaf.public_bytes(serialization.Encoding.PEM), private


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=24))
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def enrolled(directory: Path, identity: Identity) -> Path:
    """A state directory that holds `identity`."""
    IdentityStore(directory).install(identity)
    return directory


def snapshot(entries: dict[str, Entry], sequence: int = 1) -> Snapshot:
    return Snapshot(generation=Generation(1, sequence), entries=entries)


def route(connection: str = "c1", *, access: Access = ANYONE, mode: EndpointMode = EndpointMode.PLAIN) -> RouteEntry:
    """A route of agent `a1`; plain endpoints are open to loopback."""
    return RouteEntry(
        connection=connection,
        service="s1",
        namespace="joe",
        name="echo",
        agents=("a1",),
        access=access,
        mode=mode,
        plain_from=("127.0.0.0/8",),
        sources=(Source(f"uid-{connection}", 1),),
    )


def plan_server(uid: str, port: int, role: Role = Role.PRIMARY) -> PlanServer:
    return PlanServer(server=uid, name=f"{uid}.tunnel.test.example", pop=uid, address="127.0.0.1", port=port, role=role)


def plan_service(
    port: int, *, connection: str = "c1", servers: tuple[str, ...] = ("p1",), ready: bool = True
) -> PlanService:
    return PlanService(
        connection=connection,
        connection_name=f"echo-{connection}",
        service="s1",
        namespace="joe",
        name="echo",
        protocol=Protocol.TCP,
        local=LocalService(host="127.0.0.1", port=port),
        proxy_protocol=ProxyProtocol.NONE,
        servers=servers,
        ready=ready,
        sources=(Source("uid-s1", 1),),
    )


@asynccontextmanager
async def echo_service() -> AsyncGenerator[int, None]:
    """A local service that answers what it hears; gives its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def until(fact: Callable[[], bool | Awaitable[bool]], within_s: float = 10.0) -> None:
    """Wait for a fact that nothing announces, with a deadline."""
    async with asyncio.timeout(within_s):
        while True:
            value = fact()
            if await value if isinstance(value, Awaitable) else value:
                return
            await asyncio.sleep(0.01)
