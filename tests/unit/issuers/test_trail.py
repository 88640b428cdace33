"""Reading the audit log: who sees which lines, page after page through rotations, and every break found."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import structlog

from drtp.api.audit import START, AuditLine, AuditWanted, Chain, Order
from drtp.issuers.audit import AuditLog
from drtp.issuers.trail import Trail
from drtp.kit.clock import FakeClock
from drtp.kit.errors import NotFound
from drtp.kit.observe import configure_logs

UIDS = {"joe": "uid-1-joe", "eve": "uid-2-eve"}


@pytest.fixture(autouse=True)
def logs_elsewhere() -> Iterator[None]:
    configure_logs(stream=io.StringIO())
    yield
    structlog.reset_defaults()


class Office:
    """A log of a few small files, and what reads it."""

    def __init__(self, directory: Path, kept: int = 99) -> None:
        self.clock = FakeClock()
        self.path = directory / "audit" / "audit.log"
        self.log = AuditLog(self.path, self.clock, bytes_max=1_500, kept=kept)
        self.log.uid_of = lambda name: UIDS.get(name, "")
        self.trail = Trail(self.path)

    def write(self, count: int) -> None:
        for number in range(count):
            self.log.write("edge enrolled", project="joe" if number % 3 else "eve", identity=f"id-{number}")

    def numbers(self, wanted: AuditWanted | None = None, *, order: Order = Order.OLDEST, limit: int = 7, uid: str = ""):
        """Of every line wanted, a page at a time."""
        found: list[int] = []
        after = ""
        while True:
            page = self.trail.page(wanted or AuditWanted(), seen_by=uid, order=order, limit=limit, after=after)
            lines = [msgspec.json.decode(raw, type=AuditLine) for raw in page.lines]
            found += [int(line.fields["identity"].removeprefix("id-")) for line in lines]
            after = page.next
            if not after:
                return found


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_pages_go_through_every_file_in_both_orders(office: Office) -> None:
    office.write(50)
    assert len(list(office.path.parent.iterdir())) > 5
    assert office.numbers() == list(range(50))
    assert office.numbers(order=Order.NEWEST) == list(range(50))[::-1]
    # A reader that remembers nothing finds the place by its hash.
    first = office.trail.page(AuditWanted(), order=Order.OLDEST, limit=20)
    rest = Trail(office.path).page(AuditWanted(), order=Order.OLDEST, after=first.next)
    assert len(rest.lines) == 30


def test_a_project_sees_its_own_lines_and_those_that_it_is_named_in(office: Office) -> None:
    office.write(9)
    office.log.write("reference grant created", project="eve", also=("joe",), identity="id-100")
    office.log.write("certificate minted", identity="id-200")
    assert office.numbers(uid=UIDS["joe"]) == [1, 2, 4, 5, 7, 8, 100]
    assert office.numbers(uid=UIDS["eve"]) == [0, 3, 6, 100]
    assert office.numbers()[-2:] == [100, 200]


def test_a_later_project_of_the_same_name_sees_nothing_of_the_former(office: Office) -> None:
    office.write(3)
    office.log.uid_of = lambda _name: "uid-9-joe"
    office.log.write("edge enrolled", project="joe", identity="id-9")
    assert office.numbers(uid="uid-9-joe") == [9]


def test_a_stranger_who_writes_a_projects_uid_into_a_field_is_not_in_its_lines(office: Office) -> None:
    office.log.write("enrolment refused", reason=UIDS["joe"], identity="id-1")
    assert office.numbers(uid=UIDS["joe"]) == []


async def test_lines_are_found_by_time_event_project_and_identity(office: Office) -> None:
    office.write(4)
    await office.clock.advance(3600)
    noon = office.clock.now()
    office.log.write("identity revoked", project="joe", identity="id-7", by="user u-1")
    assert office.numbers(AuditWanted(since=noon)) == [7]
    assert office.numbers(AuditWanted(until=noon)) == [0, 1, 2, 3]
    assert office.numbers(AuditWanted(since=noon + timedelta(seconds=1))) == []
    assert office.numbers(AuditWanted(event="identity")) == [7]
    assert office.numbers(AuditWanted(project="joe")) == [1, 2, 7]
    assert office.numbers(AuditWanted(identity="id-2")) == [2]
    assert office.numbers(AuditWanted(identity="u-1")) == [7]


def test_a_sound_chain_over_many_files_holds_and_knows_its_heads(office: Office) -> None:
    office.write(10)
    noted = office.log.head
    office.write(40)
    verdict = office.trail.verify([noted, office.log.head])
    assert (verdict.sound, verdict.lines, verdict.whole, verdict.missing) == (True, 50, True, ())
    assert verdict.head == office.log.head
    assert office.trail.verify(["f" * 64]).missing == ("f" * 64,)


def test_what_was_rotated_away_is_said_and_no_break(tmp_path: Path) -> None:
    office = Office(tmp_path, kept=2)
    office.write(50)
    verdict = office.trail.verify()
    assert (verdict.sound, verdict.whole) == (True, False)
    assert 0 < verdict.lines < 50


@pytest.mark.parametrize("harm", ["changed", "removed", "swapped", "torn", "unreadable", "a file gone"])
def test_every_harm_is_found_and_placed(office: Office, harm: str) -> None:
    office.write(50)
    victim = office.path.with_name("audit.log.3")
    lines = victim.read_bytes().splitlines(keepends=True)
    match harm:
        case "changed":
            lines[1] = lines[1].replace(b"edge enrolled", b"edge ENROLLED")
        case "removed":
            del lines[1]
        case "swapped":
            lines[1], lines[2] = lines[2], lines[1]
        case "torn":
            lines[-1] = lines[-1][:-10]
        case "unreadable":
            lines[1] = b"nonsense\n"
        case _:
            victim.rename(victim.with_name("taken"))
    if victim.exists():
        victim.write_bytes(b"".join(lines))
    verdict = office.trail.verify()
    assert not verdict.sound
    assert ("audit.log.2" if harm == "a file gone" else "audit.log.3") in verdict.fault


def test_files_written_anew_do_not_hold_the_head_that_was_noted(office: Office, tmp_path: Path) -> None:
    office.write(10)
    noted = office.log.head
    office.log.close()
    for file in office.path.parent.iterdir():
        file.unlink()
    forged = Office(tmp_path)
    forged.write(9)
    verdict = forged.trail.verify([noted])
    assert verdict.sound
    assert verdict.missing == (noted,)


def test_a_place_that_was_rotated_away_is_said(tmp_path: Path) -> None:
    office = Office(tmp_path, kept=1)
    office.write(3)
    first = office.trail.page(AuditWanted(), order=Order.OLDEST, limit=1)
    office.write(50)
    with pytest.raises(NotFound, match="DRTP-2042"):
        office.trail.page(AuditWanted(), order=Order.OLDEST, after=first.next)


def test_an_empty_log_holds(tmp_path: Path) -> None:
    verdict = Office(tmp_path).trail.verify([START])
    assert (verdict.sound, verdict.lines, verdict.head, verdict.missing) == (True, 0, START, ())


OF_BEFORE = (
    '{"at":"2030-01-01T00:00:00+00:00","event":"edge enrolled","fields":{"identity":"a-1","role":"agent",'
    '"by":"secret x","remote":"192.0.2.1"},"previous":"00000000000000000000000000000000000000000000000000'
    '00000000000000","hash":"9b3466bc7eb894ec758c2ef79582d8c5ad57e66f8d6e4aa9f03582dcd63ee066"}'
    "\n"
    '{"at":"2030-01-01T00:00:00+00:00","event":"identity revoked","fields":{"identity":"a-1","reason":"ge'
    'stohlen ü","by":"admin"},"previous":"9b3466bc7eb894ec758c2ef79582d8c5ad57e66f8d6e4aa9f03582dcd63ee06'
    '6","hash":"e3392c545c12383d108c21ecbb2c0d7ac9ffb9d382752af9e477e95720e7a6cf"}'
    "\n"
)
"""As the version before projects wrote them."""


def test_lines_of_a_version_before_hold_and_are_the_operators_alone(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "audit.log"
    path.parent.mkdir(mode=0o700)
    path.write_text(OF_BEFORE, encoding="utf-8")
    office = Office(tmp_path)
    office.write(2)
    verdict = office.trail.verify()
    assert (verdict.sound, verdict.lines, verdict.whole) == (True, 4, True)
    everything = [msgspec.json.decode(raw, type=AuditLine).event for raw in office.trail.page(AuditWanted()).lines]
    assert everything == ["edge enrolled", "edge enrolled", "identity revoked", "edge enrolled"]
    assert office.numbers(uid=UIDS["joe"]) == [1]


def test_a_look_goes_on_from_the_one_before_over_any_number_of_files(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.write(10)
    first = office.trail.look()
    taken: list[bytes] = []
    take = Chain.take

    def counted(self: Chain, raw: bytes) -> AuditLine:
        taken.append(raw)
        return take(self, raw)

    monkeypatch.setattr(Chain, "take", counted)
    office.write(30)
    noted = office.log.head
    second = office.trail.look(first)
    assert len(taken) == 30
    verdict = second.verdict([noted, first.chain.head or "", "f" * 64])
    assert (verdict.sound, verdict.lines, verdict.head, verdict.whole) == (True, 40, noted, True)
    assert verdict.missing == ("f" * 64,)
    assert first.verdict([noted]).missing == (noted,)
    assert len(taken) == 30, "what was asked for is told without another look"


@pytest.mark.parametrize("harm", ["cut", "written anew", "changed since"])
def test_a_look_that_cannot_go_on_looks_at_everything_and_finds_the_harm(
    office: Office, tmp_path: Path, harm: str
) -> None:
    office.write(3)
    first = office.trail.look()
    noted = first.chain.head or ""
    if harm == "changed since":
        office.write(1)
        path = office.path
        raw = path.read_bytes()
        at = raw.rindex(b"edge enrolled")
        path.write_bytes(raw[:at] + b"edge ENROLLED" + raw[at + 13 :])
        assert not office.trail.look(first).verdict().sound
        return
    lines = office.path.read_bytes().splitlines(keepends=True)
    office.path.write_bytes(b"".join(lines[:-1]) if harm == "cut" else b"")
    assert office.trail.look(first).verdict([noted]).missing == (noted,)
