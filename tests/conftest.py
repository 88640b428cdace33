"""A test that fails runs once more, and its first failure is printed at the end all the same.

The parts are real, and hold one another to deadlines on a machine that does other things as well. What failed once is
a bug or a test that is too strict, to be found; it is no reason to take nothing of a change.
"""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"failed once: {report.nodeid}")
        terminalreporter.write_line(report.longreprtext[-6_000:])
