"""Reading the audit log: any number of files, oldest to newest or back, while they are written and rotated."""

from __future__ import annotations

import contextlib
import mmap
import os
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from drtp.api.audit import LINES_MAX, START, AuditLine, AuditPage, AuditWanted, Broken, Chain, Order, Verdict, read_line
from drtp.kit.errors import NotFound

SCAN_BYTES_MAX = 64 << 20
"""Looked through for one answer: about a second. Whoever wants more asks again from where it ended."""
PLACES_MAX = 1000
"""Ends of answers that are remembered; others are found again by looking for their hash."""


@dataclass(frozen=True, slots=True)
class _File:
    """One open file. `size`: up to the end of its last whole line; `torn`: something follows that."""

    name: str
    inode: int
    data: mmap.mmap | bytes
    size: int
    torn: bool

    def spans(self, order: Order, start: int) -> Iterator[tuple[int, int]]:
        """(first byte, line feed) of each line; from `start` on, or of those that end before it."""
        if order is Order.OLDEST:
            while start < self.size:
                end = self.data.find(b"\n", start, self.size)
                yield start, end
                start = end + 1
            return
        while start > 0:
            end = start - 1
            start = self.data.rfind(b"\n", 0, end) + 1
            yield start, end


class Look:
    """What a look at the chain has found, from which a later one can go on. Eight bytes for each line."""

    def __init__(self, chain: Chain, known: Iterable[int] = ()) -> None:
        self.chain = chain
        self.fault = ""
        self.place = (0, 0)
        """The newest file's inode, and the end of its last whole line."""
        self._known = array("q", known)

    def note(self, line: AuditLine) -> None:
        """A line that holds. Python's hashes of strings are of this process alone: nobody makes two alike."""
        self._known.append(hash(line.hash))

    def ended(self, fault: str, place: tuple[int, int]) -> Look:
        """It is over: from here on it is asked."""
        self.fault, self.place = fault, place
        self._known = array("q", sorted(self._known))
        return self

    def onward(self) -> Look:
        """A new look that begins where this one ended."""
        chain = Chain(self.chain.head)
        chain.start, chain.lines = self.chain.start, self.chain.lines
        return Look(chain, self._known)

    def verdict(self, heads: Iterable[str] = ()) -> Verdict:
        """What to tell whoever asks for these heads."""
        missing = sorted(head for head in set(heads) - {START} if not self._has(head))
        return msgspec.structs.replace(_verdict(self.chain, self.fault), missing=() if self.fault else tuple(missing))

    def _has(self, head: str) -> bool:
        at = bisect_left(self._known, hash(head))
        return at < len(self._known) and self._known[at] == hash(head)


class Trail:
    """The files of one audit log."""

    def __init__(self, path: Path) -> None:
        """`path` is the newest file; `path.1` the one before."""
        self._path = path
        self._places: OrderedDict[str, tuple[int, int, int]] = OrderedDict()

    def page(
        self,
        wanted: AuditWanted,
        *,
        seen_by: str = "",
        order: Order = Order.NEWEST,
        limit: int = LINES_MAX,
        after: str = "",
    ) -> AuditPage:
        """Up to `limit` of the lines `wanted`, from where an earlier page ended (`after` is its `next`).

        `seen_by`: only what people of this project (uid) may see; "": everything. Lines that are not what was written
        are passed over: `verify` finds them. Blocks; for a thread.
        Raises: NotFound DRTP-2042 if the files no longer hold the place.
        """
        if limit < 1:
            return AuditPage(())
        found: list[bytes] = []
        budget = SCAN_BYTES_MAX
        with self._opened() as files:
            ordered = files if order is Order.OLDEST else files[::-1]
            begin = self._place(ordered, after, order) if after else None
            for file, start, end in _walk(ordered, order, begin):
                raw = file.data[start:end]
                if _fits(raw, wanted, seen_by):
                    found.append(raw)
                budget -= len(raw)
                if len(found) == limit or budget <= 0:
                    return AuditPage(tuple(found), self._remember(file, start, end))
        return AuditPage(tuple(found))

    def verify(self, heads: Iterable[str] = ()) -> Verdict:
        """Look at every line there is. `heads`: hashes that must be among them. Blocks; for a thread."""
        with self._opened() as files:
            chain = Chain(heads=heads)
            for place, file in enumerate(files):
                fault = _follow(chain, file, newest=place == len(files) - 1)
                if fault:
                    return _verdict(chain, fault)
            return _verdict(chain, "")

    def look(self, before: Look | None = None) -> Look:
        """Look at every line there is; or at those since `before`, if its last line is where it was.

        A fault that `before` found is told again, without a look. Blocks; for a thread.
        """
        if before is not None and before.fault:
            return before
        with self._opened() as files:
            first, offset = _went_on(files, before)
            look = before.onward() if before is not None and first >= 0 else Look(Chain())
            for index, file in enumerate(files[max(0, first) :], start=max(0, first)):
                newest = index == len(files) - 1
                fault = _follow(look.chain, file, newest=newest, start=offset if index == first else 0, note=look.note)
                if fault or newest:
                    return look.ended(fault, (file.inode, file.size))
            return look.ended("", (0, 0))

    @contextlib.contextmanager
    def _opened(self) -> Generator[list[_File]]:
        """All files, oldest first, as of one moment.

        Opened from the newest on: a rotation meanwhile shows a file twice, which its inode tells, and leaves none out.
        """
        files: list[_File] = []
        with contextlib.ExitStack() as stack:
            for number in range(self._oldest() + 2):
                file = _open(self._numbered(number), stack)
                if file is not None and all(file.inode != known.inode for known in files):
                    files.append(file)
            yield files[::-1]

    def _oldest(self) -> int:
        numbers = (path.suffix[1:] for path in self._path.parent.glob(f"{self._path.name}.*"))
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path

    def _remember(self, file: _File, start: int, end: int) -> str:
        """The place as its line's hash: it tells nothing of what else is in the files."""
        mark = bytes(file.data[end - 66 : end - 2]).decode("ascii", "replace")
        self._places[mark] = (file.inode, start, end)
        if len(self._places) > PLACES_MAX:
            self._places.popitem(last=False)
        return mark

    def _place(self, files: list[_File], mark: str, order: Order) -> tuple[int, int]:
        """(index of the file, where to go on in it)."""
        inode, start, end = self._places.get(mark, (0, 0, 0))
        tail = f'"hash":"{mark}"}}\n'.encode()
        for index, file in enumerate(files):
            if file.inode == inode and file.data[max(0, end + 1 - len(tail)) : end + 1] == tail:
                return index, end + 1 if order is Order.OLDEST else start
        for index, file in enumerate(files):
            if (at := file.data.find(tail, 0, file.size)) >= 0:
                return index, at + len(tail) if order is Order.OLDEST else file.data.rfind(b"\n", 0, at) + 1
        raise NotFound("DRTP-2042")


def _open(path: Path, stack: contextlib.ExitStack) -> _File | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        facts = os.fstat(descriptor)
        data = stack.enter_context(mmap.mmap(descriptor, facts.st_size, prot=mmap.PROT_READ)) if facts.st_size else b""
    finally:
        os.close(descriptor)
    size = data.rfind(b"\n") + 1
    return _File(path.name, facts.st_ino, data, size, torn=size < len(data))


def _walk(files: list[_File], order: Order, begin: tuple[int, int] | None) -> Iterator[tuple[_File, int, int]]:
    first, offset = begin or (0, -1)
    for index, file in enumerate(files[first:], start=first):
        edge = 0 if order is Order.OLDEST else file.size
        for start, end in file.spans(order, offset if begin and index == first else edge):
            yield file, start, end


def _fits(raw: bytes, wanted: AuditWanted, seen_by: str) -> bool:
    # Most lines of a busy installation are another project's: a look at the bytes spares reading them.
    if seen_by and seen_by.encode() not in raw:
        return False
    try:
        line = read_line(raw)
    except Broken:
        return False  # `verify` is for these
    return (not seen_by or line.seen_by(seen_by)) and wanted.takes(line)


def _went_on(files: list[_File], before: Look | None) -> tuple[int, int]:
    """Where a look goes on: (index of the file, where in it); -1 where everything has to be looked at."""
    if before is None:
        return -1, 0
    inode, size = before.place
    tail = f'"hash":"{before.chain.head}"}}\n'.encode()
    for index, file in enumerate(files):
        if file.inode == inode and file.data[max(0, size - len(tail)) : size] == tail:
            return index, size
    return -1, 0


def _nobody(_line: AuditLine) -> None:
    return


def _follow(
    chain: Chain, file: _File, *, newest: bool, start: int = 0, note: Callable[[AuditLine], None] = _nobody
) -> str:
    """Take in one file, from `start` on; gives what is wrong with it, "" if nothing is."""
    number = 0
    for number, (begin, end) in enumerate(file.spans(Order.OLDEST, start), start=1):
        try:
            note(chain.take(file.data[begin:end]))
        except Broken as fault:
            return f"line {number} of {file.name} {fault}"
    # The newest file may be in the middle of a write.
    return f"line {number + 1} of {file.name} is torn" if file.torn and not newest else ""


def _verdict(chain: Chain, fault: str) -> Verdict:
    return Verdict(
        sound=not fault,
        lines=chain.lines,
        head=chain.head or START,
        whole=chain.start in (None, START),
        fault=fault,
        missing=() if fault else chain.missing,
    )
