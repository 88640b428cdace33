"""One bed for the tests that leave it whole, a bed of one's own for those that break it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scenario.bed import Bed


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """The shared bed: tests may serve, apply and visit, never kill its parts."""
    whole = Bed(tmp_path_factory.mktemp("bed"))
    try:
        yield whole.start()
    finally:
        whole.close()


@pytest.fixture
def new_bed(tmp_path: Path) -> Iterator[Callable[..., Bed]]:
    """Make a bed that this test may break: `new_bed("--no-restart", "pop")`."""
    made: list[Bed] = []

    def make(*options: str) -> Bed:
        directory = tmp_path / f"bed{len(made)}"
        directory.mkdir()
        one = Bed(directory, options)
        made.append(one)
        return one.start()

    try:
        yield make
    finally:
        for one in made:
            one.close()
