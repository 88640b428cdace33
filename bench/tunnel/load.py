"""The Rust side of the harness: `native/drtp-load` as local service and as visitors."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

NATIVE = Path(__file__).parents[2] / "native"
RUN_DEADLINE_S = 120.0
Address = tuple[str, int]


def built() -> Path:
    """The program, built for release, or the one that DRTP_LOAD names."""
    if named := os.environ.get("DRTP_LOAD"):
        return Path(named)
    target = Path(os.environ.get("CARGO_TARGET_DIR", NATIVE / "target"))
    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "--locked", "-p", "drtp-load"],
        cwd=NATIVE,
        env=os.environ | {"CARGO_TARGET_DIR": str(target)},
        check=True,
    )
    return target / "release" / "drtp-load"


class Load:
    """Starts visitors and services. Every failure of theirs is an error here, with their own words."""

    def __init__(self, program: Path) -> None:
        self._program = program

    @contextlib.contextmanager
    def service(self) -> Generator[tuple[Address, int]]:
        """A local service while the block runs: (address, pid)."""
        with subprocess.Popen([self._program, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                yield ("127.0.0.1", int(json.loads(process.stdout.readline())["port"])), process.pid
            finally:
                process.stdin.close()
                process.wait(5)

    def visit(self, scenario: str, at: Address, settings: dict[str, object]) -> dict[str, Any]:
        """Run one scenario to its end; gives its figures. Raises: RuntimeError."""
        done = subprocess.run(
            self._argv(scenario, at, settings), capture_output=True, text=True, check=False, timeout=RUN_DEADLINE_S
        )
        if done.returncode != 0:
            raise RuntimeError(f"{scenario} at {at[0]}:{at[1]}: {done.stderr.strip()}")
        figures: dict[str, Any] = json.loads(done.stdout)
        return figures

    @contextlib.contextmanager
    def staying(self, at: Address, count: int) -> Generator[None]:
        """Idle visitors while the block runs."""
        argv = self._argv("idle", at, {"connections": count})
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                if not process.stdout.readline():
                    raise RuntimeError("the idle visitors did not all get in")
                yield
            finally:
                process.stdin.close()
                process.wait(10)

    def _argv(self, scenario: str, at: Address, settings: dict[str, object]) -> list[str]:
        named = (f"{name}={value}" for name, value in settings.items())
        return [str(self._program), scenario, f"{at[0]}:{at[1]}", *named]
