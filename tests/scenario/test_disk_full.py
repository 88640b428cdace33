"""A full disk. What is there goes on, what is new is refused with words, and room is all it takes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scenario.bed import BIN, READY_DEADLINE_S, Bed, Program, echo, eventually, tcp_service
from scenario.load import local_service, tcp, visitors

ROOM = {"controlplane": "6m", "pops": "2m", "gateway": "24m"}
"""Directories that get a small disk each. The gateway's holds Envoy's logs."""


def mounting() -> tuple[str, ...]:
    """The command that gives a program mounts of its own. Skips by name where that is not allowed, fails in CI."""
    for how in (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount")):
        with contextlib.suppress(OSError):
            trial = [*how, "mount", "-t", "tmpfs", "none", "/mnt"]
            if subprocess.run(trial, capture_output=True, timeout=10, check=False).returncode == 0:
                return how
    if os.environ.get("CI") == "true":
        pytest.fail("a tmpfs cannot be mounted, and CI must not skip")
    pytest.skip("a tmpfs cannot be mounted: needs root, or user namespaces")


class SmallDisks(Bed):
    """A bed whose control plane, POPs and gateway have a small disk each, which nobody else sees."""

    def start(self) -> Bed:
        mounts = [
            f"mkdir -p {self.data}/{name} && mount -t tmpfs -o size={size},mode=0700 none {self.data}/{name}"
            for name, size in ROOM.items()
        ]
        self.data.mkdir(mode=0o700)
        ports = ("--http-port", "0", "--https-port", "0", "--api-port", "0")
        up = [BIN / "drtp", "up", "--data-dir", self.data, *ports, *self.options, "--output", "json"]
        script = " && ".join([*mounts, 'exec "$@"'])
        self.up = Program([*mounting(), "sh", "-c", script, "sh", *up], self.env)
        self.ready = self.up.event("ready", READY_DEADLINE_S)
        return self

    def disk(self, name: str) -> Path:
        """A part's disk, as this process can reach it."""
        return Path(f"/proc/{self.ready['controlplane']['pid']}/root") / str(self.data / name).lstrip("/")

    def fill(self, name: str) -> Path:
        """Take every byte that is left. Gives what to remove."""
        ballast = self.disk(name) / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass
        assert shutil.disk_usage(self.disk(name)).free == 0
        return ballast

    def log(self, part: str) -> str:
        return (self.data / "logs" / f"{part}.log").read_text()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisks]:
    bed = SmallDisks(tmp_path)
    try:
        bed.start()
        yield bed
    finally:
        bed.close()


def allow(bed: Bed, service: str, cidr: str, *, check: bool = True) -> str:
    patch = json.dumps({"spec": {"edgeAllowlist": [cidr]}})
    return bed.kubectl("patch", "drtpservice", service, "-n", "default", "--type=merge", "-p", patch, check=check)


@pytest.mark.timeout(180)
def test_a_full_disk_stops_writes_with_words_and_nothing_else(small: SmallDisks) -> None:
    with local_service() as port, tcp_service(echo) as other:
        kept = small.serve(f"tcp://localhost:{port}", "--name", "kept")
        with visitors(tcp(kept.endpoint, per_s=30.0, stay_s=0.5)) as load:
            ballast = small.fill("controlplane")
            load.run_on(0.5)
            filler = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "big", "namespace": "default"}}
            big = json.dumps({**filler, "stringData": {"a": "x" * 200_000}})
            done = subprocess.run(
                ["kubectl", "--kubeconfig", small.ready["kubeconfig"], "create", "-f", "-"],
                input=big, capture_output=True, text=True, env=small.env, timeout=30, check=False,
            )  # fmt: skip
            assert done.returncode == 1
            assert "DRTP-1006" in done.stderr and "Make room on the disk" in done.stderr, done.stderr
            # Reads go on, and edges stay: none was told anything else than before.
            small.kubectl("get", "drtpservices", "-A")
            assert small.datumctl("status").stdout
            load.run_on(0.5)
            ballast.unlink()
            # Room is all it takes.
            small.kubectl("create", "-f", "-", stdin=big)
            late = small.serve(f"tcp://localhost:{other}", "--name", "late")

            for disk in ("pops", "gateway"):
                small.fill(disk)
            allow(small, "late", "203.0.113.0/24")
            eventually(lambda: _refused(late.endpoint))
            eventually(lambda: "snapshot not persisted" in small.log("pop-1"))
            eventually(lambda: "snapshot not persisted" in small.log("gateway"))
            new = small.run("serve", f"tcp://localhost:{other}", "--name", "new", "--output", "json")
            eventually(lambda: "endpoint ports not written down" in small.log("pop-1"))
            load.run_on(0.5)
            for disk in ("pops", "gateway"):
                (small.disk(disk) / "ballast").unlink()
            new.event("ready", 30)
            load.run_on(0.5)
        crowd = load.crowd()
        print("visitors while disks were full:", crowd)
        assert crowd.failed == []
        assert small.ready["controlplane"]["pid"] in {process.pid for process in small.processes()}
        assert small.up is not None
        assert small.up.stop(signal.SIGTERM, 30) == 0


def _refused(endpoint: tuple[str, int]) -> bool:
    import socket

    try:
        with socket.create_connection(endpoint, timeout=2) as visitor:
            visitor.sendall(b"?")
            return visitor.recv(10) == b""
    except OSError:
        return True
