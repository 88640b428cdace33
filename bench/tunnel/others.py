"""Two HAProxy: two relays without a tunnel."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

from bench.tunnel.load import Address
from bench.tunnel.ways import Opens, Way, answers, free_port, running


def haproxy_pair(program: str) -> Opens:
    """Two HAProxy in TCP mode, one behind the other: what two relays cost without a tunnel's protocol."""

    @contextlib.contextmanager
    def open_path(service: Address, scratch: Path) -> Generator[Way]:
        ports = [free_port(), free_port()]
        hops = [(ports[0], ports[1]), (ports[1], service[1])]
        with contextlib.ExitStack() as stack:
            pids: list[int] = []
            for number, (listen, forward) in enumerate(hops):
                config = scratch / f"haproxy-{number}.cfg"
                config.write_text(
                    "global\n  maxconn 8000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n"
                    f"  timeout server 60s\nlisten relay\n  bind 127.0.0.1:{listen}\n"
                    f"  server next 127.0.0.1:{forward}\n"
                )
                argv = [program, "-db", "-f", config]
                pids.append(stack.enter_context(running(argv, scratch / f"haproxy-{number}.log")).pid)
            answers(("127.0.0.1", ports[0]))
            yield Way(("127.0.0.1", ports[0]), tuple(pids))

    return open_path
