"""`drtp ca`, as an operator runs it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from unit.main.controlplane_bed import process, settings
from unit.main.test_audit import command


async def test_the_commands_tell_rotate_refuse_step_and_return(tmp_path: Path) -> None:
    where = settings(tmp_path)
    data = ("--data-dir", str(where.directory))
    async with process(where):
        status, out, err = await command("drtp", "ca", "status", *data)
        assert status == 0, err
        assert b"active" in out and b"controlplane" in out and b"Next step" not in out
        status, _, err = await command("drtp", "ca", "step", *data)
        assert "DRTP-2046" in err and status != 0
        status, out, err = await command("drtp", "ca", "rotate", *data, "--output", "json")
        assert status == 0, err
        assert {one["number"] for one in msgspec.json.decode(out)["intermediates"]} <= {2}

        status, out, err = await command("drtp", "ca", "rotate", "--root", "--hold", "12h", *data)
        assert status == 0, err
        assert b"Init: edges learn to trust both roots." in out and b"next" in out
        status, _, err = await command("drtp", "ca", "rotate", "--root", *data)
        assert "DRTP-2045" in err and status != 0
    # The next life goes on, and holds the time that was given.
    async with process(where):
        status, _, err = await command("drtp", "ca", "step", "--force", *data)
        assert status == 0, err
        status, out, err = await command("drtp", "ca", "status", *data, "--output", "json")
        state = msgspec.json.decode(out)
        if state["phase"] == "UpdateClients":
            status, _, err = await command("drtp", "ca", "step", *data)
            assert status == 1, err
            assert "DRTP-2047" in err and "Not before" in err
        status, out, err = await command("drtp", "ca", "rollback", *data)
        assert status == 0, err
        status, _, err = await command("drtp", "audit", "list", *data, "--event", "authority", "--output", "json")
        assert status == 0, err
    for wrong in (("--compromised",), ("--root", "--hold", "soon")):
        status, _, err = await command("drtp", "ca", "rotate", *wrong, *data)
        assert status == 64, err
