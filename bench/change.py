"""The control plane's share: from an HTTPRoute's creation through the API to Envoy serving it.

An agent already serves; each round creates a route with a hostname of its own and asks for it until it answers.
"""

from __future__ import annotations

import http.client
import os
import socket
import time
from typing import Any

from bench.figures import table
from scenario.bed import Bed, tcp_service
from scenario.fleet import Api

ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes"


def _route(name: str, service: str) -> dict[str, Any]:
    backend = {"group": "datumapis.com", "kind": "DRTPService", "name": service}
    spec = {
        "parentRefs": [{"name": "global", "namespace": "datum-system"}],
        "hostnames": [f"{name}.prism.localhost"],
        "rules": [{"backendRefs": [backend]}],
    }
    metadata = {"name": name}
    api = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute"}
    return {**api, "metadata": metadata, "spec": spec}


def _page(visitor: socket.socket, _peer: object) -> None:
    """What the agent serves: every request has the same answer."""
    while visitor.recv(65536):
        visitor.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def _served(visitor: http.client.HTTPConnection, host: str) -> bool:
    visitor.request("GET", "/", headers={"Host": host})
    answer = visitor.getresponse()
    answer.read()
    return answer.status == http.client.OK


def run(bed: Bed, count: int) -> str:
    """`count` routes, one after the other."""
    seconds: list[float] = []
    with tcp_service(_page) as port:
        serving = bed.serve(f"localhost:{port}", "--name", "bench-change")
        api = Api(bed)
        visitor = http.client.HTTPConnection(*bed.http, timeout=10)
        path = ROUTES.format(namespace=serving.namespace)
        for number in range(count):
            name = f"bench-change-{number}"
            begin = time.monotonic()
            api.call("POST", path, _route(name, serving.service))
            created = time.monotonic()
            while not _served(visitor, f"{name}.prism.localhost"):
                if time.monotonic() - begin > 30:
                    raise TimeoutError(name)
            seconds.append(time.monotonic() - created)
        serving.stop()
    return table(
        f"HTTPRoute created to Envoy serving ({os.cpu_count()} cores)", {"create to serve": seconds}, "seconds"
    )
