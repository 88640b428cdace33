"""Getting in, and not: secrets, tokens, keys, and what strangers learn."""
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import socket
import ssl
import time
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from drtp.api.feed import EdgeRole, EnrolRequest, Fault, RenewRequest, SecretRequest, SecretResponse, renewal_proof
from drtp.api.internal import EnrolmentSecret
from drtp.api.meta import Key
from drtp.api.spiffe import PeerRole, identity_of
from drtp.client.enrolment import bind_services, enrol
from drtp.client.feed import FeedPhase
from drtp.client.identity import build_identity
from drtp.client.joining import EdgeAddress, parse_join
from drtp.client.keys import new_key, request_for, sign
from drtp.client.tls import trusting
from drtp.issuers.audit import verify_audit
from drtp.issuers.authority import Authority
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Conflict, DrtpError, Refused, Retryable, Terminal
from drtp.kit.observe import configure_logs
from drtp.kit.secret import Secret
from unit.edgeserver.edgebed import AGENT, GATEWAY, Bed, clock_from_now, edge_bed, pop, until


async def post(bed: Bed, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    connector = aiohttp.TCPConnector(ssl=trusting(bed.authority.bundle_pem))
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        http.post(f"{bed.address.url}{path}", data=body, headers=headers) as response,
    ):
        return response.status, await response.read()


async def attempt(bed: Bed, secret: str, csr_pem: str = "", registration=AGENT) -> tuple[int, Fault]:
    request = EnrolRequest(csr_pem=csr_pem or request_for(new_key()), registration=registration, secret=secret)
    status, body = await post(bed, "/v1/enrol", msgspec.json.encode(request))
    return status, msgspec.json.decode(body, type=Fault)


async def test_secret_gives_an_agent_exactly_its_identity(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("agent")
        leaf, intermediate = x509.load_pem_x509_certificates(identity.chain_pem)
        project = (await bed.store.get(Key("Namespace", "", "joe"))).uid
        assert f"/project/{project}/agent/{identity.uid}" in identity.uri
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [identity.uri]
        assert names.get_values_for_type(x509.DNSName) == [f"{identity.uid}.agent.drtp.test"]
        assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
        assert intermediate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
        assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() == 24 * 3600 + 300


async def test_names_in_a_request_are_ignored(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        secret = await bed.secret(EdgeRole.AGENT, "postgres")
        key = ec.generate_private_key(ec.SECP256R1())
        csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "controlplane")]))
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://drtp.test/controlplane/x")]),
                False,
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(key, hashes.SHA256())
        )
        request = EnrolRequest(
            csr_pem=csr.public_bytes(serialization.Encoding.PEM).decode(), registration=AGENT, secret=secret.reveal()
        )
        status, body = await post(bed, "/v1/enrol", msgspec.json.encode(request))
        assert status == 200
        leaf = x509.load_pem_x509_certificates(msgspec.json.decode(body)["chainPem"].encode())[0]
        assert identity_of(leaf).role.value == "agent"
        assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


async def test_retry_with_the_same_key_gets_the_same_certificate(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        secret = await bed.secret(EdgeRole.AGENT, "postgres")
        csr = request_for(new_key())
        request = msgspec.json.encode(EnrolRequest(csr_pem=csr, registration=AGENT, secret=secret.reveal()))
        first, second = await post(bed, "/v1/enrol", request), await post(bed, "/v1/enrol", request)
        assert first == second
        assert first[0] == 200


async def test_spent_secret_with_another_key_is_replay_and_serving_agents_go_on(tmp_path: Path):
    """Threat 3."""
    async with edge_bed(tmp_path) as bed:
        secret = await bed.secret(EdgeRole.AGENT, "postgres")
        await enrol(bed.address, bed.identities("agent"), AGENT, secret=secret)
        async with bed.running(bed.feed("agent")) as feed:
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
            with pytest.raises(Conflict) as replay:
                await enrol(bed.address, bed.identities("thief"), AGENT, secret=secret)
            assert replay.value.code == "DRTP-2002"
            assert feed.state.value.phase is FeedPhase.UP
        name = secret.reveal().split("_")[2]
        stored = await bed.store.get(Key("EnrolmentSecret.internal.datumapis.com", "", name))
        record = msgspec.json.decode(stored.raw, type=EnrolmentSecret)
        assert record.spec.replays == 1
        (event,) = (await bed.store.list("Event", "joe")).items
        assert event.object["reason"] == "SecretReplayed"
        bed.audit.close()
        assert b'"secret replayed"' in (tmp_path / "audit" / "audit.log").read_bytes()
        verify_audit(tmp_path / "audit" / "audit.log")


async def test_a_thief_who_keeps_trying_fills_no_store(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        secret = await bed.secret(EdgeRole.AGENT, "postgres")
        await enrol(bed.address, bed.identities("agent"), AGENT, secret=secret)
        for _ in range(5):
            assert (await attempt(bed, secret.reveal()))[0] == 409
        before = bed.store.revision
        for _ in range(5):
            assert (await attempt(bed, secret.reveal()))[0] == 409
        assert bed.store.revision == before
        assert len((await bed.store.list("Event", "joe")).items) == 1


async def test_services_that_are_deleted_make_room_for_an_agents_new_ones(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("drtp.edgeserver.enrolment.SERVICES_MAX", 2)
    async with edge_bed(tmp_path) as bed:
        token, csr_pem = (await bed.token("joe")).reveal(), request_for(new_key())
        for _ in range(3):
            await bed.service("web")
            wanted = EnrolRequest(csr_pem=csr_pem, registration=AGENT, namespace="joe", services=("web",))
            status, _ = await post(bed, "/v1/enrol", msgspec.json.encode(wanted), Authorization=f"Bearer {token}")
            assert status == 200
            (found,) = (await bed.store.list("DRTPConnection.datumapis.com", "joe")).items
            await bed.store.delete(found.key)
            await bed.store.delete(Key("DRTPService.datumapis.com", "joe", "web"))


async def test_an_agent_that_binds_other_services_keeps_its_identity_and_leaves_the_rest(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        token = await bed.token("joe")
        for name in ("web", "shop"):
            await bed.service(name)

        async def served() -> set[str]:
            found = (await bed.store.list("DRTPConnection.datumapis.com", "joe")).items
            assert {one.object["spec"]["client"]["agentID"] for one in found} == {identity.uid}
            return {one.object["spec"]["serviceRef"]["name"] for one in found}

        identity = await enrol(
            bed.address, bed.identities("agent"), AGENT, token=token, namespace="joe", services=("web", "postgres")
        )
        assert await served() == {"web", "postgres"}
        before = (await bed.store.list("DRTPConnection.datumapis.com", "joe")).items
        kept = next(one for one in before if one.key.name.startswith("web-"))
        await bind_services(bed.address, identity, AGENT, token=token, namespace="joe", services=("web", "shop"))
        assert await served() == {"web", "shop"}
        assert (await bed.store.get(kept.key)).uid == kept.uid
        held = await bed.server.identities.find(identity.uid)
        assert held is not None
        assert held.record.spec.generation == identity.generation
        feed = bed.feed("agent")
        async with bed.running(feed):
            await until(lambda: feed.state.value is not None and feed.state.value.phase is FeedPhase.UP)
        assert await served() == {"web", "shop"}


async def test_a_secrets_service_comes_beside_those_an_agent_has(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        token, key = await bed.token("joe"), new_key()
        await bed.service("web")
        for more in (
            {"namespace": "joe", "services": ("web",)},
            {"secret": (await bed.secret(EdgeRole.AGENT, "postgres")).reveal()},
        ):
            wanted = EnrolRequest(csr_pem=request_for(key), registration=AGENT, **more)
            said = {"Authorization": f"Bearer {token.reveal()}"}
            status, _ = await post(bed, "/v1/enrol", msgspec.json.encode(wanted), **said)
            assert status == 200
        found = (await bed.store.list("DRTPConnection.datumapis.com", "joe")).items
        assert {one.object["spec"]["serviceRef"]["name"] for one in found} == {"web", "postgres"}


async def test_capped_uses_give_each_replica_its_own_identity(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        secret = await bed.secret(EdgeRole.AGENT, "postgres", uses_max=3)
        replicas = await asyncio.gather(
            *(enrol(bed.address, bed.identities(f"r{n}"), AGENT, secret=secret) for n in range(3))
        )
        assert len({replica.uid for replica in replicas}) == 3
        with pytest.raises(Conflict):
            await enrol(bed.address, bed.identities("r3"), AGENT, secret=secret)
        assert len((await bed.store.list("DRTPConnection.datumapis.com")).items) == 3


async def test_every_failure_of_a_stranger_gets_one_answer(tmp_path: Path):
    clock = clock_from_now()
    async with edge_bed(tmp_path, clock) as bed:
        good = (await bed.secret(EdgeRole.AGENT, "postgres")).reveal()
        other = (await bed.secret(EdgeRole.AGENT, "postgres")).reveal()
        elsewhere = (await bed.secret(EdgeRole.AGENT, "postgres", source_cidrs=("203.0.113.0/24",))).reveal()
        rsa_key = rsa.generate_private_key(65537, 2048)
        rsa_csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(rsa_key, hashes.SHA256())
        weak = rsa_csr.public_bytes(serialization.Encoding.PEM).decode()
        answers = [
            await attempt(bed, "drtp_enr_nonsense"),
            await attempt(bed, good[:-1] + ("0" if good[-1] != "0" else "1")),
            await attempt(bed, elsewhere),
            await attempt(bed, good, csr_pem="nonsense"),
            await attempt(bed, good, csr_pem=weak),
            await attempt(bed, good, registration=pop()),
        ]
        await bed.store.delete(Key("DRTPService.datumapis.com", "joe", "postgres"))
        answers.append(await attempt(bed, good))
        await clock.advance(1801)
        answers.append(await attempt(bed, other))
        status, body = await post(bed, "/v1/enrol", b'{"csrPem":')
        answers.append((status, msgspec.json.decode(body, type=Fault)))
        assert {status for status, _ in answers} == {403}
        assert len({msgspec.json.encode(fault) for _, fault in answers}) == 1
        assert answers[0][1].code == "DRTP-2001"


async def test_a_secret_is_good_until_its_end_and_not_after(tmp_path: Path):
    clock = clock_from_now()
    async with edge_bed(tmp_path, clock) as bed:
        late, early = [await bed.secret(EdgeRole.AGENT, "postgres", lifetime_s=60) for _ in range(2)]
        await clock.advance(59)
        assert (await enrol(bed.address, bed.identities("early"), AGENT, secret=early)).uid
        await clock.advance(1)
        with pytest.raises(Refused) as refused:
            await enrol(bed.address, bed.identities("late"), AGENT, secret=late)
        assert refused.value.code == "DRTP-2001"


async def test_enrolment_bodies_are_capped_before_buffering_ghsa_q8g9_jc4c_jp6q_ghsa_j952_6x8x_jmj6(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        status, body = await post(bed, "/v1/enrol", b"x" * (65 << 10))
        assert status == 413
        assert msgspec.json.decode(body, type=Fault).code == "DRTP-2016"

        async def endless():
            for _ in range(100):
                yield b"x" * 4096

        connector = aiohttp.TCPConnector(ssl=trusting(bed.authority.bundle_pem))
        async with aiohttp.ClientSession(connector=connector) as http:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.post(f"{bed.address.url}/v1/enrol", data=endless()) as response:
                    assert response.status == 413


async def test_attempts_are_limited_by_address(tmp_path: Path):
    """Threat 11."""
    async with edge_bed(tmp_path, clock_from_now()) as bed:
        outcomes = [(await attempt(bed, "drtp_enr_nonsense"))[0] for _ in range(122)]
        assert outcomes[:120] == [403] * 120
        assert outcomes[120:] == [429, 429]


async def test_silent_client_does_not_stall_the_listener_cve_2026_7776(tmp_path: Path):
    """Threat 10."""
    async with edge_bed(tmp_path) as bed:
        silent = [socket.create_connection(("127.0.0.1", bed.port)) for _ in range(15)]
        started = time.monotonic()
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", bed.port, ssl=trusting(bed.authority.bundle_pem), server_hostname="localhost"
        )
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"\r\n")
        assert time.monotonic() - started < 2
        writer.close()
        for one in silent:
            one.close()


@pytest.mark.parametrize("path", ["/healthz", "/v1/bundle", "/v1/feed", "/v1/nonce", "/nowhere"])
async def test_a_stranger_has_one_request_for_each_connection(tmp_path: Path, path: str):
    async with edge_bed(tmp_path) as bed:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", bed.port, ssl=trusting(bed.authority.bundle_pem), server_hostname="localhost"
        )
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 3)
        assert b"connection: close" in answer.lower()
        writer.close()


async def test_feed_needs_a_certificate_and_a_hello(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with edge_bed(tmp_path) as bed:
        connector = aiohttp.TCPConnector(ssl=trusting(bed.authority.bundle_pem))
        async with aiohttp.ClientSession(connector=connector) as http, http.get(f"{bed.address.url}/v1/feed") as answer:
            assert answer.status == 401
        monkeypatch.setattr("drtp.edgeserver.server.HELLO_TIMEOUT_S", 0.05)
        identity = await bed.enrolled("agent")
        tls = trusting(identity.bundle_pem)
        paths = bed.identities("agent").paths(identity)
        tls.load_cert_chain(paths.chain, paths.key)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as http,
            http.ws_connect(f"{bed.address.url}/v1/feed") as feed,
        ):
            goodbye = await asyncio.wait_for(feed.receive_json(), 2)
            assert goodbye["code"] == "DRTP-3004"


async def test_tls_1_2_and_resumption_are_refused_cve_2025_23419_cve_2025_68121(tmp_path: Path):
    """CVE-2025-23419, CVE-2025-68121."""
    async with edge_bed(tmp_path) as bed:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(cadata=bed.authority.bundle_pem.decode())
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", bed.port, ssl=old, server_hostname="localhost")
        new = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        new.load_verify_locations(cadata=bed.authority.bundle_pem.decode())
        reader, writer = await asyncio.open_connection("127.0.0.1", bed.port, ssl=new, server_hostname="localhost")
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await reader.read()
        session = writer.get_extra_info("ssl_object").session
        assert session is None or not session.has_ticket
        writer.close()


async def test_wrong_pin_stops_before_anything_secret_is_sent(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        secret = await bed.secret(EdgeRole.AGENT, "postgres")
        wrong = EdgeAddress("127.0.0.1", bed.port, "A" * 43)
        with pytest.raises(Refused) as refused:
            await enrol(wrong, bed.identities("agent"), AGENT, secret=secret)
        assert refused.value.code == "DRTP-2014"
        await enrol(bed.address, bed.identities("agent"), AGENT, secret=secret)


async def test_user_enrols_for_services_of_the_namespaces_they_work_in_only(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        token = await bed.token("joe")
        await bed.service("web")
        identity = await enrol(
            bed.address, bed.identities("laptop"), AGENT, token=token, namespace="joe", services=("postgres", "web")
        )
        assert len((await bed.store.list("DRTPConnection.datumapis.com", "joe")).items) == 2
        again = await enrol(
            bed.address, bed.identities("laptop2"), AGENT, token=token, namespace="joe", services=("web",)
        )
        assert again.uid != identity.uid
        faults: list[DrtpError] = []
        for namespace, service in (("eve", "secret-service"), ("nowhere", "x")):
            with pytest.raises(Refused) as refused:
                await enrol(
                    bed.address, bed.identities("x"), AGENT, token=token, namespace=namespace, services=(service,)
                )
            faults.append(refused.value)
        assert {(fault.code, fault.what) for fault in faults} == {(faults[0].code, faults[0].what)}
        with pytest.raises(Refused) as refused:
            await enrol(
                bed.address, bed.identities("x"), AGENT, token=Secret("drtp_pat_x"), namespace="joe", services=("web",)
            )
        assert refused.value.code == "DRTP-2004"


async def test_user_makes_a_secret_that_is_one_string(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        token = (await bed.token("joe")).reveal()
        wanted = msgspec.json.encode(SecretRequest(namespace="joe", service="postgres"))
        status, body = await post(bed, "/v1/secrets", wanted, Authorization=f"Bearer {token}")
        assert status == 200
        join = parse_join(msgspec.json.decode(body, type=SecretResponse).secret)
        identity = await enrol(join.edge, bed.identities("agent"), AGENT, secret=join.secret)
        assert identity.uri.startswith("spiffe://drtp.test/org/")
        foreign = msgspec.json.encode(SecretRequest(namespace="eve", service="postgres"))
        assert (await post(bed, "/v1/secrets", foreign, Authorization=f"Bearer {token}"))[0] == 403
        assert (await post(bed, "/v1/secrets", wanted))[0] == 401


async def test_the_verb_serve_on_one_service_lets_in_for_that_one_and_nothing_else(tmp_path: Path):
    """A workload's right: it may serve, and read and change nothing."""
    async with edge_bed(tmp_path) as bed:
        await bed.service("web")
        await bed.accounts.ensure("uid-robot", "robot")
        token = (await bed.accounts.mint_token("uid-robot")).secret
        with pytest.raises(Refused, match="DRTP-2005"):
            await enrol(bed.address, bed.identities("a"), AGENT, token=token, namespace="joe", services=("postgres",))
        rule = {
            "apiGroups": ["datumapis.com"],
            "resources": ["drtpservices"],
            "resourceNames": ["postgres"],
            "verbs": ["serve"],
        }
        names = {"name": "robot", "namespace": "joe"}
        rbac = "rbac.authorization.k8s.io"
        await bed.store.create({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": names, "rules": [rule]})
        subject = {"kind": "User", "name": "robot", "apiGroup": rbac}
        role = {"kind": "Role", "name": "robot", "apiGroup": rbac}
        binding = {"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": names}
        await bed.store.create({**binding, "roleRef": role, "subjects": [subject]})
        await bed.authoriser.reached(bed.store.revision)
        await enrol(bed.address, bed.identities("a"), AGENT, token=token, namespace="joe", services=("postgres",))
        for services in (("web",), ("postgres", "web")):
            with pytest.raises(Refused, match="DRTP-2005"):
                await enrol(bed.address, bed.identities("b"), AGENT, token=token, namespace="joe", services=services)


async def expire(bed: Bed, name: str, days: int) -> None:
    """Replace an agent's certificate by one for the same key that ended `days` - 1 ago."""
    store = bed.identities(name)
    now = store.load()
    leaf = x509.load_pem_x509_certificates(now.chain_pem)[0]
    past = Authority(bed.directory / "authority", "drtp.test", "prism.test", Past(days))
    issued = past.issue(identity_of(leaf), leaf.public_key())
    store.install(
        build_identity(
            issued.chain_pem.encode(), now.key_pem, now.bundle_pem, generation=1, suffix="", feed_url=now.feed_url
        )
    )
    store.confirm(store.load())


class Past(SystemClock):
    """The real clock, some days ago."""

    def __init__(self, days: int) -> None:
        self._days = days

    def now(self) -> datetime:
        return super().now() - timedelta(days=self._days)


async def test_agent_expired_within_grace_renews_with_its_old_key_and_later_not(tmp_path: Path):
    # A root from long ago, so that certificates in the past verify.
    Authority(tmp_path / "authority", "drtp.test", "prism.test", Past(20)).issue_web(
        ec.generate_private_key(ec.SECP256R1()).public_key(), ("x",)
    )
    past = Authority(tmp_path / "authority", "drtp.test", "prism.test", Past(20))
    past.issue(past.identity(PeerRole.AGENT, "x", organization="o", project="p"), new_public())
    async with edge_bed(tmp_path) as bed:
        await bed.enrolled("weekend")
        await bed.enrolled("month")
        await expire(bed, "weekend", 4)
        await expire(bed, "month", 9)
        async with bed.running(bed.feed("weekend")) as feed:
            await until(lambda: feed.state.value.phase is FeedPhase.UP)
            assert feed.identity.value.generation == 2
        with pytest.raises(Terminal) as refused:
            await asyncio.wait_for(bed.feed("month").run(), 5)
        assert refused.value.code == "DRTP-2009"


async def test_late_renewal_without_the_old_key_is_refused(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("agent")
        connector = aiohttp.TCPConnector(ssl=trusting(bed.authority.bundle_pem))
        async with aiohttp.ClientSession(connector=connector) as http:
            nonce = await (await http.get(f"{bed.address.url}/v1/nonce")).text()
        thief = new_key()
        csr = request_for(thief)
        for proof, stamp in ((sign(thief, renewal_proof(nonce, csr, 1)), nonce), (b"x", nonce), (b"x", "1.x.y")):
            request = RenewRequest(
                chain_pem=identity.chain_pem.decode(),
                csr_pem=csr,
                generation=1,
                nonce=stamp,
                signature=base64.b64encode(proof).decode(),
            )
            status, body = await post(bed, "/v1/renew", msgspec.json.encode(request))
            assert (status, msgspec.json.decode(body, type=Fault).code) == (403, "DRTP-2001")


def new_public() -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


async def test_pop_and_gateway_enrolled_again_keep_their_identity_and_the_old_key_is_refused(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        for name, registration in (("pop", pop()), ("gw", GATEWAY)):
            first = await bed.enrolled(name, registration)
            second = await bed.enrolled(f"{name}-rebuilt", registration)
            assert second.uid == first.uid
            assert second.generation == 2
            with pytest.raises(Terminal) as refused:
                await asyncio.wait_for(bed.feed(name, registration).run(), 5)
            assert refused.value.code == "DRTP-2006"
            async with bed.running(bed.feed(f"{name}-rebuilt", registration)) as feed:
                await until(lambda feed=feed: feed.state.value.phase is FeedPhase.UP)


async def test_keys_that_an_edge_left_behind_are_denied_until_their_certificates_end(tmp_path: Path):
    """Threat 3: enrolled anew after a theft, the name is trusted again; the stolen certificate is not."""
    clock = clock_from_now()
    async with edge_bed(tmp_path, clock) as bed:

        async def left() -> list[str]:
            held = await bed.server.identities.find(first.uid)
            return [one.key for one in held.record.spec.former_keys]

        async def certified() -> str:
            return (await bed.server.identities.find(first.uid)).record.spec.key_now

        first = await bed.enrolled("gw", GATEWAY)
        stolen = await certified()
        await clock.advance(3600)
        await bed.server.identities.revoke(first.uid, "stolen")
        await bed.enrolled("gw-2", GATEWAY)
        again = await certified()
        assert await left() == [stolen]
        await clock.advance(3600)
        await bed.enrolled("gw-3", GATEWAY)
        assert await left() == [stolen, again]
        await clock.advance(22.5 * 3600)
        await bed.server.identities.collect()
        assert await left() == [again]
        await bed.enrolled("gw-4", GATEWAY)
        assert again in await left()
        assert stolen not in await left()


async def test_secrets_show_in_no_log_error_or_record(tmp_path: Path):
    """Threat 14: canaries are searched for in all that was written."""
    said = io.StringIO()
    configure_logs(stream=said, level=0)
    try:
        async with edge_bed(tmp_path) as bed:
            secret, token = await bed.secret(EdgeRole.AGENT, "postgres"), await bed.token("joe")
            canaries = [secret.reveal().split("_")[3], token.reveal().split("_")[3]]
            await enrol(bed.address, bed.identities("agent"), AGENT, secret=secret)
            errors: list[str] = []
            for name, how in (
                ("replay", {"secret": secret}),
                ("denied", {"token": token, "namespace": "eve", "services": ("x",)}),
            ):
                with pytest.raises((Refused, Conflict, Retryable)) as error:
                    await enrol(bed.address, bed.identities(name), AGENT, **how)
                errors.append(repr(error.value) + str(error.value))
            kinds = (
                "Event",
                *(f"{kind}.internal.datumapis.com" for kind in ("EnrolmentSecret", "ApiToken", "Account")),
            )
            records = b""
            for kind in kinds:
                records += b"".join(stored.raw for stored in (await bed.store.list(kind)).items)
            bed.audit.close()
            written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
            outputs = said.getvalue() + "".join(errors) + records.decode() + written.decode(errors="replace")
            assert "enrolled" in outputs
            for canary in canaries:
                assert canary not in outputs
    finally:
        configure_logs()


async def test_agents_that_can_never_come_back_are_forgotten(tmp_path: Path):
    clock = clock_from_now()
    async with edge_bed(tmp_path, clock) as bed:
        agent, server = await bed.enrolled("agent"), await bed.enrolled("pop", pop())
        await clock.advance(7 * 24 * 3600)
        assert await bed.server.identities.find(agent.uid)
        await clock.advance(3 * 24 * 3600)
        await bed.server.identities.collect()
        assert await bed.server.identities.find(agent.uid) is None
        assert await bed.server.identities.find(server.uid)


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Client-Cert": "Hash=0;URI=spiffe://drtp.test/pop/x"},
        {"X-SSL-Client-Verify": "SUCCESS", "X-SSL-Client-S-DN": "CN=x", "SSL-Client-Verify": "SUCCESS"},
        {"X-SPIFFE-ID": "spiffe://drtp.test/pop/x", "X-Client-Verified": "true"},
        {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
    ],
    ids=lambda headers: next(iter(headers)),
)
async def test_no_header_stands_in_for_a_certificate_ghsa_cc5m_7mhm_xh9f_ghsa_4h58_w989_xgg4(
    tmp_path: Path, headers: dict[str, str]
):
    async with edge_bed(tmp_path) as bed:
        connector = aiohttp.TCPConnector(ssl=trusting(bed.authority.bundle_pem))
        async with aiohttp.ClientSession(connector=connector) as http:
            async with http.get(f"{bed.address.url}/v1/feed", headers=headers) as answer:
                assert answer.status == 401
            for path in ("/v1/secrets", "/v1/enrol"):
                wanted = {"namespace": "joe", "service": "postgres", "csrPem": "", "registration": {"type": "agent"}}
                async with http.post(f"{bed.address.url}{path}", json=wanted, headers=headers) as answer:
                    assert answer.status in {401, 403}


async def test_a_first_message_of_another_kind_opens_no_feed_cve_2026_30836_cve_2025_44005(tmp_path: Path):
    """A kind that nobody knows must not be a way around the question who one is."""
    async with edge_bed(tmp_path) as bed:
        identity = await bed.enrolled("agent")
        tls = trusting(identity.bundle_pem)
        paths = bed.identities("agent").paths(identity)
        tls.load_cert_chain(paths.chain, paths.key)
        kinds = (
            {"type": "root"},
            {"type": "Hello"},
            {"type": None},
            {},
            [],
            {"type": "heartbeat"},
            {"type": "snapshot"},
        )
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as http:
            for first in kinds:
                async with http.ws_connect(f"{bed.address.url}/v1/feed") as feed:
                    await feed.send_json(first)
                    answer = await asyncio.wait_for(feed.receive_json(), 5)
                    assert (answer["type"], answer["code"]) == ("goodbye", "DRTP-3004"), first
        assert not bed.observed.edge(identity.uid) or not bed.observed.edge(identity.uid).connected


async def test_no_answer_is_a_page_of_its_askers_words_cve_2026_40302(tmp_path: Path):
    script = "<script>alert(1)</script>"
    async with edge_bed(tmp_path) as bed:
        lines = (f"GET /{script} HTTP/1.1", f"POST /v1/enrol?{script} HTTP/1.1", f"GET / {script}", "<b> / HTTP/1.1")
        for line in lines:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", bed.port, ssl=trusting(bed.authority.bundle_pem), server_hostname="localhost"
            )
            writer.write(f"{line}\r\nHost: localhost\r\nAccept: text/html\r\nContent-Length: 0\r\n\r\n".encode())
            head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
            writer.close()
            assert head
            assert b"text/html" not in head.lower()
            assert script.encode() not in body or b"x-content-type-options: nosniff" in head.lower()
