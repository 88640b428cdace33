"""Names by default."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from drtp.main.datum.naming import default_name, state_key, state_name


def test_same_command_on_same_machine_has_the_same_name() -> None:
    assert default_name("http://localhost:8080") == default_name("http://localhost:8080")


def test_two_laptops_and_two_targets_have_different_names() -> None:
    names = {default_name(target, on) for target in ("http://a:1", "tcp://a:1") for on in ("ada", "bob")}
    assert len(names) == 4


@given(st.text(max_size=120), st.integers(1, 65535))
def test_any_machine_name_makes_a_legal_object_name(origin: str, port: int) -> None:
    name = default_name(f"http://localhost:{port}", origin)
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name), name


def test_many_services_have_a_directory_of_their_own() -> None:
    many = "+".join(f"joe.service-{number}" for number in range(20))
    assert state_name("connect.joe.postgres") == "connect.joe.postgres"
    assert len(state_name(f"connect.{many}")) == 200
    assert state_name(f"connect.{many}") != state_name(f"connect.{many}+joe.one-more")


def test_states_of_two_control_planes_never_mix() -> None:
    assert len({state_key("https://a", "x"), state_key("https://b", "x"), state_key("https://a", "y")}) == 3
