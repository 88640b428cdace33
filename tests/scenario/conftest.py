"""One bed for the tests that leave it whole, a bed of one's own for those that break it.

A scenario that fails runs once more: it holds a whole system to deadlines in seconds, on a machine that does other
things as well. The first failure is printed at the end all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from scenario.bed import Bed

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"failed once: {report.nodeid}")
        terminalreporter.write_line(report.longreprtext[-6_000:])


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
