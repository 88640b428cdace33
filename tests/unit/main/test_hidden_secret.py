"""`--secret` leaves the arguments at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from drtp.main.datum.hidden_secret import split

CANARY = "drtp_enr_canary000000_neverinargv"


@pytest.mark.parametrize(
    ("arguments", "secret", "rest"),
    [
        (["serve", "8080"], None, ["serve", "8080"]),
        (["serve", "--secret", "X", "--once"], "X", ["serve", "--once"]),
        (["serve", "--secret=X", "8080"], "X", ["serve", "8080"]),
        (["--secret", "A", "--secret=B"], "B", []),
        (["--secret-file", "F"], None, ["--secret-file", "F"]),
    ],
)
def test_secret_is_taken_out_of_the_arguments(arguments: list[str], secret: str | None, rest: list[str]) -> None:
    assert split(arguments) == (secret, rest)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="/proc is not there")
def test_no_process_keeps_the_secret_in_argv_or_environment() -> None:
    program = (
        "from drtp.main.datum.hidden_secret import hide, read_descriptor\n"
        "import sys, pathlib\n"
        "hide()\n"
        "fd = int(sys.argv[sys.argv.index('--secret-fd') + 1])\n"
        "print(read_descriptor(fd))\n"
        "print(pathlib.Path('/proc/self/cmdline').read_bytes(), pathlib.Path('/proc/self/environ').read_bytes())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "--secret", CANARY],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
        timeout=20,
    )
    got, seen = done.stdout.splitlines()
    assert got == CANARY
    assert CANARY not in seen
    assert "'serve" in seen.replace("\\x00", "'")
