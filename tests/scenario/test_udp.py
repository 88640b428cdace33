"""UDP as a visitor has it: any size, the true address, many at once, a POP lost, access taken away."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator

import pytest

from scenario.bed import Bed, Serving, eventually, free_port, killed

SILENCE_S = 0.5
"""Whoever is answered at all is answered much sooner."""
CUT_S = 1.0


@contextlib.contextmanager
def udp_service(answer: Callable[[bytes], bytes] = bytes, port: int = 0) -> Generator[int]:
    """A local UDP service in a thread; gives its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        service.bind(("127.0.0.1", port))
        at: tuple[str, int] = service.getsockname()
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                question, visitor = service.recvfrom(65536)
                if not over.is_set():
                    with contextlib.suppress(OSError):
                        service.sendto(answer(question), visitor)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield at[1]
        finally:
            over.set()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", at)
            thread.join(5)


def visitor(serving: Serving, source: str = "127.0.0.1") -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.bind((source, 0))
    found.connect(serving.endpoint)
    found.settimeout(10)
    return found


def ask(someone: socket.socket, question: bytes) -> bytes:
    someone.send(question)
    return someone.recv(65536)


def is_answered(someone: socket.socket, question: bytes = b"?", within_s: float = SILENCE_S) -> bool:
    """Whether a fresh question gets its own answer; late ones to former questions are passed over."""
    question += str(time.monotonic_ns()).encode()
    someone.settimeout(within_s)
    try:
        someone.send(question)
        while someone.recv(65536) != question:
            pass
    except (TimeoutError, ConnectionRefusedError):
        return False
    return True


def test_datagrams_of_every_size_come_back_whole(bed: Bed) -> None:
    with udp_service() as port:
        serving = bed.serve(f"udp://localhost:{port}", "--name", "udp-sizes", "--allow", "127.0.0.1/32")
        with visitor(serving) as someone:
            assert ask(someone, b"prove") == b"prove"
            for size in (0, 1, 512, 1_200, 1_472, 1_500, 9_000, 60_000, 65_507):
                data = bytes(n % 251 for n in range(size))
                assert ask(someone, data) == data, f"{size} bytes"
        service = json.loads(bed.kubectl("get", "drtpservice", "udp-sizes", "-n", serving.namespace, "-o", "json"))
        assert {c["type"]: c["status"] for c in service["status"]["conditions"]}["Ready"] == "True"
        serving.stop()


def test_a_resolver_gets_its_first_answer_though_it_is_thirty_times_the_question(bed: Bed) -> None:
    name = b"\x05files\x04corp\x07example\x00"
    asked = name + struct.pack("!HH", 16, 1)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 16, 1, 60, 256) + b"\xff" + b"t" * 255

    def answer(question: bytes) -> bytes:
        (number,) = struct.unpack("!H", question[:2])
        assert question[12 : 12 + len(asked)] == asked
        return struct.pack("!HHHHHH", number, 0x8580, 1, 4, 0, 0) + asked + 4 * record

    with udp_service(answer) as port:
        serving = bed.serve(f"udp://localhost:{port}", "--name", "udp-dns", "--allow", "127.0.0.1/32")
        for number in range(1, 51):
            # Each question from a port of its own, as resolvers ask.
            with visitor(serving) as resolver:
                said = ask(resolver, struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + asked)
                assert struct.unpack("!HHHHHH", said[:12]) == (number, 0x8580, 1, 4, 0, 0)
                assert said[12:] == asked + 4 * record and len(said) > 1_000
        serving.stop()


def test_both_families_are_received(bed: Bed) -> None:
    allowed = ("--allow", "127.0.0.1/32", "--allow", "::1/128")
    with udp_service() as port:
        serving = bed.serve(f"udp://localhost:{port}", "--name", "udp-six", *allowed)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as someone:
            someone.connect(("::1", serving.endpoint[1]))
            someone.settimeout(10)
            assert ask(someone, b"six") == b"six"
        with visitor(serving) as someone:
            assert ask(someone, b"four") == b"four"
        serving.stop()


def test_who_is_not_on_the_list_gets_nothing(bed: Bed) -> None:
    with udp_service() as port:
        serving = bed.serve(f"udp://localhost:{port}", "--name", "udp-list", "--allow", "127.0.0.1/32")
        with visitor(serving) as allowed, visitor(serving, "127.0.0.2") as stranger:
            assert ask(allowed, b"x") == b"x"
            assert not is_answered(stranger)
            assert is_answered(allowed, within_s=10)
        serving.stop()


def test_a_udp_service_for_everybody_takes_ones_word(bed: Bed) -> None:
    refused = bed.datumctl("serve", "udp://localhost:53", "--name", "udp-open", check=False)
    assert refused.returncode == 64 and "DRTP-7005" in refused.stderr and "--allow" in refused.stderr


def test_the_service_hears_the_true_visitor_by_proxy_v2(bed: Bed) -> None:
    with udp_service() as port:
        serving = bed.serve(
            f"udp://localhost:{port}", "--name", "udp-proxy", "--allow", "127.0.0.0/8", "--proxy-protocol", "v2"
        )
        with visitor(serving, "127.0.0.7") as someone:
            for payload in (b"first", b"second"):
                seen = ask(someone, payload)
                assert seen[:12] == b"\r\n\r\n\0\r\nQUIT\n"
                assert (seen[12], seen[13]) == (0x21, 0x12), "version 2, PROXY; UDP over IPv4"
                (length,) = struct.unpack("!H", seen[14:16])
                source, destination, source_port, port_asked = struct.unpack("!4s4sHH", seen[16:28])
                assert (socket.inet_ntoa(source), source_port) == someone.getsockname()
                assert (socket.inet_ntoa(destination), port_asked) == serving.endpoint
                assert seen[16 + length :] == payload
        serving.stop()


def test_two_hundred_visitors_at_once_each_hear_their_own_answer(bed: Bed) -> None:
    with udp_service() as port:
        serving = bed.serve(f"udp://localhost:{port}", "--name", "udp-crowd", "--allow", "127.0.0.0/8")
        with contextlib.ExitStack() as all_of_them:
            crowd = [all_of_them.enter_context(visitor(serving)) for _ in range(200)]
            for number, someone in enumerate(crowd):
                someone.send(b"%d" % number)
            assert [int(someone.recv(100)) for someone in crowd] == list(range(200))
        serving.stop()


def test_a_narrowed_list_cuts_a_live_flow_within_a_second_and_is_logged(bed: Bed) -> None:
    began = time.time()
    with udp_service() as port:
        serving = bed.serve(f"udp://localhost:{port}", "--name", "udp-cut", "--allow", "127.0.0.0/8")
        with visitor(serving) as someone:
            assert ask(someone, b"x") == b"x"
            patch = json.dumps({"spec": {"edgeAllowlist": ["192.0.2.0/24"]}})
            bed.kubectl("patch", "drtpservice", "udp-cut", "-n", serving.namespace, "--type=merge", "-p", patch)
            since = time.monotonic()
            last = since
            while time.monotonic() - since < CUT_S + 4 * SILENCE_S:
                if is_answered(someone):
                    last = time.monotonic()
            assert last - since <= CUT_S
            mine = someone.getsockname()[1]

        def logged() -> list[dict[str, object]]:
            lines = (bed.data / "gateway" / "access.jsonl").read_text().splitlines()
            # Visitors before this one may have had its port, and those of TCP have it besides.
            ends = [entry for entry in map(json.loads, lines) if entry["event"] == "end" and "sent_datagrams" in entry]
            return [entry for entry in ends if entry["visitor_port"] == mine and entry["at"] >= began]

        entry = eventually(logged)[-1]
        assert entry["visitor"] == "127.0.0.1"
        assert entry["received_datagrams"] >= 1 and entry["sent_datagrams"] >= 1
        serving.stop()


def test_a_deleted_service_closes_its_port(bed: Bed) -> None:
    with udp_service() as port:
        serving = bed.serve(f"udp://localhost:{port}", "--name", "udp-gone", "--allow", "127.0.0.0/8")
        with visitor(serving) as someone:
            assert ask(someone, b"x") == b"x"
            serving.stop()
            bed.kubectl("delete", "drtpservice", "udp-gone", "-n", serving.namespace)

            def is_closed() -> bool:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    probe.bind(serving.endpoint)
                return True

            assert eventually(is_closed)
            assert not is_answered(someone)


def test_a_hand_written_route_works_as_a_tcp_route_does(bed: Bed) -> None:
    public = free_port()
    manifest = f"""
apiVersion: datumapis.com/v1alpha
kind: DRTPService
metadata: {{name: udp-hand, namespace: default}}
spec:
  protocol: UDP
  local: {{host: localhost, port: PORT}}
  edgeAllowlist: [127.0.0.0/8]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {{name: udp-hand, namespace: default}}
spec:
  parentRef: {{name: global, namespace: datum-system}}
  listeners: [{{name: dns, protocol: UDP, port: {public}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {{name: udp-hand, namespace: default}}
spec:
  parentRefs: [{{group: gateway.networking.k8s.io, kind: ListenerSet, name: udp-hand, sectionName: dns}}]
  rules: [{{backendRefs: [{{group: datumapis.com, kind: DRTPService, name: udp-hand}}]}}]
"""
    with udp_service() as port:
        bed.kubectl("apply", "-f", "-", stdin=manifest.replace("PORT", str(port)))
        serving = bed.serve(f"udp://localhost:{port}", "--service", "udp-hand", "--namespace", "default")
        assert serving.endpoint[1] == public
        with visitor(serving) as someone:
            assert ask(someone, b"by hand") == b"by hand"
        for kind, path in (("listenerset", ".status.conditions"), ("udproute", ".status.parents[0].conditions")):
            said = bed.kubectl("get", kind, "udp-hand", "-n", "default", "-o", f"jsonpath={{{path}}}")
            assert all(one["status"] == "True" for one in json.loads(said) if one["type"] != "Conflicted"), said
        serving.stop()
        bed.kubectl("delete", "udproute/udp-hand", "listenerset/udp-hand", "drtpservice/udp-hand", "-n", "default")


@pytest.mark.timeout(180)
def test_a_killed_pop_costs_a_flow_no_more_than_a_moment(new_bed: Callable[..., Bed]) -> None:
    bed = new_bed("--no-restart", "pop")
    with udp_service() as port:
        serving = bed.serve(f"udp://localhost:{port}", "--name", "udp-failover", "--allow", "127.0.0.0/8")
        eventually(lambda: len(bed.endpoints("udp-failover")) == 2)
        with visitor(serving) as someone:
            assert ask(someone, b"x") == b"x"
            since = killed(bed.part(bed.primary("udp-failover")))
            eventually(lambda: is_answered(someone, within_s=0.2), 10)
            assert time.monotonic() - since < 2.5
        serving.stop()
