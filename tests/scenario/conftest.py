"""One bed for the tests that leave it whole, a bed of one's own for those that break it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

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


@pytest.fixture(autouse=True)
def _nothing_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """On the shared bed a failed test leaves no agent behind: the next one, or its own second run, would meet it."""
    if "bed" not in request.fixturenames:
        yield
        return
    shared: Bed = request.getfixturevalue("bed")
    before = len(shared.programs)
    yield
    for program in shared.programs[before:]:
        if program.process.poll() is None:
            program.stop()


@pytest.fixture(params=["unix", "mtls"])
def hop(request: pytest.FixtureRequest) -> str:
    """How the gateway reaches POPs: over sockets of their machine, or as if they were elsewhere. For `new_bed`."""
    chosen: str = request.param
    return chosen


@pytest.fixture
def new_bed(tmp_path: Path) -> Iterator[Callable[..., Bed]]:
    """Make a bed that this test may break: `new_bed("--no-restart", "pop")`."""
    made: list[Bed] = []

    def make(*options: str, environment: Mapping[str, str] = MappingProxyType({})) -> Bed:
        directory = tmp_path / f"bed{len(made)}"
        directory.mkdir()
        one = Bed(directory, options, environment=dict(environment))
        made.append(one)
        return one.start()

    try:
        yield make
    finally:
        for one in made:
            one.close()
