"""The audit log keeps every line, through rotations and full disks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from drtp.issuers import audit
from drtp.issuers.audit import AuditLine, AuditLog, verify_audit
from drtp.kit.clock import FakeClock
from drtp.kit.errors import Terminal
from drtp.kit.observe import configure_logs
from fulldisk import files_end_at


@pytest.fixture(autouse=True)
def logs_elsewhere() -> Iterator[None]:
    """The files that end early are pytest's too."""
    configure_logs(stream=io.StringIO())
    yield
    structlog.reset_defaults()


def numbers(*files: Path) -> list[int]:
    lines = [msgspec.json.decode(raw, type=AuditLine) for file in files for raw in file.read_bytes().splitlines()]
    return [int(line.fields["number"]) for line in lines if line.event == "happened"]


def newest(path: Path) -> list[Path]:
    """Oldest first."""
    kept = sorted(path.parent.glob("audit.log.*"), key=lambda file: -int(file.suffix[1:]))
    return [*kept, path]


def test_rotation_loses_no_line_keeps_the_chain_and_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "audit.log"
    log = AuditLog(path, FakeClock(), bytes_max=2_000, kept=3)
    for number in range(20):
        log.write("happened", number=number)
    log.close()
    assert len(newest(path)) > 1
    assert numbers(*newest(path)) == list(range(20))
    log = AuditLog(path, FakeClock(), bytes_max=2_000, kept=3)
    for number in range(20, 200):
        log.write("happened", number=number)
    log.close()
    files = newest(path)
    assert len(files) == 4
    assert all(file.stat().st_size <= 2_000 for file in files)
    held = numbers(*files)
    assert held == list(range(held[0], 200))
    verify_audit(path)


def test_a_file_that_does_not_go_on_from_the_one_before_is_found(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "audit.log"
    log = AuditLog(path, FakeClock(), bytes_max=1_000)
    for number in range(20):
        log.write("happened", number=number)
    log.close()
    former = path.with_name("audit.log.1")
    former.write_bytes(b"".join(former.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(Terminal, match="DRTP-2019"):
        AuditLog(path, FakeClock())


def test_lines_wait_for_a_full_disk_and_follow_in_order(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "audit.log"
    log = AuditLog(path, FakeClock())
    log.write("happened", number=0)
    with files_end_at(path.stat().st_size + 100):
        for number in range(1, 10):
            log.write("happened", number=number)
        assert numbers(path) == [0]
        verify_audit(path)
    log.write("happened", number=10)
    log.close()
    assert numbers(path) == list(range(11))
    verify_audit(path)


def test_what_one_project_causes_takes_no_line_from_another(tmp_path: Path) -> None:
    clock = FakeClock()
    log = AuditLog(tmp_path / "audit" / "audit.log", clock)
    for _ in range(1_000):
        log.write_paced("grant refused", project="eve", remote="192.0.2.1")
    log.write_paced("grant refused", project="joe", remote="192.0.2.1")
    log.write_paced("grant refused", remote="192.0.2.1")
    lines = [msgspec.json.decode(raw, type=AuditLine) for raw in log._path.read_bytes().splitlines()]
    assert [line.fields.get("project", "") for line in lines] == ["eve"] * audit.PROJECT_BURST + ["joe", ""]


def test_what_finds_no_room_at_all_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "WAITING_MAX", 5)
    path = tmp_path / "audit" / "audit.log"
    log = AuditLog(path, FakeClock())
    log.write("happened", number=0)
    with files_end_at(path.stat().st_size):
        for number in range(1, 10):
            log.write("happened", number=number)
    log.write("happened", number=10)
    log.write("happened", number=11)
    log.close()
    assert numbers(path) == [0, 1, 2, 3, 4, 5, 11]
    assert b'"events lost"' in path.read_bytes() and b'"count":"5"' in path.read_bytes()
    verify_audit(path)
