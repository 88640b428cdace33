"""Sign-ins under way: codes that a client is to redeem, and devices that wait for a person.

In memory: a restart forgets them, and whoever was signing in begins again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from drtp.kit.clock import Clock

CODE_S = 60.0
"""From the redirect to the token request, which follows at once."""
CODES_MAX = 1_000
"""Only a right password makes one."""
DEVICE_S = 600.0
DEVICES_MAX = 2_000
"""Anybody makes one; beyond it the oldest goes. With ten minutes each and a bucket for each address that takes many."""
POLL_S = 2
"""How often a device may ask."""

_CONSONANTS = "BCDFGHJKLMNPQRSTVWXZ"
"""No vowels, so no words; no letters that look like digits (RFC 8628, section 6.1)."""


@dataclass(frozen=True, slots=True)
class Entered:
    """Somebody who has shown an account's password. `mark` is of that password: with another one it counts no more."""

    account: str
    mark: str


NOBODY = Entered("", "")


@dataclass(frozen=True, slots=True)
class Code:
    """What a code stands for. `challenge`: SHA-256 of the verifier, base64url (RFC 7636)."""

    who: Entered
    redirect_uri: str
    challenge: str
    nonce: str
    offline: bool


class DeviceState(Enum):
    """Of one waiting device."""

    WAITING = 1
    GRANTED = 2
    DENIED = 3


@dataclass(slots=True)
class Device:
    """One that waits. `who` granted it."""

    user_code: str
    offline: bool
    until_s: float
    state: DeviceState = DeviceState.WAITING
    who: Entered = NOBODY
    asked_s: float = -1e9


class Waiting:
    """Codes and devices, each under the hash of what its owner holds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._codes: OrderedDict[str, tuple[float, Code]] = OrderedDict()
        self._spent: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._devices: OrderedDict[str, Device] = OrderedDict()

    def code_for(self, what: Code) -> str:
        """A code that stands for it, once, for a minute."""
        text = secrets.token_urlsafe(32)
        self._codes[_hash(text)] = (self._clock.monotonic() + CODE_S, what)
        if len(self._codes) > CODES_MAX:
            self._codes.popitem(last=False)
        return text

    def take(self, text: str) -> Code | None:
        """What a code stands for; it is spent, whatever comes of it."""
        until_s, what = self._codes.pop(_hash(text), (0.0, None))
        return what if self._clock.monotonic() < until_s else None

    def remember(self, text: str, login: str) -> None:
        """A spent code began this sign-in; if it comes again, two have held it."""
        self._spent[_hash(text)] = (self._clock.monotonic() + CODE_S, login)
        if len(self._spent) > CODES_MAX:
            self._spent.popitem(last=False)

    def begun_by(self, text: str) -> str | None:
        """The sign-in that a spent code began, lately."""
        until_s, login = self._spent.get(_hash(text), (0.0, None))
        return login if self._clock.monotonic() < until_s else None

    def device(self, *, offline: bool) -> tuple[str, str]:
        """A new device: (device code, user code)."""
        text = secrets.token_urlsafe(32)
        digits = "".join(secrets.choice(_CONSONANTS) for _ in range(8))
        user_code = f"{digits[:4]}-{digits[4:]}"
        self._devices[_hash(text)] = Device(user_code, offline, self._clock.monotonic() + DEVICE_S)
        self._forget_devices()
        return text, user_code

    def shown(self, user_code: str) -> Device | None:
        """The device that shows this code and waits still. However it is typed: `bcdf ghjk` will do."""
        self._forget_devices()
        wanted = _letters(user_code)
        found = (one for one in self._devices.values() if _letters(one.user_code) == wanted)
        device = next(found, None)
        return device if device is not None and device.state is DeviceState.WAITING else None

    def asks(self, device_code: str) -> tuple[Device | None, bool]:
        """The device of this code, and whether it asks too often. One whose answer is final is forgotten."""
        self._forget_devices()
        device = self._devices.get(_hash(device_code))
        if device is None:
            return None, False
        now_s = self._clock.monotonic()
        hasty = now_s - device.asked_s < POLL_S * 0.9
        device.asked_s = now_s
        if device.state is not DeviceState.WAITING and not hasty:
            del self._devices[_hash(device_code)]
        return device, hasty

    def _forget_devices(self) -> None:
        now_s = self._clock.monotonic()
        while self._devices:
            oldest = next(iter(self._devices.values()))
            if oldest.until_s > now_s and len(self._devices) <= DEVICES_MAX:
                return
            self._devices.popitem(last=False)


def challenge_of(verifier: str) -> str:
    """S256 of a PKCE verifier."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def proves(verifier: str, challenge: str) -> bool:
    """Whether the verifier is what the challenge was made of, in constant time."""
    return hmac.compare_digest(challenge_of(verifier).encode(), challenge.encode())


def _letters(user_code: str) -> str:
    return "".join(one for one in user_code.upper() if one in _CONSONANTS)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def mark_of(kept_password: str) -> str:
    """A password as it is kept, in a form that is compared and nothing else."""
    return _hash(kept_password)
