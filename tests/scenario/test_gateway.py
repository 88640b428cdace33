"""What a Gateway gives besides shared names and ports: an owner's own certificate, whole addresses."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

from scenario.bed import Bed, echo, eventually, free_port, require, tcp_service

DEDICATED = "datumapis.com/dedicated-addresses"


def test_an_owners_own_certificate_serves_its_name(bed: Bed, tmp_path: Path) -> None:
    name, public = "own-tls.prism.localhost", free_port()
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    subprocess.run(
        [require("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-keyout", str(key), "-out", str(cert), "-subj", f"/CN={name}",
         "-addext", f"subjectAltName=DNS:{name}"],
        check=True, capture_output=True,
    )  # fmt: skip

    def page(visitor: socket.socket, _peer: object) -> None:
        while visitor.recv(65536):
            visitor.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown")

    with tcp_service(page) as port:
        serving = bed.serve(f"localhost:{port}", "--name", "own-tls")
        space = serving.namespace
        bed.kubectl("create", "secret", "tls", "own-tls", "-n", space, f"--cert={cert}", f"--key={key}")
        listener = {
            "name": "https",
            "protocol": "HTTPS",
            "port": public,
            "hostname": name,
            "tls": {"mode": "Terminate", "certificateRefs": [{"name": "own-tls"}]},
        }
        gateway = {"name": "global", "namespace": "datum-system"}
        route = {
            "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "own-tls"}],
            "hostnames": [name],
            "rules": [{"backendRefs": [{"group": "datumapis.com", "kind": "DRTPService", "name": serving.service}]}],
        }
        for kind, spec in (("ListenerSet", {"parentRef": gateway, "listeners": [listener]}), ("HTTPRoute", route)):
            document = {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": kind,
                "metadata": {"name": "own-tls", "namespace": space},
                "spec": spec,
            }
            bed.kubectl("apply", "-f", "-", stdin=json.dumps(document))

        def answered() -> bool:
            done = subprocess.run(
                [require("curl"), "-s", "--max-time", "5", "--cacert", str(cert), f"https://{name}:{public}/"],
                capture_output=True,
                check=False,
            )
            return done.stdout == b"own"

        assert eventually(answered, 15)
        for kind in ("httproute", "listenerset", "secret"):
            bed.kubectl("delete", kind, "own-tls", "-n", space)
        serving.stop()


def test_a_dedicated_address_has_every_port_to_itself(bed: Bed) -> None:
    annotate = ("annotate", "gateway", "global", "-n", "datum-system", "--overwrite")
    bed.kubectl(*annotate, f"{DEDICATED}=127.77.0.0/30")
    with tcp_service(echo) as port:
        serving = bed.serve(
            f"tcp://localhost:{port}", "--name", "dedicated", "--address", "127.77.0.1", "--port", "5432"
        )
        assert serving.endpoint == ("127.77.0.1", 5432)
        with socket.create_connection(serving.endpoint, timeout=10) as visitor:
            visitor.sendall(b"mine")
            assert visitor.recv(10) == b"mine"
        serving.stop()
    bed.kubectl("delete", "drtpservice", "dedicated", "-n", "default")
    bed.kubectl(*annotate[:-1], f"{DEDICATED}-")
