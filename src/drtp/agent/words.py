"""What the core says of the local service, for people: without the operating system's number behind the words."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\s*\(os error \d+\)")


def plain(message: str) -> str:
    """`Connection refused (os error 111)` -> `Connection refused`."""
    return _NUMBER.sub("", message)
