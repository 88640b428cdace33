"""A policy at work on the whole: the clock cuts live visitors, and bytes take no way that is not allowed."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scenario.bed import Bed, Serving, echo, eventually, read_all, tcp_service


@contextmanager
def serving(bed: Bed, name: str, handle: Any = echo) -> Generator[Serving]:
    with tcp_service(handle) as port:
        found = bed.serve(f"tcp://localhost:{port}", "--name", name, "--allow", "127.0.0.1/32")
        yield found
        found.stop()


def policy(bed: Bed, of: Serving, *rules: dict[str, Any], **more: Any) -> None:
    target = {"group": "datumapis.com", "kind": "DRTPService", "name": of.service}
    body = {
        "apiVersion": "datumapis.com/v1alpha",
        "kind": "DRTPAccessPolicy",
        "metadata": {"name": of.service, "namespace": of.namespace},
        "spec": {"targetRefs": [target], "rules": list(rules), **more},
    }
    bed.kubectl("apply", "-f", "-", stdin=json.dumps(body))


def is_enforced(bed: Bed, of: Serving) -> bool:
    found = json.loads(bed.kubectl("get", "drtpaccesspolicy", of.service, "-n", of.namespace, "-o", "json"))
    ancestors = found.get("status", {}).get("ancestors", [])
    generation = found["metadata"]["generation"]
    return any(
        one["type"] == "Enforced" and one["status"] == "True" and one["observedGeneration"] == generation
        for ancestor in ancestors
        for one in ancestor["conditions"]
    )


def answers(of: Serving) -> bool:
    try:
        with socket.create_connection(of.endpoint, timeout=5) as visitor:
            visitor.sendall(b"ping")
            return visitor.recv(10) == b"ping"
    except OSError:
        return False


def decided(bed: Bed, of: Serving, *options: str) -> dict[str, Any]:
    asked = bed.datumctl("policy", "test", f"{of.namespace}/{of.service}", *options, "--output", "json")
    return json.loads(asked.stdout)


def test_a_schedule_that_ends_cuts_a_live_visitor_and_lets_nobody_in(bed: Bed) -> None:
    with serving(bed, "timed") as found:
        end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=6)
        until = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        policy(bed, found, {"name": "until", "action": "Allow", "schedule": {"notAfter": until}})
        assert eventually(lambda: is_enforced(bed, found))
        visitor = socket.create_connection(found.endpoint, timeout=15)
        visitor.sendall(b"ping")
        assert visitor.recv(10) == b"ping"
        with pytest.raises(ConnectionResetError):
            assert visitor.recv(10) != b""
        assert -1.0 <= time.time() - end.timestamp() <= 2.5
        assert eventually(lambda: not answers(found), 3)
        before = (end - timedelta(seconds=1)).isoformat()
        assert decided(bed, found, "--from", "127.0.0.1", "--at", before)["decision"] == "Allow"
        now = decided(bed, found, "--from", "127.0.0.1")
        assert (now["decision"], now["rule"]) == ("Deny", f"policy/{found.service}/defaultAction")


def test_who_could_be_read_at_a_gateway_is_refused_and_callers_are_not(bed: Bed) -> None:
    with serving(bed, "sealed") as found:
        assert eventually(lambda: answers(found))
        policy(bed, found, defaultAction="Allow", encryption="EndToEnd")
        assert eventually(lambda: is_enforced(bed, found))
        assert not answers(found)
        said = decided(bed, found, "--from", "127.0.0.1")
        assert (said["decision"], said["rule"]) == ("Deny", "policy/sealed/encryption/defaultAction")
        caller = bed.run("connect", f"{found.namespace}/{found.service}", "--local", "0")
        host, _, port = caller.line(30).rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as program:
            program.sendall(b"ping")
            assert program.recv(10) == b"ping"
        caller.stop()
        policy(bed, found, defaultAction="Allow", encryption="PerHop")
        assert eventually(lambda: answers(found))


def test_bytes_go_through_the_pops_that_are_named_and_through_no_other(bed: Bed) -> None:
    with serving(bed, "routed") as found:
        pops = {one["spec"]["pop"]: one["metadata"]["name"] for one in bed.objects("drtpservers")}
        here = min(pops)

        def placed() -> set[str]:
            (connection,) = bed.connections(found.service)
            return {one["serverRef"]["name"] for one in connection["spec"].get("servers", [])}

        assert placed() == set(pops.values())
        policy(bed, found, {"name": "here", "action": "Allow", "through": {"pops": [here]}})
        assert eventually(lambda: placed() == {pops[here]})
        assert eventually(lambda: answers(found))
        policy(bed, found, {"name": "nowhere", "action": "Allow", "through": {"pops": ["nowhere"]}})
        assert eventually(lambda: not placed())
        assert not answers(found)
        (connection,) = bed.connections(found.service)
        scheduled = next(one for one in connection["status"]["conditions"] if one["type"] == "Scheduled")
        assert scheduled["reason"] == "NoServerAllowed"
        bed.kubectl("delete", "drtpaccesspolicy", found.service, "-n", found.namespace)
        assert eventually(lambda: placed() == set(pops.values()))
        assert eventually(lambda: answers(found))


def by_one_pop(bed: Bed, *services: Serving) -> None:
    """What is counted at each POP is one count where all visitors go through the same."""
    here = min(one["spec"]["pop"] for one in bed.objects("drtpservers"))
    for one in services:
        policy(bed, one, {"name": "here", "action": "Allow", "through": {"pops": [here]}})
    assert eventually(lambda: len({bed.primary(one.service) for one in services}) == 1, 30)
    assert eventually(lambda: all(is_enforced(bed, one) for one in services), 30)


MB = 1_000_000
FILM = random.Random(7).randbytes(6 * MB)


def film(visitor: socket.socket, _peer: Any) -> None:
    """Sends all of it to each who comes, and has no use for what they say."""
    with visitor, suppress(OSError):
        visitor.sendall(FILM)
        visitor.shutdown(socket.SHUT_WR)
        visitor.recv(1)


def downloaded(of: Serving) -> float:
    """Fetches the film, whole, in so many seconds."""
    began = time.monotonic()
    with socket.create_connection(of.endpoint, timeout=30) as visitor:
        assert read_all(visitor) == FILM
    return time.monotonic() - began


@pytest.mark.alone
def test_a_download_through_a_limited_service_takes_its_time_and_comes_whole_and_a_neighbour_is_not_slowed(
    bed: Bed,
) -> None:
    anybody = {"name": "anybody", "action": "Allow"}
    with serving(bed, "films", film) as films, serving(bed, "neighbour", film) as neighbour:
        assert downloaded(films) < 1.5
        policy(bed, films, anybody, limits={"bytesPerSecond": 2 * MB})
        assert eventually(lambda: is_enforced(bed, films))
        with ThreadPoolExecutor() as pool:
            slow = pool.submit(downloaded, films)
            assert downloaded(neighbour) < 1.5
            assert not slow.done()
            # Two megabytes are the burst, the other four take a second each two.
            assert 1.8 <= slow.result() <= 4.0
        with ThreadPoolExecutor() as pool:
            slow = pool.submit(downloaded, films)
            policy(bed, films, anybody, limits={"bytesPerSecond": 100 * MB})
            assert slow.result() < 5.0
        policy(bed, films, anybody)
        assert eventually(lambda: is_enforced(bed, films))
        assert downloaded(films) < 1.5


@pytest.mark.alone
def test_a_projects_rate_is_one_for_all_its_services_at_a_pop_and_ends_with_its_quota(bed: Bed) -> None:
    with serving(bed, "first", film) as first, serving(bed, "second", film) as second:
        by_one_pop(bed, first, second)
        where = ("-n", first.namespace)
        bed.kubectl("create", "quota", "slow", "--hard=datumapis.com/bytes-per-second=4M", *where)
        try:
            # Six megabytes, of which four are the burst.
            assert eventually(lambda: downloaded(first) > 0.4)
            began = time.monotonic()
            with ThreadPoolExecutor() as pool:
                for one in [pool.submit(downloaded, service) for service in (first, second)]:
                    one.result()
            assert 2.0 <= time.monotonic() - began <= 5.0
        finally:
            bed.kubectl("delete", "quota", "slow", *where)
        assert eventually(lambda: downloaded(second) < 0.4)


def test_a_projects_visitors_are_counted_over_all_its_services(bed: Bed) -> None:
    with serving(bed, "one-of-few") as first, serving(bed, "other-of-few") as second:
        by_one_pop(bed, first, second)
        where = ("-n", first.namespace)
        with socket.create_connection(first.endpoint, timeout=5) as visitor:
            visitor.sendall(b"ping")
            assert visitor.recv(10) == b"ping"
            bed.kubectl("create", "quota", "few", "--hard=datumapis.com/streams=1", *where)
            try:
                assert eventually(lambda: not answers(second))
                visitor.sendall(b"ping")
                assert visitor.recv(10) == b"ping"
                visitor.close()
                assert eventually(lambda: answers(second))
            finally:
                bed.kubectl("delete", "quota", "few", *where)
