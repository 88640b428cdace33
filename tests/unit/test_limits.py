"""The page of limits says what the code does."""

from __future__ import annotations

from limits_page import PAGE, core_limits, current


def test_the_page_of_limits_is_what_the_code_makes() -> None:
    assert PAGE.read_text(encoding="utf-8") == current(), "run `python tests/limits_page.py`"


def test_the_cores_own_limits_are_found() -> None:
    assert {"handshake_ms", "first_frame_ms", "proxy_header_ms", "pre_auth_per_address_max"} <= core_limits().keys()
