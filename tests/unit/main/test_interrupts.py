"""A Ctrl-C that comes early, at any import, ends a command without a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import signal, sys
class AtImport:
    def find_spec(self, name, path, target=None):
        if name == {at!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, AtImport())
sys.argv = {argv!r}
from drtp.main.{module} import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("module", "argv", "at"),
    [
        ("datumctl", ("datumctl", "serve", "localhost:1"), "click"),
        ("datumctl", ("datumctl", "serve", "localhost:1"), "drtp.main.datum.serving"),
        ("datumctl", ("datumctl", "get", "drtpservices"), "drtp.main.datum.resources"),
        ("datumctl_serve", ("datumctl-serve", "localhost:1"), "click"),
        ("datumctl_connect", ("datumctl-connect", "x"), "click"),
        ("operator", ("drtp", "up"), "click"),
        ("operator", ("drtp", "up"), "drtp.main.embedded.up"),
    ],
)
def test_an_early_ctrl_c_is_quiet(tmp_path: Path, module: str, argv: tuple[str, ...], at: str) -> None:
    program = PROGRAM.format(module=module, argv=list(argv), at=at)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 130, done
    assert done.stdout + done.stderr.strip() == ""
