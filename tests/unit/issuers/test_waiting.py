"""Codes and devices under way: short lives, one use, bounded room."""

from __future__ import annotations

import pytest

from drtp.issuers import waiting
from drtp.issuers.waiting import CODE_S, DEVICE_S, POLL_S, Code, DeviceState, Entered, Waiting, challenge_of, proves
from drtp.kit.clock import FakeClock

CODE = Code(Entered("joe", "mark"), "http://127.0.0.1:1/callback", challenge_of("v" * 43), "", offline=True)


async def test_a_code_is_good_once_and_for_a_minute() -> None:
    clock = FakeClock()
    under_way = Waiting(clock)
    text = under_way.code_for(CODE)
    assert under_way.take(text) == CODE
    assert under_way.take(text) is None
    late = under_way.code_for(CODE)
    await clock.advance(CODE_S)
    assert under_way.take(late) is None


def test_pkce_takes_the_verifier_alone() -> None:
    # RFC 7636, appendix B.
    verifier, challenge = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    assert challenge_of(verifier) == challenge
    assert proves(verifier, challenge) and not proves(challenge, challenge) and not proves("é", challenge)


async def test_a_device_waits_ten_minutes_and_asks_no_faster_than_it_was_told() -> None:
    clock = FakeClock()
    under_way = Waiting(clock)
    text, user_code = under_way.device(offline=True)
    device, hasty = under_way.asks(text)
    assert device is not None and not hasty
    assert under_way.asks(text)[1]
    await clock.advance(POLL_S)
    assert not under_way.asks(text)[1]
    shown = under_way.shown(f" {user_code.lower().replace('-', ' ')} ")
    assert shown is device
    device.state = DeviceState.GRANTED
    assert under_way.shown(user_code) is None, "it is decided once"
    await clock.advance(DEVICE_S)
    assert under_way.asks(text) == (None, False)


async def test_an_answer_that_is_final_is_given_once() -> None:
    clock = FakeClock()
    under_way = Waiting(clock)
    text, user_code = under_way.device(offline=False)
    shown = under_way.shown(user_code)
    assert shown is not None
    shown.state = DeviceState.GRANTED
    assert under_way.asks(text)[0] is shown
    assert under_way.asks(text)[0] is None


def test_rooms_are_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "DEVICES_MAX", 3)
    monkeypatch.setattr(waiting, "CODES_MAX", 3)
    under_way = Waiting(FakeClock())
    devices = [under_way.device(offline=True)[0] for _ in range(5)]
    assert [under_way.asks(one)[0] is not None for one in devices] == [False, False, True, True, True]
    codes = [under_way.code_for(CODE) for _ in range(5)]
    assert [under_way.take(one) is not None for one in codes] == [False, False, True, True, True]
