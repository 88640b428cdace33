"""The spec of a posted object, which is acted on and not kept: read strictly, every fault told at once."""

from __future__ import annotations

from typing import Any

from drtp.api.jsonvalue import JsonObject, is_list, is_object
from drtp.apiserver.failures import Failure

TEXT_MAX = 253


class Spec:
    """Reads members; `done` refuses what was wrong, and what nobody asked for."""

    def __init__(self, body: JsonObject) -> None:
        given: Any = body.get("spec")
        self._spec: JsonObject = dict(given) if is_object(given) else {}
        self._known: set[str] = set()
        self._faults: list[str] = []

    def text(self, name: str, *, needed: bool = False, most: int = TEXT_MAX) -> str:
        """A printable text, "" where absent."""
        value = self._take(name)
        if value is None or value == "":
            if needed:
                self._faults.append(f"spec.{name}: Required value")
            return ""
        if not isinstance(value, str) or len(value) > most or not value.isprintable():
            self._faults.append(f"spec.{name}: Invalid value: must be one line of at most {most} characters")
            return ""
        return value

    def number(self, name: str, usual: int, least: int, most: int) -> int:
        """A whole number within bounds."""
        value = self._take(name)
        if value is None:
            return usual
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self._faults.append(f"spec.{name}: Invalid value: must be a number between {least} and {most}")
            return usual
        return value

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """A list of short texts."""
        value = self._take(name)
        if value is None:
            return ()
        good = is_list(value) and len(value) <= most and all(isinstance(one, str) and len(one) < 64 for one in value)
        if not good:
            self._faults.append(f"spec.{name}: Invalid value: must be a list of at most {most} short texts")
            return ()
        return tuple(str(one) for one in value)

    def done(self) -> None:
        """Raises: Failure 422 with every fault."""
        unknown = sorted(str(name) for name in self._spec.keys() - self._known)
        self._faults += [f"spec.{name[:64]}: Invalid value: unknown field" for name in unknown[:8]]
        if self._faults:
            raise Failure(422, "DRTP-1010", "; ".join(self._faults))

    def _take(self, name: str) -> Any:
        self._known.add(name)
        return self._spec.get(name)
