"""A workload's agent enrols by the token in its file, keeps what it has, and begins anew only when that is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from drtp.client.identity import IdentityStore
from drtp.client.joining import EdgeAddress
from drtp.kit.errors import Invalid, Refused
from drtp.main.datum.enrolling import Enrolment, prepare
from drtp.main.datum.serve_request import ServeRequest, ServeSettings
from unit.edgeserver.edgebed import Bed, edge_bed
from unit.edgeserver.test_enrolment import expire


def enrolment(bed: Bed, token: Path, place: EdgeAddress | None = None, *, predefined: bool = True) -> Enrolment:
    request = ServeRequest("postgres", "joe", None, predefined=predefined)
    settings = ServeSettings((request,), identity_token=token, control_plane=place or bed.address)
    return Enrolment(settings, "joe", bed.directory / "agent", None)


def uid(bed: Bed) -> str:
    held = IdentityStore(bed.directory / "agent").load()
    assert held is not None
    return held.uid


async def test_a_workload_begins_anew_only_where_its_identity_is_over_for_good(tmp_path: Path) -> None:
    async with edge_bed(tmp_path) as bed:
        token = tmp_path / "token"
        token.write_text((await bed.token("joe")).reveal() + "\n")
        await prepare(enrolment(bed, token))
        first = uid(bed)
        token.write_text("nobody's")
        await expire(bed, "agent", 3)
        await prepare(enrolment(bed, token))
        assert uid(bed) == first
        await expire(bed, "agent", 9)
        with pytest.raises(Refused, match="DRTP-2004"):
            await prepare(enrolment(bed, token))
        assert uid(bed) == first, "a refusal takes nothing away"
        token.write_text((await bed.token("joe")).reveal())
        await prepare(enrolment(bed, token))
        assert uid(bed) != first
        assert sorted(one.name for one in (bed.directory / "agent").iterdir() if "identity" in one.name) == ["identity"]


async def test_a_workloads_token_makes_and_changes_no_service(tmp_path: Path) -> None:
    async with edge_bed(tmp_path) as bed:
        token = tmp_path / "token"
        token.write_text("x")
        with pytest.raises(Invalid, match="DRTP-7002"):
            await prepare(enrolment(bed, token, predefined=False))
        for content in (b"", b"\xff\xfe"):
            token.write_bytes(content)
            with pytest.raises(Invalid, match="DRTP-7089"):
                await prepare(enrolment(bed, token))
        token.unlink()
        with pytest.raises(Invalid, match="DRTP-7089"):
            await prepare(enrolment(bed, token))
