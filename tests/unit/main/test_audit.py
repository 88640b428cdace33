"""`datumctl audit` and `drtp audit`, as people run them against a control plane that runs."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from drtp.api.people import SYSTEM_MASTERS
from drtp.client.context import Context, save_context
from drtp.kit.secret import Secret
from drtp.main.settings import ControlPlaneSettings
from unit.main.controlplane_bed import operator, process, settings


async def command(*argv: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Exit status, stdout, stderr of `datumctl …` or `drtp …`."""
    module = {"datumctl": "drtp.main.datumctl", "drtp": "drtp.main.operator"}[argv[0]]
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *argv[1:],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": "src"},
    )
    out, err = await child.communicate(stdin)
    assert child.returncode is not None
    return child.returncode, out, err.decode()


async def context(where: ControlPlaneSettings, path: Path, ask: dict[str, Any]) -> str:
    """The file of somebody who has what the operator's socket gives for `ask`."""
    _, access = await operator(where, "GET", "/v1/access")
    _, minted = await operator(where, "POST", "/v1/tokens", ask)
    save_context(path, Context(api=access["api"], ca_pem=access["ca"].encode(), token=Secret(minted["token"])))
    return str(path)


async def test_the_commands_list_verify_and_export_and_an_export_holds_by_itself(tmp_path: Path) -> None:
    where = settings(tmp_path)
    async with process(where) as (_child, _ready):
        ask = {"name": "joe", "namespaces": ["default"], "role": "admin"}
        owner = await context(where, tmp_path / "owner.json", ask)
        ask = {"name": "root", "namespaces": [], "groups": [SYSTEM_MASTERS]}
        everywhere = await context(where, tmp_path / "operator.json", ask)

        status, out, err = await command("datumctl", "--context", owner, "audit", "list", "--event", "role")
        assert status == 0, err
        assert b"role granted" in out and b"User joe" in out
        status, out, err = await command("datumctl", "--context", owner, "audit", "verify")
        assert (status, out) == (0, b""), err
        assert "The audit log holds: every line sound" in err
        status, _, err = await command("datumctl", "--context", owner, "audit", "list", "-A")
        assert status == 77
        assert "DRTP-1012" in err

        status, whole, err = await command("datumctl", "--context", everywhere, "audit", "export", "-A")
        assert status == 0, err
        export = tmp_path / "export.jsonl"
        export.write_bytes(whole)
        status, _, err = await command("datumctl", "audit", "verify", str(export))
        assert status == 0, err
        lines = whole.splitlines(keepends=True)
        export.write_bytes(b"".join(lines[:2] + lines[3:]))
        status, _, err = await command("datumctl", "audit", "verify", str(export))
        assert status == 1
        assert "line 3 does not follow" in err and "DRTP-2041" in err
        export.write_bytes(b"".join(lines[:-1]))
        head = msgspec.json.decode(lines[-1])["hash"]
        status, _, err = await command("datumctl", "audit", "verify", "--head", head, str(export))
        assert status == 1
        assert "DRTP-2043" in err

        status, part, err = await command("datumctl", "--context", owner, "audit", "export", "--event", "role")
        assert status == 0, err
        assert {msgspec.json.decode(line).get("event", "") for line in part.splitlines()} == {"", "role granted"}
        export.write_bytes(part.replace(b"User joe", b"User eve"))
        status, _, err = await command("datumctl", "audit", "verify", str(export))
        assert status == 1

        data = ("--data-dir", str(where.directory))
        status, out, err = await command("drtp", "audit", "verify", *data, "--output", "json")
        assert status == 0, err
        assert msgspec.json.decode(out)["sound"]
    status, out, err = await command("drtp", "audit", "list", *data, "--event", "user authenticated")
    assert status == 0, err
    assert b"token" in out
    path = where.directory / "audit" / "audit.log"
    path.write_bytes(path.read_bytes().replace(b"user authenticated", b"user unthenticated", 1))
    status, _, err = await command("drtp", "audit", "verify", *data)
    assert status == 1
    assert "of audit.log is not what was written" in err and "DRTP-2041" in err
