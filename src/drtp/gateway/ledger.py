"""What Envoy has said of each resource, and what follows for each entry of the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from drtp.api.reports import ExposureReport, ExposureState
from drtp.api.snapshots import DenyEntry, Entry, GatewayListener, HttpHost, SniExposure, Source, TcpExposure, TrustEntry
from drtp.gateway.delta import Verdict
from drtp.gateway.program import Program
from drtp.gateway.resources import Kind, Ref, Resources, no_resources
from drtp.kit.latest import Latest

MESSAGE_MAX = 500  # Envoy quotes whole configurations


SHARED_PORT = "Envoy refused the port that this name shares with others; the gateway's log has its words"


class Refusal(msgspec.Struct, frozen=True):
    """A version that Envoy did not take, and its words."""

    version: str
    message: str


class Ledger:
    """Verdicts by resource. `changed` counts up with each batch of them."""

    def __init__(self) -> None:
        self._taken: dict[Kind, dict[str, str]] = {kind: {} for kind in Kind}
        self._refused: dict[Ref, Refusal] = {}
        self._batches = 0
        self.streams = 0
        """Grows with each Envoy that connects: what was known before is not known any more."""
        self.changed: Latest[int] = Latest(0)

    def restart(self) -> None:
        """A new stream: nothing is known until Envoy says what it holds."""
        for versions in self._taken.values():
            versions.clear()
        self._refused.clear()
        self.streams += 1

    def record(self, verdicts: Iterable[Verdict]) -> None:
        """Note what Envoy said."""
        for verdict in verdicts:
            kind, name = verdict.ref
            if not verdict.version:
                self._taken[kind].pop(name, None)
                self._refused.pop(verdict.ref, None)
            elif verdict.error is None:
                self._taken[kind][name] = verdict.version
                self._refused.pop(verdict.ref, None)
            else:
                self._refused[verdict.ref] = Refusal(verdict.version, verdict.error)
        self._batches += 1
        self.changed.set(self._batches)

    def refusal(self, ref: Ref, resources: Resources) -> str | None:
        """Envoy's words if it refused the version that stands now."""
        refused = self._refused.get(ref)
        resource = resources[ref.kind].get(ref.name)
        if refused is None or resource is None or refused.version != resource.version:
            return None
        return refused.message

    def any_refused(self) -> bool:
        """Something waits to be offered again."""
        return bool(self._refused)

    def taken(self, ref: Ref, resources: Resources) -> bool:
        """Envoy holds the version that stands now. What is not there counts: there is nothing to wait for."""
        resource = resources[ref.kind].get(ref.name)
        return resource is None or self._taken[ref.kind].get(ref.name) == resource.version

    def holds_all(self, kind: Kind, resources: Resources) -> bool:
        """Envoy holds the versions of this kind that stand now."""
        taken = self._taken[kind]
        return all(taken.get(name) == resource.version for name, resource in resources[kind].items())

    def leaving(self, resources: Resources) -> bool:
        """Envoy holds a listener or a cluster that shall not be any more."""
        return any(not self._taken[kind].keys() <= resources[kind].keys() for kind in (Kind.CLUSTER, Kind.LISTENER))

    def answered(self, refs: Iterable[Ref], resources: Resources) -> bool:
        """Envoy has taken or refused each of these."""
        return all(self.taken(ref, resources) or self.refusal(ref, resources) is not None for ref in refs)


class Docket:
    """The entries that wait for Envoy's verdict: what a new program touches, and what is still open."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._streams = ledger.streams
        self._entries: Mapping[str, Entry] = {}
        self._program = Program(no_resources(), {}, {}, {}, {}, frozenset())
        self._open: set[str] = set()

    def follow(self, entries: Mapping[str, Entry], program: Program) -> None:
        """These are the entries, and the program, from now on."""
        self._entries, self._program = entries, program
        self._open = {key for key in self._open | program.touched if key in entries}

    def conclude(self, refused_hosts: Mapping[str, str]) -> dict[str, ExposureReport]:
        """Reports for entries that have their verdict now; those without one keep what they had.

        Listeners and exposures fail with the resource they live in; what merely stands beside a refusal does not.
        """
        if self._streams != self._ledger.streams:
            self._streams = self._ledger.streams
            self._open = set(self._entries)
        reports: dict[str, ExposureReport] = {}
        for key in list(self._open):
            report = _report(key, self._entries[key], self._program, self._ledger, refused_hosts)
            if report is not None:
                reports[key] = report
                if report.state is ExposureState.PROGRAMMED and self._is_answered(key):
                    self._open.discard(key)
        return reports

    def settled(self) -> bool:
        """Envoy has answered for every entry, and let go of what shall not be."""
        return all(self._is_answered(key) for key in self._open) and not self._ledger.leaving(self._program.resources)

    def _is_answered(self, key: str) -> bool:
        return self._ledger.answered(self._program.needs.get(key, ()), self._program.resources)


def _report(
    key: str, entry: Entry, program: Program, ledger: Ledger, quarantined: Mapping[str, str]
) -> ExposureReport | None:
    fault = quarantined.get(key) or program.faults.get(key)
    if fault:
        return _failed(entry, fault)
    refs = program.needs.get(key, ())
    pending = False
    for ref in refs:
        message = ledger.refusal(ref, program.resources)
        if message is not None:
            if ref.kind is Kind.ROUTES and isinstance(entry, HttpHost | GatewayListener):
                pending = True  # the host behind it is being found; this entry may be innocent
                continue
            # Many tenants' names stand on one listener, and Envoy may speak of any.
            shared = ref.kind is Kind.LISTENER and isinstance(entry, SniExposure | HttpHost)
            return _failed(entry, SHARED_PORT if shared else message)
        pending = pending or not ledger.taken(ref, program.resources)
    if pending and isinstance(entry, GatewayListener | HttpHost | SniExposure | TcpExposure):
        return None
    return ExposureReport(state=ExposureState.PROGRAMMED, sources=entry_sources(entry))


def _failed(entry: Entry, message: str) -> ExposureReport:
    return ExposureReport(state=ExposureState.FAILED, message=message[:MESSAGE_MAX], sources=entry_sources(entry))


def entry_sources(entry: Entry) -> tuple[Source, ...]:
    """The objects that an entry was computed from; none for kinds that name none."""
    return () if isinstance(entry, TrustEntry | DenyEntry) else entry.sources
