"""From an object and an agent to an address that works, with the real Store, Manager, controllers and Projector."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from drtp.api.core import Event, Secret
from drtp.api.drtp import (
    ADDRESSES_MAX,
    ClientStatus,
    DRTPConnection,
    DRTPService,
    EndpointMode,
    ProgrammingStatus,
    Protocol,
)
from drtp.api.gatewayapi import ListenerSet, UDPRoute
from drtp.api.internal import EdgeRole, EnrolmentSecret
from drtp.api.meta import Key
from drtp.api.reports import LocalState, RouteReport
from drtp.api.snapshots import Backend, HttpHost, PlanService, RouteEntry, UdpExposure
from drtp.controllers import writing
from drtp.rules import access, vending
from drtp.store.view import kind_key
from tower import FALSE, INTERNAL, SUFFIX, TRUE, Tower, route, service


async def serving(tower: Tower, **spec: Any) -> None:
    """One service, HTTP unless `spec` says otherwise, on two POPs and one gateway."""
    await tower.pop("nyc")
    await tower.pop("ewr")
    await tower.gateway()
    await tower.apply(service(**spec))
    await tower.agent("a1", "joe", "web")
    await tower.pop_serves("nyc")
    await tower.pop_serves("ewr")
    await tower.agent_says("a1", LocalState.REACHABLE)
    await tower.gateway_programs()


async def test_an_http_service_becomes_ready_with_an_address() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        found = tower.get(DRTPService, "joe", "web")
        assert tower.condition(found, "Ready") == (TRUE, "Ready")
        first, second = found.status.addresses
        assert first.url == f"http://{first.hostname}:8080"
        assert second.url == f"https://{first.hostname}:8443"
        assert first.hostname is not None
        assert first.hostname.endswith(f".{SUFFIX}")
        assert (found.status.connections, found.status.ready_connections) == (1, 1)


async def test_the_route_entry_is_there_as_soon_as_placement_has_written() -> None:
    async with Tower().running() as tower:
        uid = await tower.pop("nyc")
        await tower.apply(service())
        await tower.agent("a1", "joe", "web")
        entries = tower.entries(EdgeRole.POP, uid)
        (route,) = (entry for entry in entries.values() if isinstance(entry, RouteEntry))
        assert route.agents == ("a1",)
        assert tower.get(DRTPConnection, "joe", "web-a1").spec.servers[0].server_ref.name == "nyc"


async def test_the_agent_is_told_its_address_and_readiness() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        (plan,) = (one for one in tower.entries(EdgeRole.AGENT, "a1").values() if isinstance(one, PlanService))
        assert plan.ready
        assert plan.addresses == tower.get(DRTPService, "joe", "web").status.addresses
        assert sorted(plan.servers) == sorted(tower.servers.values())


async def test_unreachable_local_service_is_said_in_words() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.agent_says("a1", LocalState.UNREACHABLE, "connection refused")
        found = tower.get(DRTPService, "joe", "web")
        assert tower.condition(found, "Connected") == (FALSE, "LocalServiceUnreachable")
        assert tower.condition(found, "Ready") == (FALSE, "LocalServiceUnreachable")
        said = next(one.message for one in found.status.conditions if one.type == "Connected")
        assert said.startswith('The agent joes-laptop gets "connection refused" from localhost:8080')


async def test_a_restarted_control_plane_withdraws_nothing_and_unsays_nothing() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        before = dict(tower.entries(EdgeRole.GATEWAY, "gw-1"))
        ready = tower.get(DRTPService, "joe", "web").status
    async with Tower(tower.clock, tower.store).running() as again:
        assert again.get(DRTPService, "joe", "web").status == ready
        assert again.entries(EdgeRole.GATEWAY, "gw-1") == before
        # Edges that were long without a control plane dial at most every 20 s.
        await again.advance(20)
        assert again.get(DRTPService, "joe", "web").status == ready
        assert again.entries(EdgeRole.GATEWAY, "gw-1") == before


async def test_ready_is_degraded_when_one_of_two_pops_is_lost() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.hang_up(tower.servers["nyc"])
        await tower.advance(16)
        assert tower.condition(tower.get(DRTPService, "joe", "web"), "Ready") == (TRUE, "Degraded")
        (backend,) = (one for one in tower.entries(EdgeRole.GATEWAY, "gw-1").values() if isinstance(one, Backend))
        assert [one.server for one in backend.endpoints] == [tower.servers["ewr"], tower.servers["nyc"]]
        assert [one.priority for one in backend.endpoints] == [0, 1]


async def test_an_endpoint_without_agent_stays_as_the_last_resort() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.pop_serves("nyc", session=ClientStatus.DISCONNECTED)
        status = tower.get(DRTPConnection, "joe", "web-a1").status.servers
        assert {one.programming_status for one in status} == {ProgrammingStatus.PROGRAMMED}
        (backend,) = (one for one in tower.entries(EdgeRole.GATEWAY, "gw-1").values() if isinstance(one, Backend))
        assert [one.server for one in backend.endpoints] == [tower.servers["ewr"], tower.servers["nyc"]]


async def test_a_draining_endpoint_stays_as_the_last_resort() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.pop_serves("nyc", programming=ProgrammingStatus.DRAINING)
        (backend,) = (one for one in tower.entries(EdgeRole.GATEWAY, "gw-1").values() if isinstance(one, Backend))
        assert [one.server for one in backend.endpoints] == [tower.servers["ewr"], tower.servers["nyc"]]
        await tower.pop_serves("ewr", programming=ProgrammingStatus.FAILED)
        (backend,) = (one for one in tower.entries(EdgeRole.GATEWAY, "gw-1").values() if isinstance(one, Backend))
        assert [one.server for one in backend.endpoints] == [tower.servers["nyc"]]


async def test_a_service_with_very_many_routes_stays_what_it_is_and_names_its_own_address_first() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        first = tower.get(DRTPService, "joe", "web").status.addresses[0]
        for number in range(12):
            await tower.apply(route("HTTPRoute", f"r{number}", "joe", "web", hostnames=[f"a{number}.{SUFFIX}"]))
        await tower.gateway_programs()
        found = tower.get(DRTPService, "joe", "web")
        assert len(found.status.addresses) == ADDRESSES_MAX
        assert found.status.addresses[0] == first
        assert tower.condition(found, "Ready") == (TRUE, "Ready")
        hosts = [one for one in tower.entries(EdgeRole.GATEWAY, "gw-1").values() if isinstance(one, HttpHost)]
        assert len(hosts) == 2 * 13


async def test_a_status_that_could_not_be_read_again_is_never_written() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        stored = tower.view.stored(Key(kind_key(DRTPService), "joe", "web"))
        assert stored is not None
        status = tower.get(DRTPService, "joe", "web").status
        long = msgspec.structs.replace(status, addresses=status.addresses * ADDRESSES_MAX)
        with pytest.raises(msgspec.ValidationError):
            writing.status(stored, long)


async def test_disabling_cuts_and_keeps_the_reservation() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        addresses = tower.get(DRTPService, "joe", "web").status.addresses
        await tower.patch(DRTPService, "joe", "web", {"spec": {"enabled": False}})
        found = tower.get(DRTPService, "joe", "web")
        assert tower.condition(found, "Ready") == (FALSE, "Disabled")
        assert found.status.addresses == addresses
        (backend,) = (one for one in tower.entries(EdgeRole.GATEWAY, "gw-1").values() if isinstance(one, Backend))
        assert backend.endpoints == ()
        pop = tower.entries(EdgeRole.POP, tower.servers["nyc"])
        assert [one.enabled for one in pop.values() if isinstance(one, RouteEntry)] == [False]


async def test_deleting_a_service_withdraws_every_entry_in_one_turn() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.delete(DRTPService, "joe", "web")
        for role, uid in ((EdgeRole.POP, tower.servers["nyc"]), (EdgeRole.GATEWAY, "gw-1"), (EdgeRole.AGENT, "a1")):
            left = tower.entries(role, uid).values()
            assert not [one for one in left if isinstance(one, RouteEntry | Backend | HttpHost | PlanService)]


async def test_a_gateway_that_refuses_is_said_in_its_own_words() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.gateway_programs(failing="http/")
        found = tower.get(DRTPService, "joe", "web")
        assert tower.condition(found, "Exposed") == (FALSE, "GatewayFailed")
        assert any("address in use" in one.message for one in found.status.conditions)


async def test_udp_gets_a_port_a_listener_and_a_route_of_its_own() -> None:
    async with Tower().running() as tower:
        await serving(tower, protocol="UDP", edgeAllowlist=["203.0.113.0/24"])
        found = tower.get(DRTPService, "joe", "web")
        assert tower.condition(found, "Accepted") == (TRUE, "Accepted")
        assert tower.condition(found, "Exposed") == (TRUE, "Exposed")
        assert tower.condition(found, "Ready")[0] is TRUE
        (address,) = found.status.addresses
        assert vending.PORT_MIN <= (address.port or 0) <= vending.PORT_MAX and address.ip and not address.url
        (listener,) = tower.get(ListenerSet, "joe", "web.public").spec.listeners
        assert (listener.protocol, listener.port) == ("UDP", address.port)
        assert tower.get(UDPRoute, "joe", "web.public").spec.rules
        entries = tower.entries(EdgeRole.GATEWAY, "gw-1")
        exposure = entries[f"udp/{address.ip}/{address.port}"]
        assert isinstance(exposure, UdpExposure)
        assert access.permits(exposure.access, "203.0.113.9") and not access.permits(exposure.access, "198.51.100.1")
        routes = [
            one for one in tower.entries(EdgeRole.POP, tower.servers["nyc"]).values() if isinstance(one, RouteEntry)
        ]
        assert [one.protocol for one in routes] == [Protocol.UDP]


async def test_an_agent_on_its_way_is_no_warning_and_one_that_left_is() -> None:
    async with Tower().running() as tower:
        await tower.pop("nyc")
        await tower.apply(service())
        await tower.agent("a1", "joe", "web")
        assert tower.condition(tower.get(DRTPConnection, "joe", "web-a1"), "Connected") == (FALSE, "Connecting")
        await tower.pop_serves("nyc")
        assert not [one for one in tower.view.list(Event, "joe") if one.type == "Warning"]
        await tower.pop_serves("nyc", session=ClientStatus.DISCONNECTED)
        assert tower.condition(tower.get(DRTPConnection, "joe", "web-a1"), "Connected") == (FALSE, "AgentDisconnected")
        assert [one for one in tower.view.list(Event, "joe") if one.type == "Warning"]


async def test_a_service_without_agent_says_what_to_run() -> None:
    async with Tower().running() as tower:
        await tower.apply(service())
        assert tower.condition(tower.get(DRTPService, "joe", "web"), "Connected") == (FALSE, "NoAgent")


async def test_an_agent_started_for_another_target_is_said_in_its_own_words() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.agent_says("a1", LocalState.UNREACHABLE, "DRTP-4012: localhost:9 was given here.")
        found = tower.get(DRTPService, "joe", "web")
        assert tower.condition(found, "Connected") == (FALSE, "TargetRefused")
        assert tower.condition(found, "Ready") == (FALSE, "TargetRefused")
        said = next(one.message for one in found.status.conditions if one.type == "Connected")
        assert said == "The agent joes-laptop serves nobody: localhost:9 was given here. (DRTP-4012)."
        assert [one for one in tower.view.list(Event, "joe") if one.reason == "ConnectedTargetRefused"]


async def test_what_an_agent_says_is_kept_short_and_without_control_characters() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.agent_says("a1", LocalState.UNREACHABLE, "\x1b[2J" + "x" * 100_000)
        found = tower.get(DRTPConnection, "joe", "web-a1")
        said = next(one.message for one in found.status.conditions if one.type == "Connected")
        assert "\x1b" not in said
        assert len(said) < 1000


async def test_a_service_is_not_ready_once_the_lease_of_its_last_gateway_has_run_out() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.hang_up("gw-1")
        await tower.advance(10)
        assert tower.condition(tower.get(DRTPService, "joe", "web"), "Ready") == (TRUE, "Ready")
        await tower.advance(10)
        found = tower.get(DRTPService, "joe", "web")
        assert tower.condition(found, "Exposed") == (FALSE, "GatewayLost")
        assert tower.condition(found, "Ready") == (FALSE, "GatewayLost")
        await tower.gateway()
        assert tower.condition(tower.get(DRTPService, "joe", "web"), "Ready") == (TRUE, "Ready")


async def test_a_lost_gateway_beside_a_live_one_changes_nothing() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        await tower.gateway("gw-2")
        await tower.gateway_programs("gw-2")
        await tower.hang_up("gw-1")
        await tower.advance(60)
        assert tower.condition(tower.get(DRTPService, "joe", "web"), "Ready") == (TRUE, "Ready")


async def test_a_replayed_secret_shows_on_its_service_for_as_long_as_it_is_remembered() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        bound = {"kind": "DRTPService.datumapis.com", "name": "web", "namespace": "joe"}
        bound["uid"] = tower.get(DRTPService, "joe", "web").metadata.uid
        spec = {"digest": "d", "role": "agent", "bound": bound, "expiresAt": "2030-01-01T00:00:00Z"}
        head = {"apiVersion": INTERNAL, "kind": "EnrolmentSecret", "metadata": {"name": "abcdefgh1234"}}
        await tower.apply({**head, "spec": spec})
        types = {one.type for one in tower.get(DRTPService, "joe", "web").status.conditions}
        assert "SecretReplayed" not in types
        await tower.patch(EnrolmentSecret, "", "abcdefgh1234", {"spec": {"replays": 1}})
        found = tower.get(DRTPService, "joe", "web")
        assert tower.condition(found, "SecretReplayed") == (TRUE, "SecretReplayed")
        assert tower.condition(found, "Ready") == (TRUE, "Ready")
        await tower.delete(EnrolmentSecret, "", "abcdefgh1234")
        types = {one.type for one in tower.get(DRTPService, "joe", "web").status.conditions}
        assert "SecretReplayed" not in types


async def test_a_service_names_the_secret_that_holds_its_one_time_secret_while_it_is_there() -> None:
    async with Tower().running() as tower:
        await serving(tower)
        uid = tower.get(DRTPService, "joe", "web").metadata.uid
        owner = {"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPService", "name": "web", "uid": uid}
        kept = {"name": "web-agent", "namespace": "joe", "ownerReferences": [owner]}
        bound = {"kind": "DRTPService.datumapis.com", "name": "web", "namespace": "joe", "uid": uid}
        spec = {"digest": "d", "role": "agent", "bound": bound, "expiresAt": "2030-01-01T00:00:00Z"}
        record = {"apiVersion": INTERNAL, "kind": "EnrolmentSecret", "metadata": {"name": "abcdefgh1234"}}
        await tower.apply({**record, "spec": {**spec, "keptIn": "web-agent"}})
        assert tower.get(DRTPService, "joe", "web").status.credentials_secret_ref is None
        await tower.apply({"apiVersion": "v1", "kind": "Secret", "metadata": kept})
        named = tower.get(DRTPService, "joe", "web").status.credentials_secret_ref
        assert named is not None
        assert named.name == "web-agent"
        await tower.delete(Secret, "joe", "web-agent")
        assert tower.get(DRTPService, "joe", "web").status.credentials_secret_ref is None


async def test_a_pop_does_not_choose_that_gateways_reach_it_without_proof() -> None:
    """Threat 5."""
    async with Tower().running() as tower:
        await serving(tower)
        uid = tower.servers["nyc"]
        (key,) = (key for key, one in tower.entries(EdgeRole.POP, uid).items() if isinstance(one, RouteEntry))
        said = tower.observed.report(uid, key)
        assert isinstance(said, RouteReport)
        hacked = msgspec.structs.replace(said, mode=EndpointMode.PLAIN, address="169.254.169.254", port=80)
        await tower.say(uid, {key: hacked})
        (backend,) = (one for one in tower.entries(EdgeRole.GATEWAY, "gw-1").values() if isinstance(one, Backend))
        assert [one.server_name for one in backend.endpoints] == [f"ewr.tunnel.{SUFFIX}"]
