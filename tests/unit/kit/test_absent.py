"""What nobody uses is not loaded, and whoever does use it can load it later."""

from __future__ import annotations

import subprocess
import sys


def test_logs_do_not_load_rich_and_the_screen_still_can() -> None:
    program = (
        "import sys; import drtp.kit.observe; before = 'rich' in sys.modules\n"
        "import rich.console, structlog; print(before, structlog.__name__, rich.console.Console.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "structlog", "Console"]
