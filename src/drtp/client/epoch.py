"""The epoch: which instance of an agent is the newest one. Works with the control plane down."""

from __future__ import annotations

from pathlib import Path

from drtp.kit.clock import Clock, unix_ms
from drtp.kit.errors import Terminal
from drtp.kit.files import read_private, write_atomic


def next_epoch(path: Path, clock: Clock) -> int:
    """max(persisted + 1, unix ms), durable in `path` before it is used, so no later start can choose it again.

    Raises: Terminal DRTP-4014 if the file is damaged: a lower epoch than one that was used would be fenced for ever.
    """
    try:
        persisted = int(read_private(path))
    except FileNotFoundError:
        persisted = 0
    except ValueError:
        raise Terminal("DRTP-4014", f"{path} does not hold a number.") from None
    epoch = max(persisted + 1, unix_ms(clock))
    write_atomic(path, str(epoch).encode())
    return epoch
