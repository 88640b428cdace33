"""`datumctl-serve`: `serve` as a plugin of a host CLI that runs `datumctl-<name>` executables."""

from __future__ import annotations

# First: a Ctrl-C may come at any import.
import drtp.main.interrupts  # isort: skip  # noqa: F401  # pyright: ignore[reportUnusedImport]

import sys

from drtp.main.shell import run


def main() -> int:
    """Console script. The manifest is answered before anything else is imported: hosts ask every plugin for it."""
    if "--plugin-manifest" in sys.argv[1:]:
        from drtp.main.datum.plugin import manifest

        sys.stdout.write(manifest())
        return 0
    from drtp.main.datum.hidden_secret import hide

    hide()
    from drtp.main.datum.serve_command import serve

    return run(serve, "datumctl serve")


if __name__ == "__main__":
    sys.exit(main())
