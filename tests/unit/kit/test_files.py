"""Private files: written whole, and through nobody's link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drtp.kit.errors import Terminal
from drtp.kit.files import private_directory, read_private, write_atomic


def test_a_write_replaces_a_link_and_leaves_what_it_led_to_cve_2026_42275(tmp_path: Path) -> None:
    target = tmp_path / "another"
    target.write_text("theirs")
    path = tmp_path / "key.pem"
    path.symlink_to(target)
    write_atomic(path, b"ours")
    assert (target.read_text(), path.read_bytes(), path.is_symlink()) == ("theirs", b"ours", False)


def test_a_link_planted_beside_is_not_written_through_cve_2026_42275(tmp_path: Path) -> None:
    """The name that a file has while it is written can be guessed."""
    target = tmp_path / "another"
    target.write_text("theirs")
    path = tmp_path / "key.pem"
    path.with_name(f".{path.name}.{os.getpid()}.tmp").symlink_to(target)
    write_atomic(path, b"ours")
    assert (target.read_text(), path.read_bytes()) == ("theirs", b"ours")


def test_what_others_may_read_is_no_secret(tmp_path: Path) -> None:
    """Behind a link, too: what it leads to is judged."""
    loose = tmp_path / "loose"
    loose.write_text("secret")
    loose.chmod(0o644)
    (tmp_path / "link").symlink_to(loose)
    for path in (loose, tmp_path / "link"):
        with pytest.raises(Terminal, match="DRTP-7001"):
            read_private(path)
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "door").symlink_to(tmp_path / "open")
    with pytest.raises(Terminal, match="DRTP-7001"):
        private_directory(tmp_path / "door")
