"""The scenario bed: a whole DRTP on this machine, started as a user would start it, and the things visitors do to it.

Nothing here reaches into the product: it starts commands, reads what they print and opens sockets.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

BIN = Path(sys.executable).parent
READY_DEADLINE_S = 60.0
EVENT_DEADLINE_S = 30.0
HOP = os.environ.get("DRTP_BED_HOP", "")
"""How gateways reach POPs in beds that do not say it themselves: `mtls` or `unix`; "" is the usual of `drtp up`."""


def require(program: str) -> str:
    """The path of a program that a test drives. Skips by name on a user's machine, fails in CI."""
    candidates = [shutil.which(program), *sorted(str(p) for p in Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))]
    for candidate in candidates:
        if candidate:
            return candidate
    if os.environ.get("CI") == "true":
        pytest.fail(f"{program} is not installed, and CI must not skip")
    pytest.skip(f"{program} is not installed")


def eventually(check: Any, deadline_s: float = EVENT_DEADLINE_S, pause_s: float = 0.02) -> Any:
    """The first true answer of `check`, asked until the deadline; its last answer or error otherwise."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            answer = check()
        except (OSError, AssertionError, subprocess.SubprocessError):
            if time.monotonic() > end:
                raise
        else:
            if answer:
                return answer
            if time.monotonic() > end:
                raise AssertionError(f"still {answer!r} after {deadline_s} s: {check}")
        time.sleep(pause_s)


def killed(victim: psutil.Process) -> float:
    """`kill -9`; the instant at which the kernel had done it: before that the process may still answer."""
    victim.kill()
    eventually(lambda: _is_gone(victim), 5, 0.001)
    return time.monotonic()


def _is_gone(victim: psutil.Process) -> bool:
    try:
        # Its sockets close when its last thread ends; the first one may be a zombie before that.
        return victim.status() == psutil.STATUS_ZOMBIE and victim.num_threads() <= 1
    except psutil.NoSuchProcess:
        return True


def free_port(first: int = 10000, last: int = 32767) -> int:
    """A port of the vended range that nobody holds on this machine now."""
    for port in random.sample(range(first, last + 1), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


class Lines:
    """A process' output, line by line, with a deadline on each wait."""

    def __init__(self, stream: IO[str]) -> None:
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.seen: list[str] = []
        threading.Thread(target=self._pump, args=(stream,), daemon=True).start()

    def _pump(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.seen.append(line.rstrip("\n"))
                self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def next(self, deadline_s: float = EVENT_DEADLINE_S) -> str:
        line = self._queue.get(timeout=deadline_s)
        if line is None:
            raise EOFError("the process has closed its output")
        return line


class Program:
    """A started command: events or lines on stdout, stderr kept for the failure message."""

    def __init__(self, argv: Sequence[str | Path], env: dict[str, str], cwd: Path | None = None) -> None:
        self.argv = [str(part) for part in argv]
        self.process = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd=cwd,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out = Lines(self.process.stdout)
        self.err = Lines(self.process.stderr)

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self, deadline_s: float = EVENT_DEADLINE_S) -> str:
        try:
            return self.out.next(deadline_s)
        except (EOFError, queue.Empty) as error:
            raise AssertionError(self.story()) from error

    def event(self, name: str, deadline_s: float = EVENT_DEADLINE_S) -> dict[str, Any]:
        """The next JSON event of this name; others are passed over."""
        end = time.monotonic() + deadline_s
        while True:
            value = json.loads(self.line(max(0.01, end - time.monotonic())))
            if value.get("event") == name:
                return value

    def story(self) -> str:
        """What the process said, for a failing test."""
        return "\n".join(
            [
                " ".join(self.argv),
                f"exit: {self.process.poll()}",
                *self.out.seen[-20:],
                "--- stderr",
                *self.err.seen[-60:],
            ]
        )

    def stop(self, how: signal.Signals = signal.SIGTERM, deadline_s: float = 20.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            self.process.wait(5)
            raise AssertionError(f"did not stop within {deadline_s} s\n{self.story()}") from error


@dataclass
class Serving:
    """A running `datumctl serve` and what it announced."""

    program: Program
    service: str
    namespace: str
    address: str
    pops: list[str]
    seconds: float

    @property
    def host(self) -> str:
        """Host name (and port) of the address, as the Host header carries it."""
        return self.address.split("//", 1)[-1].rstrip("/")

    @property
    def name(self) -> str:
        return self.host.rsplit(":", 1)[0]

    @property
    def endpoint(self) -> tuple[str, int]:
        """(address, port) of a TCP service."""
        host, port = self.host.rsplit(":", 1)
        return host.strip("[]"), int(port)

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        return self.program.stop(how)


@dataclass
class Bed:
    """A running `drtp up` with its own data directory."""

    directory: Path
    options: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    """Goes before each command: `few_descriptors(256)`, for instance."""
    environment: dict[str, str] = field(default_factory=dict)
    """Of every command, beside the usual."""
    ready: dict[str, Any] = field(default_factory=dict)
    programs: list[Program] = field(default_factory=list)
    up: Program | None = None

    # ---- the parts

    @property
    def env(self) -> dict[str, str]:
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DRTP_", "DATUM_", "KUBE"))}
        own = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "PYTHONUNBUFFERED": "1"}
        return {**kept, **own, **self.environment}

    def start(self) -> Bed:
        ports = ("--http-port", "0", "--https-port", "0", "--api-port", "0")
        hop = ("--hop", HOP) if HOP and "--hop" not in self.options else ()
        settings = (*ports, *hop, *self.options, "--output", "json")
        argv = [*self.launcher, BIN / "drtp", "up", "--data-dir", self.data, *settings]
        self.up = Program(argv, self.env)
        self.ready = self.up.event("ready", READY_DEADLINE_S)
        return self

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def close(self) -> None:
        for program in reversed(self.programs):
            with contextlib.suppress(AssertionError):
                program.stop(signal.SIGINT)
        if self.up is not None:
            self.up.stop(signal.SIGTERM, 30.0)

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this bed: its supervisor's descendants and whoever names its directory."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(self.data) in line and process.pid != os.getpid():
                found.append(process)
        return found

    def pop(self, name: str) -> dict[str, Any]:
        return next(p for p in self.ready["pops"] if p["name"] == name)

    def part(self, name: str) -> psutil.Process:
        """The process that is a part now: `controlplane`, `gateway`, `envoy`, or a POP by its server's name."""
        if name == "envoy":
            return psutil.Process(json.loads((self.data / "gateway" / "envoy.process.json").read_text())["pid"])
        labels = {pop["name"]: f"pop-{number}" for number, pop in enumerate(self.ready["pops"], 1)}
        told = json.loads((self.data / "run" / f"{labels.get(name, name)}.json").read_text())
        return psutil.Process(told["pid"])

    def restart(self, *parts: str, deadline_s: float = 180.0) -> list[dict[str, Any]]:
        """`drtp restart PART…`: returns when each serves again; gives what was said of them."""
        argv = [str(BIN / "drtp"), "restart", *parts, "--data-dir", str(self.data), "--output", "json"]
        done = subprocess.run(argv, capture_output=True, text=True, env=self.env, timeout=deadline_s, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def parts(self) -> dict[str, psutil.Process]:
        """Every process of `drtp up` by its name now, supervisor and Envoy included."""
        assert self.up is not None
        found = {"supervisor": psutil.Process(self.up.pid)}
        for told in sorted((self.data / "run").glob("*.json")):
            found[told.stem] = psutil.Process(json.loads(told.read_text())["pid"])
        return found | {"envoy": self.part("envoy")}

    # ---- people

    def kubectl(self, *argv: str, stdin: str | None = None, check: bool = True, timeout: float = 60) -> str:
        done = subprocess.run(
            [require("kubectl"), "--kubeconfig", self.ready["kubeconfig"], *argv],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.env,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(argv)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def datumctl(self, *argv: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(BIN / "datumctl"), "--context", self.ready["context"], *argv],
            capture_output=True,
            text=True,
            env=self.env,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"datumctl {' '.join(argv)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def run(self, *argv: str, env: dict[str, str] | None = None) -> Program:
        program = Program(
            [*self.launcher, BIN / "datumctl", "--context", self.ready["context"], *argv], {**self.env, **(env or {})}
        )
        self.programs.append(program)
        return program

    def serve(self, target: str, *options: str, env: dict[str, str] | None = None) -> Serving:
        """`datumctl serve TARGET …`, ready."""
        program = self.run("serve", *([target] if target else []), *options, "--output", "json", env=env)
        event = program.event("ready", 30.0)
        return Serving(program, event["service"], event["namespace"], event["address"], event["pops"], event["seconds"])

    def objects(self, kind: str) -> list[dict[str, Any]]:
        """Every object of a kind, of all namespaces."""
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-A", "-o", "json"))["items"]
        return items

    def connections(self, service: str) -> list[dict[str, Any]]:
        """The DRTPConnections of a service."""
        return [c for c in self.objects("drtpconnections") if c["spec"]["serviceRef"]["name"] == service]

    def endpoints(self, service: str) -> dict[tuple[str, str], tuple[str, int]]:
        """Where gateways reach a service now, by (connection, server)."""
        return {
            (connection["metadata"]["name"], server["serverRef"]["name"]): (server["podAddress"], server["podPort"])
            for connection in self.connections(service)
            for server in connection.get("status", {}).get("servers", [])
            if server["clientStatus"] == "Connected"
        }

    def primary(self, service: str) -> str:
        """The POP that visitors go to while all is well."""
        servers = self.connections(service)[0]["status"]["servers"]
        name: str = next(server["serverRef"]["name"] for server in servers if server["role"] == "Primary")
        return name

    # ---- visitors

    @property
    def http(self) -> tuple[str, int]:
        host, port = self.ready["gateway"]["http"].rsplit(":", 1)
        return host, int(port)

    @property
    def https(self) -> tuple[str, int]:
        host, port = self.ready["gateway"]["https"].rsplit(":", 1)
        return host, int(port)

    def trust(self) -> ssl.SSLContext:
        """What a visitor's TLS trusts: the CA that `drtp up` names."""
        return ssl.create_default_context(cafile=self.ready["ca"])

    def curl(self, url: str, *options: str, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        """A visitor with curl; names under .localhost go to loopback by curl's own rule."""
        return subprocess.run(
            [
                require("curl"),
                "--silent",
                "--show-error",
                "--max-time",
                str(int(timeout)),
                "--cacert",
                self.ready["ca"],
                *options,
                url,
            ],
            capture_output=True,
            timeout=timeout + 5,
            check=False,
        )

    def get(self, serving: Serving, path: str = "/", deadline_s: float = 10.0) -> tuple[int, bytes]:
        """One HTTP/1.1 request by a new visitor: (status, body)."""
        host, port = self.http
        with socket.create_connection((host, port), timeout=deadline_s) as visitor:
            visitor.sendall(f"GET {path} HTTP/1.1\r\nHost: {serving.host}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: visitor.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body


def short_certificates(seconds: float, *roles: str) -> dict[str, str]:
    """An environment in which a control plane gives edges of these roles certificates that last so long."""
    places = (str(Path(__file__).parent / "short_certificates"), os.environ.get("PYTHONPATH", ""))
    own = {"BED_CERTIFICATES_S": str(seconds), "BED_CERTIFICATES_OF": " ".join(roles)}
    return {"PYTHONPATH": os.pathsep.join(filter(None, places)), **own}


def few_descriptors(count: int) -> tuple[str, ...]:
    """Starts a command that cannot have more than `count`, nor can its children."""
    return ("/bin/sh", "-c", f'ulimit -n {count}; exec "$@"', "sh")


def read_all(visitor: socket.socket) -> bytes:
    """Everything until the other side's clean end."""
    return b"".join(iter(lambda: visitor.recv(65536), b""))


def read_exactly(visitor: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = visitor.recv(min(65536, count - len(parts)))
        if not part:
            raise EOFError(f"{len(parts)} of {count} bytes, then the end")
        parts += part
    return bytes(parts)


@contextlib.contextmanager
def tcp_service(handle: Any, family: socket.AddressFamily = socket.AF_INET, port: int = 0) -> Generator[int]:
    """A local TCP service: `handle(socket, peer)` in a thread for each visitor; gives its port."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1" if family == socket.AF_INET else "::1", port))
    listener.listen(256)
    visits: list[tuple[socket.socket, threading.Thread]] = []

    def one(visitor: socket.socket, peer: Any) -> None:
        with contextlib.suppress(OSError, EOFError), visitor:
            handle(visitor, peer)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                visitor, peer = listener.accept()
                thread = threading.Thread(target=one, args=(visitor, peer), daemon=True)
                visits.append((visitor, thread))
                thread.start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        accepting.join(5)
        listener.close()
        for visitor, thread in visits:
            with contextlib.suppress(OSError):
                visitor.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            assert not thread.is_alive(), (
                f"{handle} goes on without a visitor: it would take a core from every later test"
            )


def echo(visitor: socket.socket, _peer: Any) -> None:
    """Send back whatever comes, and end when the visitor ends."""
    while data := visitor.recv(65536):
        visitor.sendall(data)
    visitor.shutdown(socket.SHUT_WR)
