"""Whatever a test of controllers makes them conclude has to be in the registry of reasons."""

from __future__ import annotations

from typing import Any

import pytest

from drtp.rules import advice, conditions


@pytest.fixture(autouse=True)
def every_reason_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    real = conditions.merge

    def merge(*arguments: Any) -> Any:
        merged = real(*arguments)
        for one in merged:
            assert advice.find(one.type, one.reason) is not None, f"{one.type} {one.reason} has no advice"
        return merged

    monkeypatch.setattr(conditions, "merge", merge)
