"""Every command of the guide runs as written, and every manifest is taken."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from scenario.bed import BIN, Bed, Program, echo, free_port, require, tcp_service

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide"
PORTS = ("8080", "8443", "5432", "5672", "8993", "9080", "15432", "15433", "15672", "10443", "10993", "15353")
PAGES = [
    "README.md",
    *(
        f"docs/guide/{name}.md"
        for name in (
            "serve",
            "networks",
            "connect",
            "database",
            "credentials",
            "routes",
            "tenants",
            "people",
            "catalogue",
            "sites",
        )
    ),
    "docs/operations/README.md",
]
BLOCK = re.compile(r"^```sh ?([a-z-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _elsewhere(text: str, ports: dict[str, str]) -> str:
    for said, free in ports.items():
        text = re.sub(rf"\b{said}\b", free, text)
    return text


def _free_ports(count: int) -> list[str]:
    """As many different ones."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[str(free_port())] = None
    return list(found)


def _assert_echoes(place: str) -> None:
    """What `connect` presents at `address:port` is the service behind it."""
    host, _, port = place.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as visitor:
        visitor.sendall(b"from the partner")
        assert visitor.recv(16) == b"from the partner"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs_as_written(bed: Bed, tmp_path: Path, page: str) -> None:
    """`sh` blocks run to their end, each line of `sh serve` goes on beside them, `sh by-hand` is for people."""
    require("kubectl")
    require("curl")
    require("openssl")
    # The guide's ports may be taken on this machine: a copy of the pages speaks of free ones.
    ports: dict[str, str] = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for manifest in (tmp_path / "docs" / "guide" / "manifests").glob("*.yaml"):
        manifest.write_text(_elsewhere(manifest.read_text(), ports))
    with tcp_service(echo, port=int(ports["5432"])), tcp_service(echo, port=int(ports["8443"])):
        env = {
            **bed.env,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "DRTP_CONTEXT": bed.ready["context"],
            "KUBECONFIG": bed.ready["kubeconfig"],
            "HTTP_PORT": str(bed.http[1]),
            "WORK": str(tmp_path),
            "DATA_DIR": str(bed.data),
        }
        running: list[Program] = []
        try:
            for kind, script in BLOCK.findall((ROOT / page).read_text()):
                here = _elsewhere(script, ports)
                for line in here.splitlines() if kind == "serve" else ():
                    program = Program(["bash", "-euc", f"exec {line}"], env, cwd=tmp_path)
                    running.append(program)
                    if "datumctl" in line:
                        place = program.line(30)
                        assert place
                        if " connect " in line:
                            _assert_echoes(place)
                if kind == "":
                    done = subprocess.run(
                        ["bash", "-euo", "pipefail", "-c", here],
                        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False,
                    )  # fmt: skip
                    assert done.returncode == 0, f"{here}\n{done.stdout}\n{done.stderr}"
        finally:
            for program in reversed(running):
                program.stop()


def test_every_manifest_is_in_the_guide_or_the_readme() -> None:
    text = "".join(page.read_text() for page in [*GUIDE.glob("*.md"), ROOT / "README.md"])
    assert [m.name for m in (GUIDE / "manifests").glob("*.yaml") if f"manifests/{m.name}" not in text] == []


@pytest.mark.parametrize("manifest", sorted(p.name for p in (GUIDE / "manifests").glob("*.yaml")))
def test_the_manifest_is_valid(bed: Bed, manifest: str) -> None:
    bed.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(GUIDE / "manifests" / "namespace.yaml"))
    bed.kubectl("apply", "-f", str(GUIDE / "manifests" / "namespace.yaml"))
    for name in ("joe", "storefront"):
        bed.kubectl("create", "namespace", name, check=False)
    bed.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(GUIDE / "manifests" / manifest))
