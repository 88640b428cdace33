"""Names by default: the same command on the same machine finds its own service again; two laptops never merge."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path

from drtp.main.shell import Misused

_FILE_CHARS_MAX = 200
_NAME_CHARS_MAX = 40
"""Leaves room below the 63 of a DNS label for the suffix of the connection's name."""


def machine() -> str:
    """What tells this machine and user from others; only the part before the slash leaves the machine unhashed.

    DRTP_MACHINE names it where host names and machine ids are not told apart, as in some container platforms.
    """
    if given := os.environ.get("DRTP_MACHINE"):
        return given
    try:
        # Containers often share or lack it: the host name beside it then tells them apart.
        machine_id = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine_id = ""
    return f"{socket.gethostname()}/{machine_id}/{os.getuid() if hasattr(os, 'getuid') else ''}"


def default_name(target: str, on: str | None = None) -> str:
    """`joes-laptop-8080-3f9a2c`: a legal object name made of host, port and a hash of machine and `target`."""
    origin = on if on is not None else machine()
    digest = hashlib.sha256(f"{origin}\0{target}".encode()).hexdigest()[:6]
    port = target.rsplit(":", 1)[-1]
    host = slug(origin.split("/", 1)[0].split(".", 1)[0])
    return f"{host[: _NAME_CHARS_MAX - len(port) - 8].strip('-') or 'host'}-{port}-{digest}"


def in_project(written: str, given: str | None, usual: str) -> tuple[str, str]:
    """Project and name of what was written `NAME` or `PROJECT/NAME`; `given` by an option, `usual` the context's.

    Raises: Misused (DRTP-7002) for two projects, or a name that is none.
    """
    project, slash, name = written.rpartition("/")
    if not name or "/" in project or (slash and not project):
        raise Misused("DRTP-7002", f"{written!r} is no name.", "Write NAME or PROJECT/NAME.")
    if project and given and given != project:
        raise Misused("DRTP-7002", f"{written} and --namespace {given} are two projects.", "Name one of them.")
    return project or given or usual, name


def slug(text: str) -> str:
    """Lower case letters, digits and single dashes; begins with a letter."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return plain if plain[:1].isalpha() else f"h-{plain}".rstrip("-")


def state_name(words: str) -> str:
    """A file name for `words`, which tell one agent's services from another's: a long one ends in a digest of all."""
    if len(words) <= _FILE_CHARS_MAX:
        return words
    return f"{words[: _FILE_CHARS_MAX - 9]}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def state_key(api: str, installation: str) -> str:
    """Eight letters that stand for one control plane, so that states of two never mix."""
    return hashlib.sha256(f"{api}\0{installation}".encode()).hexdigest()[:8]
