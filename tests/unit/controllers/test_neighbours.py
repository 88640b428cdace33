"""What one tenant writes, by malice or by mistake, never takes from another what is theirs."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from drtp.api.drtp import DRTPService
from drtp.api.gatewayapi import Gateway, ListenerSet
from drtp.api.internal import EdgeRole
from drtp.api.snapshots import GatewayListener, ServingCertificate
from tower import FALSE, GATEWAY_API, SUFFIX, TRUE, Tower, service


def listener_set(name: str, namespace: str, *listeners: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": GATEWAY_API,
        "kind": "ListenerSet",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"parentRef": {"name": "global", "namespace": "datum-system"}, "listeners": list(listeners)},
    }


def at_gateway(tower: Tower) -> set[str]:
    return set(tower.entries(EdgeRole.GATEWAY, "gw-1"))


async def test_a_listener_set_cannot_hold_a_wildcard_over_everybodys_names() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        for index, host in enumerate((f"*.{SUFFIX}", "*.localhost")):
            wild = {"name": "all", "port": 8080, "protocol": "HTTP", "hostname": host}
            await tower.apply(listener_set(f"wild-{index}", "eve", wild))
        await tower.apply(service(expose={"hostname": "shop"}))
        assert tower.condition(tower.get(DRTPService, "joe", "web"), "Accepted") == (TRUE, "Accepted")
        assert f"http/127.0.0.1/8080/shop.{SUFFIX}" in at_gateway(tower)


async def test_an_http_listener_takes_no_port_of_the_pool_without_its_claim() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("db", protocol="TCP", expose={"port": 15432}))
        squat = {"name": "a", "port": 15432, "protocol": "HTTP", "hostname": f"a.{SUFFIX}"}
        outside = {"name": "b", "port": 22, "protocol": "HTTP", "hostname": f"b.{SUFFIX}"}
        await tower.apply(listener_set("squat", "eve", squat, outside))
        found = tower.get(ListenerSet, "eve", "squat")
        for listener in found.status.listeners:
            said = {one.type: (one.status.value, one.reason) for one in listener.conditions}
            assert said["Accepted"] == (FALSE, "PortUnavailable")
        assert "listener/127.0.0.1/22" not in at_gateway(tower)
        await tower.delete(DRTPService, "joe", "db")
        assert "listener/127.0.0.1/15432" not in at_gateway(tower)


async def test_a_port_held_by_a_named_listener_is_vended_to_nobody_else() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        mine = {
            "name": "a",
            "port": 10993,
            "protocol": "TLS",
            "hostname": f"a.{SUFFIX}",
            "tls": {"mode": "Passthrough"},
        }
        await tower.apply(listener_set("mail", "eve", mine))
        assert "listener/127.0.0.1/10993" in at_gateway(tower)
        await tower.apply(service("db", protocol="TCP", expose={"port": 10993}))
        assert tower.condition(tower.get(DRTPService, "joe", "db"), "Accepted") == (FALSE, "PortClaimed")


async def test_one_address_has_one_owner_however_it_is_written() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        pool = {"datumapis.com/dedicated-addresses": "2001:db8::/64"}
        await tower.patch(Gateway, "datum-system", "global", {"metadata": {"annotations": pool}})
        await tower.apply(service("db", protocol="TCP", expose={"address": "2001:db8::1"}))
        await tower.apply(service("db", "eve", protocol="TCP", expose={"address": "2001:0DB8:0::1"}))
        assert tower.condition(tower.get(DRTPService, "joe", "db"), "Accepted") == (TRUE, "Accepted")
        assert tower.condition(tower.get(DRTPService, "eve", "db"), "Accepted") == (FALSE, "AddressClaimed")


def pem_pair(*names: str, twice: bool = False, other_key: bool = False) -> dict[str, str]:
    """A kubernetes.io/tls Secret's data; `twice`: one extension occurs twice, which makes parsers stumble."""
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    )
    for last in (4, 5) if twice else ():
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{last}"), b"\x05\x00")
        builder = builder.add_extension(unknown, critical=False)
    der = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    der = der.replace(b"\x06\x03\x2a\x03\x05", b"\x06\x03\x2a\x03\x04")
    chain = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    shown = (other if other_key else key).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {"tls.crt": base64.b64encode(chain).decode(), "tls.key": base64.b64encode(shown).decode()}


def tls_secret(name: str, namespace: str, data: dict[str, str]) -> dict[str, Any]:
    head = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}}
    return {**head, "type": "kubernetes.io/tls", "data": data}


async def https_of_eve(tower: Tower, data: dict[str, str]) -> ListenerSet:
    await tower.gateway()
    await tower.apply(tls_secret("wildcard", "datum-system", pem_pair(f"*.{SUFFIX}", SUFFIX)))
    await tower.apply(service(expose={"hostname": "shop"}))
    await tower.apply(tls_secret("mine", "eve", data))
    tls = {"certificateRefs": [{"name": "mine"}]}
    mine = {"name": "a", "port": 8443, "protocol": "HTTPS", "hostname": f"evil.{SUFFIX}", "tls": tls}
    await tower.apply(listener_set("mine", "eve", mine))
    return tower.get(ListenerSet, "eve", "mine")


def serving(tower: Tower) -> dict[str, tuple[str, ...]]:
    """Names by certificate, as the gateway is told for port 8443."""
    entries = tower.entries(EdgeRole.GATEWAY, "gw-1")
    listener = entries["listener/127.0.0.1/8443"]
    assert isinstance(listener, GatewayListener)
    found: dict[str, tuple[str, ...]] = {}
    for uid in listener.certificates:
        entry = entries[f"certificate/{uid}"]
        assert isinstance(entry, ServingCertificate)
        found[uid] = entry.names
    return found


async def test_a_certificate_answers_for_no_name_of_another_tenant() -> None:
    async with Tower().running() as tower:
        await https_of_eve(tower, pem_pair(f"shop.{SUFFIX}", f"evil.{SUFFIX}", f"*.{SUFFIX}"))
        assert sorted(serving(tower).values()) == [(f"*.{SUFFIX}",), (f"evil.{SUFFIX}",)]


async def test_a_certificate_that_cannot_serve_takes_nobody_elses_port_away() -> None:
    for broken in (
        pem_pair(f"evil.{SUFFIX}", twice=True),
        pem_pair(f"evil.{SUFFIX}", other_key=True),
        pem_pair(f"shop.{SUFFIX}"),
        {"tls.crt": "bm9uZQ==", "tls.key": "bm9uZQ=="},
    ):
        async with Tower().running() as tower:
            found = await https_of_eve(tower, broken)
            assert list(serving(tower).values()) == [(f"*.{SUFFIX}",)]
            assert not tower.projector.faults
            said = {one.type: one.reason for one in found.status.listeners[0].conditions}
            assert said["ResolvedRefs"] == "InvalidCertificateRef"


async def test_nobody_gets_a_name_under_another_tenants_name() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service(expose={"hostname": "shop"}))
        await tower.apply(service("evil", "eve", expose={"hostname": f"login.shop.{SUFFIX}"}))
        assert tower.condition(tower.get(DRTPService, "eve", "evil"), "Accepted") == (FALSE, "HostnameClaimed")
        await tower.apply(service("login", "joe", expose={"hostname": f"login.shop.{SUFFIX}"}))
        assert tower.condition(tower.get(DRTPService, "joe", "login"), "Accepted") == (TRUE, "Accepted")
        await tower.apply(service("deep", "eve", expose={"hostname": f"a.deep.{SUFFIX}"}))
        await tower.apply(service("top", "joe", expose={"hostname": "deep"}))
        assert tower.condition(tower.get(DRTPService, "joe", "top"), "Accepted") == (FALSE, "HostnameClaimed")


async def test_nobody_gets_the_operators_own_name() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        for index, host in enumerate((SUFFIX, "localhost")):
            apex = {"name": "a", "port": 8080, "protocol": "HTTP", "hostname": host}
            await tower.apply(listener_set(f"apex-{index}", "eve", apex))
            said = {
                one.type: one.status.value for one in tower.get(ListenerSet, "eve", f"apex-{index}").status.conditions
            }
            assert said["Accepted"] == FALSE
        await tower.apply(service(expose={"hostname": "shop"}))
        assert tower.condition(tower.get(DRTPService, "joe", "web"), "Accepted") == (TRUE, "Accepted")


async def test_what_one_service_lets_go_another_gets_at_once_and_is_told_who_has_it() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("old", expose={"hostname": "shop"}))
        await tower.apply(service("new", expose={"hostname": "shop"}))
        found = tower.get(DRTPService, "joe", "new")
        assert tower.condition(found, "Accepted") == (FALSE, "HostnameClaimed")
        assert any("DRTPService joe/old" in one.message for one in found.status.conditions)
        await tower.patch(DRTPService, "joe", "old", {"spec": {"expose": None}})
        assert tower.condition(tower.get(DRTPService, "joe", "new"), "Accepted") == (TRUE, "Accepted")
        await tower.apply(service("foreign", "eve", expose={"hostname": "shop"}))
        said = tower.get(DRTPService, "eve", "foreign").status.conditions
        assert not any("joe" in one.message for one in said)
