"""Directories of Unix sockets: private, short enough for the kernel, and known again by whoever shares this machine."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from drtp.kit.errors import Terminal
from drtp.kit.files import private_directory

PATH_BYTES_MAX = 107
"""sockaddr_un holds 108 with the closing zero."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Of the running kernel: the same in all its containers, another after a restart."""


def socket_directory(wanted: Path, longest: str, label: str) -> Path:
    """`wanted`, made private; one in the temporary directory where `wanted`/`longest` is too long for a socket.

    Which one follows from `wanted`, `label` and the user, so that whoever asks again finds the same.
    Raises: Terminal for a directory that others may enter, DRTP-5021 for one that is another user's, DRTP-5020 where
    the temporary directory is too deep as well.
    """
    wanted = wanted.absolute()
    if len(os.fsencode(wanted)) + 1 + len(longest) > PATH_BYTES_MAX:
        digest = hashlib.blake2b(os.fsencode(wanted), digest_size=8).hexdigest()
        wanted = Path(tempfile.gettempdir()) / f"drtp-{label}-{os.getuid()}-{digest}"
        if len(os.fsencode(wanted)) + 1 + len(longest) > PATH_BYTES_MAX:
            raise Terminal("DRTP-5020", f"{wanted / longest} would be longer than {PATH_BYTES_MAX} bytes.")
    found = private_directory(wanted).resolve()
    if found.stat().st_uid != os.geteuid():
        raise Terminal("DRTP-5021", f"{found} belongs to another user.")
    return found


def socket_path(directory: Path, name: str, label: str) -> Path:
    """Where the socket `name` of a directory is: in it, or where `socket_directory` leads if its path is too long.

    Raises: Terminal as `socket_directory`.
    """
    path = directory.absolute() / name
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        return path
    return socket_directory(directory, name, label) / name


def operator_socket(directory: Path) -> Path:
    """Where a control plane with this directory answers its operator; mode 0600."""
    return socket_path(directory, "operator.sock", "operator")


def directory_mark(directory: Path) -> str:
    """What tells this directory from every other on any machine: kernel, file system, inode. "" where nothing can.

    Two processes that see the same mark share a kernel and see one directory, whatever its path is to each.
    Raises: OSError if it is not there.
    """
    try:
        boot = _BOOT_ID.read_bytes().strip()
    except OSError:
        return ""
    found = directory.stat()
    seen = b"%s/%d/%d" % (boot, found.st_dev, found.st_ino)
    return hashlib.blake2b(seen, digest_size=16, person=b"drtp directory").hexdigest()


def is_own_private(directory: Path) -> bool:
    """A real directory of this user's that nobody else may enter, reached by no link."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return mine and Path(os.path.realpath(directory)) == directory
