"""Backup and restore of a control plane: one file with everything that cannot be made again.

A backup may be taken while the control plane runs. A restore starts a new life of it: the store's revision leaps, the
incarnation grows at the next start, and the pepper of enrolment secrets is a new one, so spent secrets stay spent.
Edges keep their identities: the authority is in the backup too, which therefore is as secret as the authority itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw

from drtp.issuers.audit import AuditLog
from drtp.issuers.trail import Trail
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Retryable, Terminal
from drtp.kit.exclusive import exclusive
from drtp.kit.files import private_directory, sync_directory, write_atomic
from drtp.kit.sockets import operator_socket
from drtp.main.embedded.operator_client import OperatorClient
from drtp.main.settings import SETTLED_FILE
from drtp.store import database
from drtp.store.sqlite import FILE, LOCK

STORE = "store"
AUTHORITY = "authority"
PEPPERS = "peppers"
ENROLMENT_PEPPER = "pepper-enrolment"
LOGIN_PEPPER = "pepper-logins"
AUDIT = "audit"
_KEPT = (SETTLED_FILE, AUTHORITY, PEPPERS, AUDIT, "signing", "issuers.yaml")
_BACKED_UP = "backup made"


def back_up(directory: Path, target: Path) -> None:
    """Write a backup of the control plane in `directory` to the new file `target` (0600), whole or not at all.

    Raises: Terminal if there is no control plane (DRTP-7048), its store cannot be read, or a link stands where a file
    or directory should: the backup would hold the link alone.
    """
    source = directory / STORE / FILE
    if not source.exists():
        raise Terminal("DRTP-7048", f"There is no control plane in {directory}.")
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as scratch:
        # The store first: the authority's files are only ever added to, so what the store names is there afterwards.
        copy = Path(scratch) / FILE
        _copy_store(source, copy)
        packed = Path(scratch) / "packed"
        with os.fdopen(os.open(packed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                archive.add(copy, f"{STORE}/{FILE}")
                for name in _KEPT:
                    if (directory / name).exists():
                        archive.add(directory / name, name, filter=_plain)
            file.flush()
            os.fsync(file.fileno())
        packed.replace(target)
    sync_directory(target.parent)


def restore(backup: Path, directory: Path) -> None:
    """Put the control plane in `backup` in the place of the one in `directory`, which must not be running.

    What was there is kept beside it, as `<directory>.before-restore`. Raises: Terminal for a file that is no sound
    backup (then nothing has changed), and DRTP-1007 while a control plane runs there.
    """
    fresh = directory.with_name(f".{directory.name}.restoring")
    shutil.rmtree(fresh, ignore_errors=True)
    _unpack(backup, private_directory(fresh))
    # What was spent since, or ended, would be good again: secrets are made anew, and people sign in again.
    for spent in (ENROLMENT_PEPPER, LOGIN_PEPPER):
        (fresh / PEPPERS / spent).unlink(missing_ok=True)
    _make_private(fresh)
    unpacked = fresh / STORE / FILE
    leapt = fresh / STORE / f"{FILE}.leapt"
    database.restore(unpacked, leapt)
    leapt.replace(unpacked)
    _keep_later_roots(fresh, directory)
    _record_restore(backup, fresh, directory)
    _switch(fresh, directory)


def _keep_later_roots(fresh: Path, directory: Path) -> None:
    """Roots newer than the backup stay on disk: edges that trust them alone learn from them what counts now."""
    for path in (directory / AUTHORITY).glob("identity-root-*.pem"):
        target = fresh / AUTHORITY / path.name
        if not target.exists():
            write_atomic(target, path.read_bytes())


def record_backup(directory: Path, target: Path) -> None:
    """Write into the audit log that a backup was made: by the running control plane, or here where none runs.

    Raises: Retryable, Terminal if neither can.
    """
    fields = {"file": str(target), "by": _who()}
    socket = operator_socket(directory)
    if socket.exists():
        with contextlib.suppress(Retryable):
            ask = {"event": _BACKED_UP, "fields": fields}
            asyncio.run(OperatorClient(socket).call("POST", "/v1/audit", ask))
            return
    private_directory(directory / STORE)
    with exclusive(directory / STORE / LOCK, "DRTP-1007", f"A control plane runs in {directory}, and does not answer."):
        _append(directory, _BACKED_UP, **fields)


def _record_restore(backup: Path, fresh: Path, directory: Path) -> None:
    """In the log that goes on from here; the one that is put aside is named by its head, so that neither is lost."""
    aside = directory / AUDIT / "audit.log"
    head = Trail(aside).verify().head if aside.exists() else ""
    _append(fresh, "control plane restored", file=str(backup), by=_who(), aside=head)


def _append(directory: Path, event: str, **fields: str) -> None:
    log = AuditLog(private_directory(directory / AUDIT) / "audit.log", SystemClock())
    try:
        log.write(event, **fields)
    finally:
        log.close()


def _who() -> str:
    """The user of this machine that runs the command."""
    try:
        return f"operator {pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"operator {os.getuid()}"


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Files and directories only, on the way in and out (CVE-2026-42275). Raises: Terminal."""
    if not (member.isreg() or member.isdir()):
        raise Terminal(
            "DRTP-1008", f"{member.name} is neither a file nor a directory, and a backup holds nothing else."
        )
    return member


def _copy_store(source: Path, copy: Path) -> None:
    try:
        connection = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            database.copy_database(connection, copy)
        finally:
            connection.close()
    except apsw.Error as error:
        raise Terminal("DRTP-1008", f"{source} cannot be read: {error}.") from error


def _unpack(backup: Path, into: Path) -> None:
    try:
        with tarfile.open(backup, mode="r:") as archive:
            if f"{STORE}/{FILE}" not in archive.getnames():
                raise Terminal("DRTP-1008", f"{backup} is no backup of a control plane.")
            members = [_plain(member) for member in archive]
            if hasattr(tarfile, "data_filter"):
                archive.extractall(into, members, filter="data")
            else:  # Python before 3.11.4; plain members need no filter
                archive.extractall(into, members)  # noqa: S202 - each member was looked at
    except (tarfile.TarError, OSError) as error:
        raise Terminal("DRTP-1008", f"{backup} is no backup of a control plane: {error}.") from error


def _make_private(directory: Path) -> None:
    for path in (directory, *_walk(directory)):
        path.chmod(0o700 if path.is_dir() else 0o600)


def _walk(directory: Path) -> Iterator[Path]:
    return directory.rglob("*")


def _switch(fresh: Path, directory: Path) -> None:
    before = directory.with_name(f"{directory.name}.before-restore")
    if not directory.exists():
        fresh.replace(directory)
    else:
        private_directory(directory / STORE)
        with exclusive(directory / STORE / LOCK, "DRTP-1007", f"A control plane runs in {directory}."):
            shutil.rmtree(before, ignore_errors=True)
            directory.replace(before)
            fresh.replace(directory)
    sync_directory(directory.parent)
