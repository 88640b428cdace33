"""A log that bounds itself, loses no line in doing so, and is never a reason to fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from drtp.kit.logfile import LINES_LOST, LOG_FILE, LogStream
from drtp.main.embedded import logfiles
from fulldisk import files_end_at

PART = """
import sys, threading
from drtp.kit import logfile
from drtp.kit.observe import configure_logs, logger
stream = logfile.own_stderr()
stream._bytes_max, stream._kept = 4_000, 1_000
configure_logs(stream=stream)
def say(thread):
    for number in range(500):
        logger("part").info("said", number=thread * 500 + number)
threads = [threading.Thread(target=say, args=(one,)) for one in range(4)]
for one in threads: one.start()
for one in threads: one.join()
print("native words", file=sys.stderr, flush=True)
"""


def lines(path: Path) -> list[str]:
    """Oldest first."""
    kept = sorted(path.parent.glob(f"{path.name}.*"), key=lambda file: -int(file.suffix[1:]))
    return [line for file in (*kept, path) for line in file.read_text().splitlines()]


def test_a_part_moves_its_own_log_aside_and_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "part.log"
    descriptor = logfiles.open_log(path)
    subprocess.run(
        [sys.executable, "-c", PART], stderr=descriptor, check=True, env=os.environ | {LOG_FILE: str(path)}, timeout=60
    )
    os.close(descriptor)
    said = lines(path)
    numbers = [int(line.rpartition("number=")[2]) for line in said if "number=" in line]
    assert sorted(numbers) == list(range(2000))
    assert "native words" in path.read_text()
    files = list(path.parent.iterdir())
    assert len(files) > 10
    assert all(file.stat().st_size <= 4_200 and file.stat().st_mode & 0o777 == 0o600 for file in files)


def test_the_oldest_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    descriptor = logfiles.open_log(path)
    stream = LogStream(descriptor, path, bytes_max=100, kept=3)
    for number in range(50):
        stream.write(f"line {number:03}\n")
    os.close(descriptor)
    assert len(list(tmp_path.iterdir())) == 4
    assert lines(path) == [f"line {number:03}" for number in range(50)][-len(lines(path)) :]


def test_a_full_disk_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    descriptor = logfiles.open_log(path)
    stream = LogStream(descriptor, path)
    before = LINES_LOST.collect()
    stream.write("first\n")
    with files_end_at(10):
        for _ in range(3):
            stream.write("does not fit\n")
    stream.write("last\n")
    os.close(descriptor)
    assert path.read_text().splitlines() == ["first", "does", "last"]
    assert next(iter(LINES_LOST.collect())).samples[0].value - next(iter(before)).samples[0].value == 3
