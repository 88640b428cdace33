"""The composed control plane: its doors, its restarts, its deaths."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from drtp.api.people import SYSTEM_MASTERS
from drtp.client.api import ApiClient
from drtp.client.context import load_kubeconfig
from drtp.client.joining import parse_join
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Refused, Terminal
from drtp.main.commands.tend import kubeconfig
from drtp.main.controlplane import running_controlplane
from drtp.main.settings import settle
from drtp.store.protocol import key_of
from unit.main.controlplane_bed import api_client, operator, process, settings

ALPHA = "datumapis.com/v1alpha"
GATEWAY_API = "gateway.networking.k8s.io/v1"


def service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": ALPHA,
        "kind": "DRTPService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"protocol": "HTTP", "local": {"host": "localhost", "port": 8080}},
    }


async def test_it_has_what_every_control_plane_has(tmp_path: Path) -> None:
    async with (
        running_controlplane(settings(tmp_path), SystemClock()) as tower,
        api_client(tower.settings, SYSTEM_MASTERS) as api,
    ):
        for namespace in ("datum-system", "default"):
            assert (await api.get("v1", "namespaces", namespace))["status"] == {"phase": "Active"}
        gateway = await api.get(GATEWAY_API, "gateways", "global", namespace="datum-system")
        listeners = {one["name"]: one for one in gateway["spec"]["listeners"]}
        assert listeners["http"]["port"] == tower.settings.http_port
        assert listeners["https"]["hostname"] == "*.prism.localhost"
        reference = listeners["https"]["tls"]["certificateRefs"][0]["name"]
        secret = await api.get("v1", "secrets", reference, namespace="datum-system")
        assert secret["type"] == "kubernetes.io/tls"
        assert await api.get(GATEWAY_API, "gatewayclasses", "datum-external-global-proxy")


async def test_a_user_works_in_their_namespace_only(tmp_path: Path) -> None:
    async with (
        running_controlplane(settings(tmp_path), SystemClock()) as tower,
        api_client(tower.settings) as api,
    ):
        await api.create(service("web"), "drtpservices", namespace="default")
        with pytest.raises(Refused):
            await api.get("v1", "secrets", "serving-wildcard", namespace="datum-system")


async def test_a_restart_has_the_same_ports_authority_and_objects(tmp_path: Path) -> None:
    async with running_controlplane(settings(tmp_path), SystemClock()) as tower:
        first, bundle = tower.settings, tower.authority.bundle_pem
        web = await tower.store.create(service("web"))
    async with running_controlplane(settings(tmp_path), SystemClock()) as tower:
        assert tower.settings == first
        assert tower.authority.bundle_pem == bundle
        assert (await tower.store.get(web.key)).uid == web.uid


async def test_listeners_follow_the_settings_and_keep_the_operators_own(tmp_path: Path) -> None:
    async with running_controlplane(settings(tmp_path), SystemClock()) as tower:
        listing = await tower.store.list("Gateway.gateway.networking.k8s.io")
        gateway = listing.items[0].object
        extra = {"name": "extra", "port": 9999, "protocol": "HTTP", "hostname": "extra.example.com"}
        spec = gateway["spec"] | {"listeners": [*gateway["spec"]["listeners"], extra]}
        await tower.store.update(gateway | {"spec": spec})
    async with running_controlplane(settings(tmp_path, http_port=7080), SystemClock()) as tower:
        held = (await tower.store.get(key_of(gateway))).object["spec"]["listeners"]
        ports = {listener["name"]: listener["port"] for listener in held}
        assert (ports["http"], ports["extra"]) == (7080, 9999)


async def test_another_trust_domain_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cp").mkdir(mode=0o700)
    assert settle(settings(tmp_path)).trust_domain == "drtp.local"
    with pytest.raises(Terminal, match="DRTP-7030"):
        settle(settings(tmp_path, trust_domain="other.example"))


async def test_the_operator_socket_is_private_and_mints_join_strings(tmp_path: Path) -> None:
    async with running_controlplane(settings(tmp_path), SystemClock()) as tower:
        assert tower.settings.operator_socket.stat().st_mode & 0o777 == 0o600
        status, answer = await operator(tower.settings, "POST", "/v1/secrets", {"role": "pop", "name": "pop-1.x"})
        assert status == 200
        join = parse_join(answer["secret"])
        assert (join.edge.port, join.edge.pin) == (tower.settings.edge_port, tower.authority.pin)
        status, answer = await operator(tower.settings, "POST", "/v1/secrets", {"role": "agent", "name": "none"})
        assert (status, answer["code"]) == (404, "DRTP-1001")
        status, answer = await operator(tower.settings, "POST", "/v1/secrets", {"role": "pirate", "name": "x"})
        assert (status, answer["code"]) == (400, "DRTP-1014")
        status, answer = await operator(tower.settings, "GET", "/v1/status")
        assert answer["synced"] is True
        status, answer = await operator(tower.settings, "GET", "/v1/check")
        assert (status, answer) == (200, {"faults": []})
    assert not tower.settings.operator_socket.exists()


async def test_the_operator_gets_a_kubeconfig_that_may_do_everything(tmp_path: Path) -> None:
    file = tmp_path / "operator.kubeconfig"
    asked = settings(tmp_path)
    async with running_controlplane(asked, SystemClock()):
        argv = [str(file), "--data-dir", str(asked.directory), "--name", "ops"]
        done = await asyncio.to_thread(CliRunner().invoke, kubeconfig, argv)
        assert done.exit_code == 0, done.output
        assert file.stat().st_mode & 0o777 == 0o600
        async with ApiClient(load_kubeconfig(file)) as api:
            named = {one["metadata"]["name"] for one in (await api.list("v1", "namespaces"))["items"]}
    assert named >= {"default", "datum-system"}


async def test_metrics_are_there_for_the_operator(tmp_path: Path) -> None:
    async with (
        running_controlplane(settings(tmp_path), SystemClock()) as tower,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tower.settings.operator_socket))) as session,
        session.get("http://operator/metrics") as answer,
    ):
        assert "drtp_controller_turns_total" in await answer.text()


async def test_a_drained_server_is_unschedulable(tmp_path: Path) -> None:
    async with running_controlplane(settings(tmp_path), SystemClock()) as tower:
        spec = {"pop": "nyc", "location": {"latitude": "1", "longitude": "2"}, "serverIP": "127.0.0.1", "listeners": []}
        server = {"apiVersion": ALPHA, "kind": "DRTPServer", "metadata": {"name": "pop-1"}, "spec": spec}
        stored = await tower.store.create(server)
        for drain in (True, False):
            status, _ = await operator(tower.settings, "POST", "/v1/drain", {"server": "pop-1", "drain": drain})
            assert status == 200
            held = (await tower.store.get(stored.key)).object["spec"]
            assert held.get("unschedulable", False) is drain
        status, answer = await operator(tower.settings, "POST", "/v1/drain", {"server": "none"})
        assert (status, answer["code"]) == (404, "DRTP-1001")


async def test_kill_9_loses_nothing_the_api_acknowledged_and_the_next_start_is_the_same_place(tmp_path: Path) -> None:
    where = settings(tmp_path)
    async with process(where) as (child, ready), api_client(where) as api:
        names = [f"web-{number}" for number in range(20)]
        await asyncio.gather(*(api.create(service(name), "drtpservices", namespace="default") for name in names))
        child.kill()
        await child.wait()
    async with process(where) as (child, again):
        assert again["api"] == ready["api"]
        async with api_client(where) as api:
            listing = await api.list(ALPHA, "drtpservices", namespace="default")
            assert {one["metadata"]["name"] for one in listing["items"]} == set(names)
        child.send_signal(signal.SIGTERM)
        assert await child.wait() == 0


async def test_sigterm_ends_watches_and_exits_cleanly(tmp_path: Path) -> None:
    where = settings(tmp_path)
    async with process(where) as (child, _), api_client(where) as api:
        created = await api.create(service("web"), "drtpservices", namespace="default")
        seen: list[str] = []
        async for event in api.watch(ALPHA, "drtpservices", namespace="default"):
            seen.append(event.type)
            if len(seen) == 1:
                child.send_signal(signal.SIGTERM)
        assert created
        assert await child.wait() == 0
        assert not where.operator_socket.exists()


async def test_a_patch_and_a_busy_status_do_not_conflict(tmp_path: Path) -> None:
    """A patch pins no version: a status that is on its way to the disk is no reason to refuse it."""
    async with (
        running_controlplane(settings(tmp_path), SystemClock()) as tower,
        api_client(tower.settings, SYSTEM_MASTERS) as api,
    ):
        made = await tower.store.create(service("web"))
        done = asyncio.Event()

        async def busy() -> None:
            turn = 0
            while not done.is_set():
                turn += 1
                held = {**made.object, "metadata": {"name": "web", "namespace": "default"}}
                await tower.store.update_status(held | {"status": {"observedGeneration": turn}})
                await asyncio.sleep(0.003)

        async with asyncio.TaskGroup() as group:
            group.create_task(busy())
            for port in range(1, 40):
                patch = {"spec": {"local": {"port": port}}}
                await api.patch(ALPHA, "drtpservices", "web", patch, namespace="default")
            done.set()
