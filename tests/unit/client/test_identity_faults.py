"""Every write, sync, rename, link and removal of an identity's switch fails once; an identity is always there.

The calls fail where the standard library makes them, one by one, so a call that is added later is tried as well.
"""
# pyright: reportOptionalMemberAccess=false

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from drtp.client.identity import Identity, IdentityStore
from drtp.client.keys import new_key
from unit.client.test_identity import certificate, identity

CALLS = ("open", "fsync", "replace", "rename", "symlink", "unlink", "mkdir", "rmdir", "fchmod")
FATAL_MAX = 200
"""More calls than any of the operations makes; a loop that never ends shows."""


class Injected(OSError):
    """Ours, so that nothing else passes for it."""


class Fault:
    """Fails the `at`-th call, before it does anything, or (`late`) after."""

    def __init__(self, at: int, *, late: bool) -> None:
        self.at = at
        self.late = late
        self.made = 0
        self.hit = ""

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **named: Any) -> Any:
            self.made += 1
            if self.made != self.at:
                return call(*args, **named)
            self.hit = name
            if self.late:
                call(*args, **named)
            raise Injected(errno.EIO, os.strerror(errno.EIO), name)

        return made


@contextmanager
def failing(at: int, monkeypatch: pytest.MonkeyPatch, *, late: bool) -> Generator[Fault]:
    fault = Fault(at, late=late)
    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, fault.around(name, getattr(os, name)))
        fdopen = os.fdopen

        def opened(*args: Any, **named: Any) -> Any:
            file = fdopen(*args, **named)
            # A buffered file's write reaches the kernel at `flush`.
            return _Written(file, fault)

        patch.setattr(os, "fdopen", opened)
        yield fault


class _Written:
    """A file whose write and flush count as calls too."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self._file = file
        self._fault = fault

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        return self._fault.around("write", self._file.write)(data)

    def flush(self) -> None:
        self._fault.around("flush", self._file.flush)()

    def fileno(self) -> int:
        return self._file.fileno()


def install(store: IdentityStore, one: Identity, two: Identity) -> None:
    store.install(two)


def confirm(store: IdentityStore, one: Identity, two: Identity) -> None:
    store.install(two)
    store.confirm(two)


def choose(store: IdentityStore, one: Identity, two: Identity) -> None:
    store.install(two)
    store.choose(one)


def trust(store: IdentityStore, one: Identity, two: Identity) -> None:
    store.trust(one, one.bundle_pem + certificate(new_key()))


def renew(store: IdentityStore, one: Identity, two: Identity) -> None:
    """As a renewal goes: the key first, then the certificate, then the proof that it works."""
    key = store.pending_key()
    following = identity(key, generation=2)
    store.install(following)
    store.confirm(following)


@pytest.mark.parametrize("late", [False, True], ids=["undone", "done and denied"])
@pytest.mark.parametrize("operation", [install, confirm, choose, trust, renew])
def test_whatever_fails_an_identity_works_and_the_next_attempt_succeeds(
    operation: Callable[[IdentityStore, Identity, Identity], None],
    late: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: set[str] = set()
    for at in range(1, FATAL_MAX):
        state = tmp_path / str(at)
        one = identity(new_key(), generation=1)
        two = identity(new_key(), generation=2)
        IdentityStore(state).install(one)
        with failing(at, monkeypatch, late=late) as fault:
            try:
                operation(IdentityStore(state), one, two)
                failed = False
            except Injected:
                failed = True
        tried.add(fault.hit)
        # The next process, with whatever it finds.
        store = IdentityStore(state)
        held = store.load()
        assert held is not None, fault.hit
        assert held.generation in {1, 2}
        assert store.paths(held).key.read_bytes() == held.key_pem.reveal()
        other = store.other()
        assert other is None or other.generation in {1, 2}
        # And a renewal from there goes through, by the key that may have been asked for already.
        # But not by the one in use: the authority would take it for a copy, and lock the identity.
        asking = store.pending_key()
        assert asking != held.key_pem, fault.hit
        following = identity(asking, generation=held.generation + 1)
        store.install(following)
        store.confirm(following)
        assert IdentityStore(state).load() == following
        if not failed and not fault.hit:
            assert at > 5, "nothing was tried"
            assert {"open", "fsync", "write", "replace"} <= tried
            return
    pytest.fail("the operation makes more calls than were tried")


def test_a_removal_that_stops_midway_leaves_no_half_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order a file system lists a directory: what says that an identity is whole goes first."""
    one, two = identity(new_key(), generation=1), identity(new_key(), generation=2)
    store = IdentityStore(tmp_path)
    store.install(one)
    store.install(two)

    def stops(directory: Path) -> None:
        (directory / "chain.pem").unlink()
        raise Injected(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("drtp.client.identity.shutil.rmtree", stops)
        with pytest.raises(Injected):
            store.confirm(two)
    assert store.load() == two
    assert store.other() is None
