"""Names, ports and addresses: vended, claimed, quarantined, and never another tenant's."""

from __future__ import annotations

from typing import Any

import pytest

from drtp.api.drtp import DRTPService
from drtp.api.gatewayapi import Gateway, GatewayClass, GRPCRoute, HTTPRoute, ListenerSet, TCPRoute
from drtp.api.internal import Claim, EdgeRole
from drtp.api.snapshots import GatewayListener, HttpHost, ListenerProtocol, SniExposure, TcpExposure
from tower import FALSE, GATEWAY_API, SUFFIX, TRUE, Tower, route, service


def hosts(tower: Tower) -> list[str]:
    return sorted(
        {one.hostname for one in tower.entries(EdgeRole.GATEWAY, "gw-1").values() if isinstance(one, HttpHost)}
    )


def accepted(found: Any) -> tuple[str, str]:
    (parent,) = found.status.parents
    return next((one.status.value, one.reason) for one in parent.conditions if one.type == "Accepted")


async def test_a_tcp_service_gets_a_port_of_the_pool_and_an_address() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("db", protocol="TCP"))
        (address,) = tower.get(DRTPService, "joe", "db").status.addresses
        assert address.ip == "127.0.0.1"
        assert address.port is not None
        assert 10000 <= address.port <= 32767
        entries = tower.entries(EdgeRole.GATEWAY, "gw-1")
        assert isinstance(entries[f"tcp/127.0.0.1/{address.port}"], TcpExposure)
        listener = entries[f"listener/127.0.0.1/{address.port}"]
        assert isinstance(listener, GatewayListener)
        assert listener.protocol is ListenerProtocol.TCP
        assert accepted(tower.get(TCPRoute, "joe", "db.public")) == (TRUE, "Accepted")


async def test_a_requested_port_is_given_and_changing_it_releases_the_old_one() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("db", protocol="TCP", expose={"port": 15432}))
        assert tower.get(DRTPService, "joe", "db").status.addresses[0].port == 15432
        await tower.patch(DRTPService, "joe", "db", {"spec": {"expose": {"port": 15433}}})
        assert tower.get(DRTPService, "joe", "db").status.addresses[0].port == 15433
        assert tower.get(Claim, "", "port.shared.15432").spec.released_at is not None
        assert "tcp/127.0.0.1/15432" not in tower.entries(EdgeRole.GATEWAY, "gw-1")


async def test_a_released_port_is_another_tenants_only_after_a_day() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("db", protocol="TCP", expose={"port": 15432}))
        await tower.delete(DRTPService, "joe", "db")
        assert tower.view.get(TCPRoute, "joe", "db.public") is None
        assert tower.view.get(ListenerSet, "joe", "db.public") is None
        await tower.apply(service("db", "eve", protocol="TCP", expose={"port": 15432}))
        assert tower.condition(tower.get(DRTPService, "eve", "db"), "Accepted") == (FALSE, "PortClaimed")
        await tower.clock.advance(24 * 3600 + 120)
        await tower.settle()
        assert tower.condition(tower.get(DRTPService, "eve", "db"), "Accepted") == (TRUE, "Accepted")
        assert tower.get(Claim, "", "port.shared.15432").spec.owner_namespace == "eve"


async def test_a_released_name_comes_back_to_its_own_tenant_at_once() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service(expose={"hostname": "shop"}))
        await tower.delete(DRTPService, "joe", "web")
        await tower.apply(service(expose={"hostname": "shop"}))
        assert hosts(tower) == [f"shop.{SUFFIX}"]


async def test_the_vended_name_stays_when_everything_else_changes() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service())
        before = hosts(tower)
        await tower.patch(DRTPService, "joe", "web", {"spec": {"displayName": "Shop", "enabled": False}})
        await tower.patch(DRTPService, "joe", "web", {"spec": {"enabled": True, "local": {"port": 9090}}})
        assert hosts(tower) == before
        assert len(before) == 1


@pytest.mark.parametrize("name", ["www", "admin", "xn--80ak6aa92e"])
async def test_reserved_names_are_not_vended(name: str) -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service(expose={"hostname": name}))
        assert tower.condition(tower.get(DRTPService, "joe", "web"), "Accepted") == (FALSE, "HostnameReserved")
        assert hosts(tower) == []


async def test_tls_is_passed_through_by_name_beside_https() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("vault", protocol="TLS", expose={"hostname": "vault"}))
        entries = tower.entries(EdgeRole.GATEWAY, "gw-1")
        assert isinstance(entries[f"sni/127.0.0.1/8443/vault.{SUFFIX}"], SniExposure)
        listener = entries["listener/127.0.0.1/8443"]
        assert isinstance(listener, GatewayListener)
        assert listener.protocol is ListenerProtocol.HTTPS
        (address,) = tower.get(DRTPService, "joe", "vault").status.addresses
        assert (address.hostname, address.port) == (f"vault.{SUFFIX}", 8443)


async def test_a_dedicated_address_has_any_port() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("db", protocol="TCP", expose={"address": "127.0.7.3", "port": 5432}))
        (address,) = tower.get(DRTPService, "joe", "db").status.addresses
        assert (address.ip, address.port) == ("127.0.7.3", 5432)
        assert "tcp/127.0.7.3/5432" in tower.entries(EdgeRole.GATEWAY, "gw-1")
        await tower.apply(service("db", "eve", protocol="TCP", expose={"address": "127.0.7.3", "port": 5433}))
        assert tower.condition(tower.get(DRTPService, "eve", "db"), "Accepted") == (FALSE, "AddressClaimed")
        await tower.apply(service("far", "eve", protocol="TCP", expose={"address": "192.0.2.1"}))
        assert tower.condition(tower.get(DRTPService, "eve", "far"), "Accepted") == (FALSE, "AddressUnavailable")


async def test_a_hostname_that_no_listener_has_is_told_those_that_there_are() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service(expose={"hostname": "www.elsewhere.example"}))
        conditions = tower.get(DRTPService, "joe", "web").status.conditions
        (accepted,) = (one for one in conditions if one.type == "Accepted")
        assert accepted.reason == "NoMatchingListenerHostname"
        assert f"hostnames there: *.{SUFFIX} (DRTP-6018)" in accepted.message


async def test_another_tenant_cannot_add_a_path_to_a_hostname() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service(expose={"hostname": "shop"}))
        await tower.apply(service("evil", "eve", expose=None))
        await tower.apply(route("HTTPRoute", "steal", "eve", "evil", hostnames=[f"shop.{SUFFIX}"]))
        assert accepted(tower.get(HTTPRoute, "eve", "steal")) == (FALSE, "HostnameClaimed")
        host = tower.entries(EdgeRole.GATEWAY, "gw-1")[f"http/127.0.0.1/8080/shop.{SUFFIX}"]
        assert isinstance(host, HttpHost)
        assert len(host.rules) == 1


@pytest.mark.parametrize("names", [[], [f"*.{SUFFIX}"]])
async def test_no_tenant_gets_the_whole_wildcard(names: list[str]) -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("evil", "eve", expose=None))
        await tower.apply(route("HTTPRoute", "all", "eve", "evil", hostnames=names))
        assert accepted(tower.get(HTTPRoute, "eve", "all")) == (FALSE, "HostnameClaimed")
        assert hosts(tower) == []


async def test_a_wildcard_of_ones_own_keeps_others_out_from_under_it() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("mine", "joe", expose=None))
        await tower.apply(route("HTTPRoute", "wild", "joe", "mine", hostnames=[f"*.crew.{SUFFIX}"]))
        assert accepted(tower.get(HTTPRoute, "joe", "wild")) == (TRUE, "Accepted")
        await tower.apply(service("evil", "eve", expose={"hostname": f"x.crew.{SUFFIX}"}))
        assert tower.condition(tower.get(DRTPService, "eve", "evil"), "Accepted") == (FALSE, "HostnameClaimed")


async def test_a_hand_written_route_gets_no_reserved_name() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("evil", "eve", expose=None))
        await tower.apply(route("HTTPRoute", "login", "eve", "evil", hostnames=[f"login.{SUFFIX}"]))
        assert accepted(tower.get(HTTPRoute, "eve", "login")) == (FALSE, "HostnameClaimed")


async def test_a_hand_written_route_is_claimed_and_let_go() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("mine", "joe", expose=None))
        await tower.apply(route("HTTPRoute", "app", "joe", "mine", hostnames=[f"app.{SUFFIX}"]))
        assert hosts(tower) == [f"app.{SUFFIX}"]
        await tower.delete(HTTPRoute, "joe", "app")
        assert tower.get(Claim, "", f"hostname.is-app.{SUFFIX}").spec.released_at is not None
        assert hosts(tower) == []


async def test_a_backend_of_another_namespace_needs_a_grant() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("mine", "joe", expose=None))
        body = route("HTTPRoute", "app", "eve", "mine", hostnames=[f"app.{SUFFIX}"])
        body["spec"]["rules"][0]["backendRefs"][0]["namespace"] = "joe"
        await tower.apply(body)

        def refs() -> tuple[str, str]:
            (parent,) = tower.get(HTTPRoute, "eve", "app").status.parents
            return next((one.status.value, one.reason) for one in parent.conditions if one.type == "ResolvedRefs")

        assert refs() == (FALSE, "RefNotPermitted")
        host = tower.entries(EdgeRole.GATEWAY, "gw-1")[f"http/127.0.0.1/8080/app.{SUFFIX}"]
        assert isinstance(host, HttpHost)
        assert [one.service for one in host.rules[0].backends] == [""]
        group = "gateway.networking.k8s.io"
        await tower.apply(
            {
                "apiVersion": GATEWAY_API,
                "kind": "ReferenceGrant",
                "metadata": {"name": "eve", "namespace": "joe"},
                "spec": {
                    "from": [{"group": group, "kind": "HTTPRoute", "namespace": "eve"}],
                    "to": [{"group": "datumapis.com", "kind": "DRTPService"}],
                },
            }
        )
        assert refs() == (TRUE, "ResolvedRefs")
        host = tower.entries(EdgeRole.GATEWAY, "gw-1")[f"http/127.0.0.1/8080/app.{SUFFIX}"]
        assert isinstance(host, HttpHost)
        assert [one.service for one in host.rules[0].backends] != [""]


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ({"name": "nobody", "group": "datumapis.com", "kind": "DRTPService"}, "BackendNotFound"),
        ({"name": "core", "port": 80}, "InvalidKind"),
        ({"name": "slice", "group": "discovery.k8s.io", "kind": "EndpointSlice"}, "InvalidKind"),
    ],
)
async def test_a_backend_that_leads_nowhere_says_why(ref: dict[str, Any], reason: str) -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        body = route("HTTPRoute", "app", "joe", "x", hostnames=[f"app.{SUFFIX}"], rules=[{"backendRefs": [ref]}])
        await tower.apply(body)
        (parent,) = tower.get(HTTPRoute, "joe", "app").status.parents
        assert (FALSE, reason) in [(one.status.value, one.reason) for one in parent.conditions]


async def test_gateway_status_speaks_of_listeners_routes_and_addresses() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service())
        await tower.gateway_programs()
        await tower.advance(2)
        found = tower.get(Gateway, "datum-system", "global")
        assert tower.condition(found, "Accepted") == (TRUE, "Accepted")
        assert [address.value for address in found.status.addresses] == ["127.0.0.1"]
        http = next(one for one in found.status.listeners if one.name == "http")
        assert http.attached_routes == 1
        assert [kind.kind for kind in http.supported_kinds] == ["HTTPRoute"]
        states = {one.type: (one.status.value, one.reason) for one in http.conditions}
        assert states["Programmed"] == (TRUE, "Programmed")
        assert states["Conflicted"] == (FALSE, "NoConflicts")
        https = next(one for one in found.status.listeners if one.name == "https")
        refs = {one.type: (one.status.value, one.reason) for one in https.conditions}
        assert refs["ResolvedRefs"] == (FALSE, "InvalidCertificateRef")
        kind = tower.get(GatewayClass, "", "datum")
        assert tower.condition(kind, "Accepted") == (TRUE, "Accepted")


async def test_a_duplicate_hostname_in_one_gateway_freezes_nobody() -> None:
    """What one tenant duplicates, Envoy refused for the whole fleet of network-services-operator."""
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service())
        twin = {"name": "twin", "port": 8080, "protocol": "HTTP", "hostname": f"*.{SUFFIX}"}
        held = tower.view.stored(tower.view.keys("Gateway.gateway.networking.k8s.io")[0])
        assert held is not None
        listeners = [*held.object["spec"]["listeners"], twin]
        await tower.patch(Gateway, "datum-system", "global", {"spec": {"listeners": listeners}})
        await tower.advance(2)
        found = tower.get(Gateway, "datum-system", "global")
        status = next(one for one in found.status.listeners if one.name == "twin")
        assert {one.type: one.reason for one in status.conditions}["Conflicted"] == "HostnameConflict"
        assert len(hosts(tower)) == 1


async def test_exposing_without_a_gateway_says_so() -> None:
    async with Tower().running() as tower:
        await tower.apply(service(expose={"gatewayRef": {"name": "mine"}}))
        assert tower.condition(tower.get(DRTPService, "joe", "web"), "Accepted") == (FALSE, "NoSuchGateway")


async def test_a_filter_that_is_not_carried_out_is_said_on_the_route() -> None:
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "x"}}}
    backend = {"group": "datumapis.com", "kind": "DRTPService", "name": "mine"}
    good, bad = {"backendRefs": [backend]}, {"backendRefs": [backend], "filters": [mirror]}
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service("mine", "joe", expose=None))
        await tower.apply(route("HTTPRoute", "none", "joe", "mine", hostnames=[f"none.{SUFFIX}"], rules=[bad]))
        assert accepted(tower.get(HTTPRoute, "joe", "none")) == (FALSE, "UnsupportedValue")
        await tower.apply(route("HTTPRoute", "some", "joe", "mine", hostnames=[f"some.{SUFFIX}"], rules=[good, bad]))
        found = tower.get(HTTPRoute, "joe", "some")
        assert accepted(found) == (TRUE, "Accepted")
        said = {one.type: (one.reason, one.message) for one in found.status.parents[0].conditions}
        assert said["PartiallyInvalid"][0] == "UnsupportedValue"
        assert "spec.rules[1] has the filter RequestMirror" in said["PartiallyInvalid"][1]
        exposed = next(one for one in tower.get(DRTPService, "joe", "mine").status.conditions if one.type == "Exposed")
        assert "none" not in exposed.message


async def test_a_grpc_route_is_told_that_no_listener_takes_it() -> None:
    rules = [{"matches": [{"method": {"service": "a.B", "method": "C"}}]}]
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(route("GRPCRoute", "g", "joe", "web", hostnames=[f"g.{SUFFIX}"], rules=rules))
        assert accepted(tower.get(GRPCRoute, "joe", "g")) == (FALSE, "NotAllowedByListeners")
        assert not tower.view.list(Claim)


async def test_parts_of_expose_that_mean_nothing_are_named_and_the_rest_is_served() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service(expose={"port": 15432}))
        found = tower.get(DRTPService, "joe", "web")
        assert tower.condition(found, "Accepted") == (TRUE, "Accepted")
        assert tower.condition(found, "PartiallyInvalid") == (TRUE, "UnsupportedValue")
        assert found.status.addresses
        await tower.patch(DRTPService, "joe", "web", {"spec": {"expose": {"port": None}}})
        assert "PartiallyInvalid" not in {one.type for one in tower.get(DRTPService, "joe", "web").status.conditions}


async def test_a_gateway_that_asks_for_client_certificates_is_refused_and_nothing_on_it_stands() -> None:
    asked = {"frontend": {"default": {"validation": {"caCertificateRefs": []}}}}
    async with Tower().running() as tower:
        await tower.gateway()
        await tower.apply(service())
        before = set(tower.entries(EdgeRole.GATEWAY, "gw-1"))
        await tower.patch(Gateway, "datum-system", "global", {"spec": {"tls": asked}})
        found = tower.get(Gateway, "datum-system", "global")
        assert tower.condition(found, "Accepted") == (FALSE, "UnsupportedValue")
        assert tower.condition(found, "Programmed") == (FALSE, "UnsupportedValue")
        assert [key for key in before if key.startswith("listener/")]
        assert not [key for key in tower.entries(EdgeRole.GATEWAY, "gw-1") if key.startswith("listener/")]
