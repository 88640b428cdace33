"""Values that must not show: their repr, str and format are masked."""

from __future__ import annotations

from typing import Generic, TypeVar, cast

T = TypeVar("T", str, bytes)


class Secret(Generic[T]):
    """Holds a secret; only `reveal` gives it, so each use can be found by name."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """The secret itself. Never log it, never put it in argv."""
        return self._value

    def __repr__(self) -> str:
        """Masked."""
        return "Secret(****)"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        """Masked."""
        return "****"

    def __eq__(self, other: object) -> bool:
        """Secrets compare by value; use hmac.compare_digest where a stranger can time it."""
        return isinstance(other, Secret) and bool(self._value == cast("Secret[T]", other).reveal())

    def __hash__(self) -> int:
        """By value."""
        return hash(self._value)
