"""A fleet of services in one agent, added and left one by one while it runs; and the API, as a script sees it.

"Added" is the time from a service's creation, as a watch of the API sees it, to the first byte of an answer through
gateway, POP and agent, for a visitor who tries as soon as there is an address.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import signal
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from scenario.bed import Bed, Program

SERVICES = "/apis/datumapis.com/v1alpha/namespaces/{namespace}/drtpservices"


class Api:
    """One keep-alive connection with the admin kubeconfig's rights."""

    def __init__(self, bed: Bed) -> None:
        config: Any = yaml.safe_load(Path(bed.ready["kubeconfig"]).read_text())
        user: dict[str, str] = config["users"][0]["user"]
        trust = ssl.create_default_context(cafile=bed.ready["ca"])
        if "client-certificate-data" in user:
            pair = bed.directory / "admin.pem"
            pair.touch(mode=0o600)
            parts = (user["client-certificate-data"], user["client-key-data"])
            pair.write_bytes(b"".join(base64.b64decode(part) for part in parts))
            trust.load_cert_chain(pair)
        elif "client-certificate" in user:
            trust.load_cert_chain(user["client-certificate"], user["client-key"])
        self._headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        where = urlsplit(str(bed.ready["api"]))
        assert where.hostname is not None
        self._connection = http.client.HTTPSConnection(where.hostname, where.port, context=trust)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, form: str = "json") -> dict[str, Any]:
        """One request. Raises: RuntimeError with the answer's words, unless it is of the 2xx."""
        headers = self._headers | {"Content-Type": f"application/{form}"}
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self._connection.getresponse()
        words = answer.read()
        if answer.status // 100 != 2:
            raise RuntimeError(f"{method} {path}: {answer.status} {words.decode()}")
        return json.loads(words)

    def lines(self, path: str) -> http.client.HTTPResponse:
        """The open answer to a watch: one JSON object a line."""
        self._connection.request("GET", path, headers=self._headers)
        return self._connection.getresponse()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class Watched:
    """The services of a project from now on: when each was created, and where it is reached."""

    def __init__(self, bed: Bed, namespace: str) -> None:
        self.created: dict[str, float] = {}
        self.address: dict[str, tuple[str, int]] = {}
        self.placed = threading.Condition()
        self._api = Api(bed)
        # Whatever is there already has its own past: only what comes from here on is told.
        self._path = SERVICES.format(namespace=namespace)
        self._since: str = self._api.call("GET", f"{self._path}?limit=1")["metadata"]["resourceVersion"]
        answer = self._watch()
        threading.Thread(target=self._follow, args=(answer,), daemon=True).start()

    def _watch(self) -> http.client.HTTPResponse:
        return self._api.lines(f"{self._path}?watch=1&allowWatchBookmarks=true&resourceVersion={self._since}")

    def _follow(self, answer: http.client.HTTPResponse) -> None:
        # A control plane that stops says no more, or answers with an error: the past stays as it was told.
        with contextlib.suppress(OSError, http.client.HTTPException):
            while answer.status == http.HTTPStatus.OK and self._note(answer):
                # A watch ends after half an hour or more, and is taken up where it ended.
                answer = self._watch()

    def _note(self, answer: http.client.HTTPResponse) -> bool:
        """Whether the watch goes on where this answer ended."""
        for line in answer:
            now = time.monotonic()
            event = json.loads(line)
            if event["type"] == "ERROR":
                return False
            self._since = event["object"]["metadata"]["resourceVersion"]
            if event["type"] == "BOOKMARK":
                continue
            name = event["object"]["metadata"].get("name", "")
            addresses: list[dict[str, Any]] = event["object"].get("status", {}).get("addresses") or [{}]
            with self.placed:
                if event["type"] == "ADDED":
                    self.created[name] = now
                if event["type"] == "DELETED":
                    self.address.pop(name, None)
                elif "ip" in addresses[0] and name not in self.address:
                    self.address[name] = (addresses[0]["ip"], addresses[0]["port"])
                    self.placed.notify_all()
        return True

    def place(self, name: str, deadline_s: float = 60.0) -> tuple[str, int]:
        """Where a TCP service is reached, as soon as that is known. Raises: TimeoutError."""
        with self.placed:
            if not self.placed.wait_for(lambda: name in self.address, deadline_s):
                raise TimeoutError(f"{name} has no address after {deadline_s} s")
            return self.address[name]


class Fleet:
    """One agent that serves a file, and the file."""

    def __init__(self, bed: Bed, target: int) -> None:
        self._services: dict[str, str] = {}
        self.watched = Watched(bed, "default")
        self.program: Program | None = None
        self._bed = bed
        self._target = target
        self._file = bed.directory / "services.yaml"

    @property
    def names(self) -> list[str]:
        """The services it serves, oldest first."""
        return list(self._services)

    def add(self, name: str, port: int | None = None) -> float:
        """One service more; seconds from its creation to the first answer. `port` asks for that public port."""
        more = "" if port is None else f", port: {port}"
        self._services[name] = f"- {{target: 'tcp://localhost:{self._target}', name: {name}{more}}}\n"
        self._tell()
        return answered(self.watched.place(name)) - self.watched.created[name]

    def leave(self, name: str) -> None:
        """The agent serves it no more; the service itself stays."""
        del self._services[name]
        self._tell()

    def _tell(self) -> None:
        beside = self._file.with_suffix(".new")
        beside.write_text("".join(self._services.values()))
        Path(beside).replace(self._file)
        if self.program is None:
            self.program = self._bed.run("serve", "--file", str(self._file), "--no-inspector", "--output", "json")
        else:
            self.program.process.send_signal(signal.SIGHUP)


def answered(place: tuple[str, int], deadline_s: float = 60.0) -> float:
    """When a visitor who tries again and again has an answer. Raises: TimeoutError."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(place, timeout=5) as visitor:
            visitor.sendall(b"are you there")
            if visitor.recv(1):
                return time.monotonic()
        time.sleep(0.002)
    raise TimeoutError(f"no answer at {place}")
