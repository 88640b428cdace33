"""Files of services for `connect`: what they say, and that one run names every fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from drtp.kit.errors import Invalid
from drtp.main.datum.connect_command import connect
from drtp.main.datum.connect_file import places_in
from drtp.main.datum.connect_places import Place
from drtp.main.shell import Misconfigured, Misused

GOOD = """
services:
- {service: joe/postgres, local: 5432}
- {service: joe/redis, local: '10.1.0.1:6379', allow-remote: [10.1.0.0/16]}
- {service: web, unix: run/web.sock}
- {service: joe/ssh=2222}
- {service: joe/dns, local: 'udp://2222'}
"""
FAULTS = """
services:
- 5432
- {service: a/b/c}
- {service: joe/a, port: 1}
- {service: joe/b, local: here}
- {service: joe/c, local: '0.0.0.0:1'}
- {service: joe/d, local: 7000, unix: x}
- {service: joe/e, local: 7001}
- {service: joe/f, local: 7001}
- {service: [joe/g]}
- {service: joe/h, local: 'udp://'}
"""


def test_each_service_has_a_place_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "services.yaml"
    file.write_text(GOOD)
    assert places_in(file) == (
        Place("joe", "postgres", port=5432),
        Place("joe", "redis", "10.1.0.1", 6379, allow=("10.1.0.0/16",)),
        Place(None, "web", path=tmp_path / "run/web.sock"),
        Place("joe", "ssh", port=2222),
        Place("joe", "dns", port=2222, datagrams=True),
    )
    file.write_text("[{service: joe/postgres}]")
    assert places_in(file) == (Place("joe", "postgres"),)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("joe/ssh=6000", "--local", "5432"), "both say a port"),
        (("--file", "services.yaml", "--allow-remote", "10.0.0.0/8"), "--file says itself whom to let in"),
    ],
)
def test_nothing_that_was_written_is_left_unheeded(argv: tuple[str, ...], says: str) -> None:
    with pytest.raises(Misused, match=says):
        connect.main(list(argv), standalone_mode=False)


def test_every_fault_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "services.yaml"
    file.write_text(FAULTS)
    with pytest.raises(Invalid) as refused:
        places_in(file)
    places = [fault.partition(": ")[0] for fault in refused.value.faults]
    assert places == [*(f"services[{number}]" for number in range(6)), "services[8].service", "services[9]", "services"]
    assert "10.0.0.0" not in str(refused.value.faults)


def test_what_is_no_file_of_services_is_said(tmp_path: Path) -> None:
    file = tmp_path / "services.yaml"
    with pytest.raises(Misconfigured, match="cannot be read"):
        places_in(file)
    for written in ("{}", "services: 5", "{service: joe/a}"):
        file.write_text(written)
        with pytest.raises(Invalid):
            places_in(file)
