"""Backup of a running control plane, and the life that a restore begins."""

from __future__ import annotations

import asyncio
import io
import tarfile
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from drtp.api.audit import AuditLine, AuditWanted
from drtp.api.people import User
from drtp.api.spiffe import PeerRole
from drtp.client.joining import parse_join
from drtp.client.vouching import read_roots, successors
from drtp.issuers.jose import read_token
from drtp.issuers.trail import Trail
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Refused, Terminal
from drtp.main.backup import back_up, record_backup, restore
from drtp.main.controlplane import running_controlplane
from drtp.store.incarnation import KEY
from unit.main.controlplane_bed import operator, settings
from unit.main.test_controlplane import service


async def test_a_restore_brings_everything_back_but_the_secrets(tmp_path: Path) -> None:
    where = settings(tmp_path)
    async with running_controlplane(where, SystemClock()) as tower:
        kept = await tower.store.create(service("kept"))
        _, minted = await operator(where, "POST", "/v1/secrets", {"role": "pop", "name": "pop-1"})
        invited = await tower.invitations.mint("acme", "uid", "viewer", User("joe"), timedelta(days=1))
        _, refresh = await tower.logins.begin("joe")
        signed = read_token(tower.local.keys.sign({}))
        back_up(where.directory, tmp_path / "backup")
        assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
        await tower.store.create(service("lost"))
        bundle, before = tower.authority.bundle_pem, tower.settings
        revision = tower.store.revision
        incarnation = (await tower.store.get(KEY)).object["spec"]["value"]
        with pytest.raises(Terminal, match="DRTP-1007"):
            restore(tmp_path / "backup", where.directory)
    restore(tmp_path / "backup", where.directory)
    async with running_controlplane(where, SystemClock()) as tower:
        assert tower.settings == before
        assert tower.authority.bundle_pem == bundle
        services = (await tower.store.list(kept.key.kind)).items
        assert [stored.key.name for stored in services] == ["kept"]
        assert tower.store.revision > revision
        assert (await tower.store.get(KEY)).object["spec"]["value"] > incarnation
        secret = parse_join(minted["secret"]).secret.reveal()
        with pytest.raises(Refused, match="DRTP-2001"):
            await tower.secrets.admit(secret, "any key", "127.0.0.1")
        with pytest.raises(Refused, match="DRTP-2022"):
            await tower.invitations.admit(invited.secret.reveal(), User("eve"))
        # What was renewed or ended since the backup must not be good again: people sign in again.
        with pytest.raises(Refused, match="DRTP-2032"):
            await tower.logins.refresh(refresh.reveal(), "127.0.0.1")
        assert tower.local.keys.find(signed.kid) is not None
    assert (tmp_path / "cp.before-restore").is_dir()


async def test_a_restore_of_a_backup_from_before_a_rotation_strands_nobody_who_trusts_the_later_root_alone(
    tmp_path: Path,
) -> None:
    where = settings(tmp_path)
    backup = tmp_path / "backup"
    async with running_controlplane(where, SystemClock()) as tower:
        back_up(where.directory, backup)
        await tower.rotation.begin("test", hold=timedelta(), grace=timedelta())
        while tower.authority.state.next:
            await tower.rotation.step("test", force=True)
        trusted = read_roots(tower.authority.bundle_pem)
        name = tower.authority.identity(PeerRole.POP, "p")
        issued = tower.authority.issue(name, ec.generate_private_key(ec.SECP256R1()).public_key())
    restore(backup, where.directory)
    async with running_controlplane(where, SystemClock()) as tower:
        now = SystemClock().now()
        counts = read_roots(tower.authority.bundle_pem)
        assert counts != trusted
        assert successors(trusted, tower.authority.public_bundle_pem, now) == counts
        chain = x509.load_pem_x509_certificates(issued.chain_pem.encode())
        assert tower.authority.verify_edge(chain, now) == name


async def test_backup_and_restore_are_in_the_audit_log_and_the_log_put_aside_is_named(tmp_path: Path) -> None:
    where = settings(tmp_path)
    backup = tmp_path / "backup"
    async with running_controlplane(where, SystemClock()) as tower:
        back_up(where.directory, backup)
        await asyncio.to_thread(record_backup, where.directory, backup)
        lost = tower.audit.head
    record_backup(where.directory, backup)  # nobody runs: written here
    trail = Trail(where.directory / "audit" / "audit.log")
    made = [msgspec.json.decode(raw, type=AuditLine) for raw in trail.page(AuditWanted(event="backup made")).lines]
    assert [line.fields["file"] for line in made] == [str(backup)] * 2
    assert made[1].hash == lost
    restore(backup, where.directory)
    (said,) = trail.page(AuditWanted(event="control plane restored")).lines
    assert msgspec.json.decode(said, type=AuditLine).fields["aside"] == made[0].hash
    assert trail.verify().sound


async def test_a_restore_onto_an_empty_machine_works(tmp_path: Path) -> None:
    async with running_controlplane(settings(tmp_path), SystemClock()) as tower:
        kept = await tower.store.create(service("kept"))
        back_up(tower.settings.directory, tmp_path / "backup")
    other = settings(tmp_path / "other")
    other.directory.parent.mkdir()
    restore(tmp_path / "backup", other.directory)
    async with running_controlplane(other, SystemClock()) as tower:
        assert (await tower.store.get(kept.key)).uid == kept.uid


async def test_nonsense_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    where = settings(tmp_path)
    async with running_controlplane(where, SystemClock()) as tower:
        kept = await tower.store.create(service("kept"))
    (tmp_path / "nonsense").write_bytes(b"nonsense" * 1000)
    for path in (tmp_path / "nonsense", tmp_path / "missing"):
        with pytest.raises(Terminal, match="DRTP-1008"):
            restore(path, where.directory)
    with pytest.raises(Terminal, match="DRTP-7048"):
        back_up(tmp_path / "nowhere", tmp_path / "backup")
    async with running_controlplane(where, SystemClock()) as tower:
        assert await tower.store.get(kept.key)


def archive(path: Path, *members: tarfile.TarInfo) -> Path:
    """A backup as somebody else may have made it: a store, and `members` without content."""
    with tarfile.open(path, "w") as written:
        store = tarfile.TarInfo("store/drtp.db")
        store.size = 4
        written.addfile(store, io.BytesIO(b"data"))
        for member in members:
            written.addfile(member, io.BytesIO(b""))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A link as a member."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "member",
    [
        link("authority", "/etc"),
        link("authority", "../outside"),
        link("authority/key.pem", "../store/drtp.db"),
        link("authority/key.pem", "store/drtp.db", tarfile.LNKTYPE),
        tarfile.TarInfo("../escaped"),
        tarfile.TarInfo("/tmp/drtp-escaped"),
        link("pipe", "", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}-{member.linkname}",
)
def test_a_restore_follows_no_link_and_leaves_its_directory_nowhere_cve_2026_42275(
    tmp_path: Path, member: tarfile.TarInfo
) -> None:
    where = tmp_path / "cp"
    where.mkdir()
    (where / "settings").write_text("kept")
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    with pytest.raises(Terminal, match="DRTP-1008"):
        restore(archive(tmp_path / "backup", member), where)
    assert (where / "settings").read_text() == "kept"
    assert list(outside.iterdir()) == []
    assert outside.stat().st_mode & 0o777 == 0o755
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "cp.before-restore").exists()


async def test_a_backup_of_a_linked_authority_says_that_it_would_hold_none_cve_2026_42275(tmp_path: Path) -> None:
    where = settings(tmp_path)
    async with running_controlplane(where, SystemClock()):
        pass
    (where.directory / "authority").rename(tmp_path / "elsewhere")
    (where.directory / "authority").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Terminal, match="DRTP-1008"):
        back_up(where.directory, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
