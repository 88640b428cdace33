"""Remembers what was built from equal inputs, so that a change costs what changed and not what there is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Set
from typing import Generic, TypeVar

T = TypeVar("T")


class Memo(Generic[T]):
    """Values by name while their inputs stay equal, each for as long as somebody wants it."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[tuple[object, ...], T]] = {}
        self._wanted: dict[Hashable, Set[str]] = {}
        self._owners: dict[str, int] = {}
        self.built = 0
        """How often something had to be built: the measure of O(changed)."""

    def get(self, name: str, inputs: tuple[object, ...], build: Callable[[], T]) -> T:
        """The value built from equal inputs before, or a new one. What `build` raises passes through, unremembered."""
        known = self._kept.get(name)
        if known is None or known[0] != inputs:
            known = self._kept[name] = (inputs, build())
            self.built += 1
        return known[1]

    def want(self, owner: Hashable, names: Set[str]) -> None:
        """`owner` wants exactly these from now on; what nobody wants is forgotten."""
        before = self._wanted.pop(owner, frozenset[str]())
        if names:
            self._wanted[owner] = names
        for name in names - before:
            self._owners[name] = self._owners.get(name, 0) + 1
        for name in before - names:
            self._owners[name] -= 1
            if not self._owners[name]:
                del self._owners[name]
                self._kept.pop(name, None)
