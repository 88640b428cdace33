"""GatewayTable → everything Envoy shall hold, slice by slice: a change of the table builds again what it reaches.

Slices (`slices.py`) are pure; here is who stands where, who looked at what, and what all slices together come to. A
program of one build differs from the one before in what its `touched` entries live in, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, Generic, TypeVar, cast

import msgspec

from drtp.api.snapshots import (
    Entry,
    GatewayListener,
    HttpHost,
    ServingCertificate,
    SniExposure,
    TcpExposure,
)
from drtp.gateway.accesslogs import AccessLogs
from drtp.gateway.clusters import CONNECTIONS_MAX
from drtp.gateway.memo import Memo
from drtp.gateway.resources import Kind, Ref, Resource, Resources, no_resources
from drtp.gateway.slices import Around, Credentials, Draft, Means, Part, Slice
from drtp.rules import entrykeys

__all__ = ["Builder", "Credentials", "Program"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
E = TypeVar("E", bound=Entry)
Place = tuple[str, int]
Unit = tuple[int, str, str, int]
"""What a slice is of: rank (each after what it depends on), entry key, and the place of a socket or route table."""

_SECRET, _SOCKET, _HOST, _ROUTES = range(4)
_IDENTITY: Unit = (_SECRET, "", "", 0)
_EXTENSIONS: Unit = (_SECRET, "", "extensions", 0)
_NOTHING = Slice()


class Program(msgspec.Struct, frozen=True):
    """Resources, and how they hang together with the table's entries.

    needs: entry key -> the resources it lives in. faults: entry key -> why (part of) it could not be built.
    services: cluster name -> service uid, for reading access logs. hosts: RDS name -> (entry key, host) in it.
    touched: entries that are others than in the program before, or whose resources are.
    unused: POPs (server uids) that get no visitors of any service, because they are dead or leave.
    """

    resources: Resources
    needs: Mapping[str, tuple[Ref, ...]]
    faults: Mapping[str, str]
    services: Mapping[str, str]
    hosts: Mapping[str, tuple[tuple[str, HttpHost], ...]]
    touched: frozenset[str]
    unused: frozenset[str] = frozenset()


class _Shelf(Generic[K, V]):
    """What all slices together give, by key; several may give the same."""

    def __init__(self, joined: Callable[[Iterable[V]], V]) -> None:
        """`joined`: one value of those that slices give under one key, in the slices' own order."""
        self._joined = joined
        self._given: dict[K, dict[Unit, V]] = {}
        self.values: dict[K, V] = {}

    def put(self, unit: Unit, before: Mapping[K, V], after: Mapping[K, V]) -> set[K]:
        """`unit` gives `after` and no longer `before`. Gives the keys whose value is another now."""
        changed: set[K] = set()
        for key in before.keys() - after.keys():
            del self._given[key][unit]
            changed.add(key)
        for key, value in after.items():
            if key not in before or (before[key] is not value and before[key] != value):
                self._given.setdefault(key, {})[unit] = value
                changed.add(key)
        return {key for key in changed if self._settled(key)}

    def _settled(self, key: K) -> bool:
        given = self._given[key]
        if not given:
            del self._given[key], self.values[key]
            return True
        value = self._joined(given[unit] for unit in sorted(given))
        if self.values.get(key) == value:
            return False
        self.values[key] = value
        return True


def _names(credentials: Credentials | None) -> tuple[str, str]:
    return (credentials.uid, credentials.trust_domain) if credentials else ("", "")


def _asks(entry: Entry | None) -> bool:
    return isinstance(entry, HttpHost) and entry.asks_who


def _first(values: Iterable[V]) -> V:
    return next(iter(values))


def _all_refs(values: Iterable[tuple[Ref, ...]]) -> tuple[Ref, ...]:
    return tuple(dict.fromkeys(ref for refs in values for ref in refs))


class Builder:
    """Builds programs one after another; what has not changed is neither built nor encoded again."""

    def __init__(
        self,
        logs: AccessLogs,
        balancers: tuple[str, ...] = (),
        connections_max: int = CONNECTIONS_MAX,
        *,
        conceals: bool = False,
    ) -> None:
        """`balancers`: networks whose PROXY headers are believed; with any, nobody else is let in.

        `connections_max`: of the whole gateway; a TCP service gets half, so that its flood leaves room for others.
        `conceals`: no visitor is introduced where others can read it.
        """
        self._means = Means(logs, balancers, connections_max // 2, conceals, Memo[Resource](), Memo[Part]())
        self._entries: Mapping[str, Entry] = {}
        self._at: dict[Place, dict[str, Entry]] = {}
        self._users: dict[str, set[Unit]] = {}
        self._slices: dict[Unit, Slice] = {}
        self._credentials: Credentials | None = None
        self._around = Around()
        self._refused: frozenset[str] = frozenset()
        self._resources = no_resources()
        self._kept: _Shelf[Ref, Resource] = _Shelf(_first)
        self._needs: _Shelf[str, tuple[Ref, ...]] = _Shelf(_all_refs)
        self._faults: _Shelf[str, str] = _Shelf(_first)
        self._services: _Shelf[str, str] = _Shelf(_first)
        self.runs = 0
        """How many slices have been built so far: the measure of O(changed)."""

    @property
    def encodings(self) -> int:
        """How many resources and hosts have been encoded so far."""
        return self._means.encoded.built + self._means.virtual_hosts.built

    def build(
        self,
        entries: Mapping[str, Entry],
        *,
        credentials: Credentials | None = None,
        dead: Collection[str] = (),
        leaving: Collection[str] = (),
        near: Mapping[str, str] | None = None,
        refused: Collection[str] = (),
    ) -> Program:
        """`dead`, `leaving`: POPs (server uids) that were found so. `near`: where those of this machine have sockets.

        `refused`: keys of hosts that Envoy did not take, which get a page.
        """
        changed = self._take(entries)
        touched = set(changed)
        dirty = {unit for key, former in changed.items() for unit in self._concerned(key, former)}
        if _EXTENSIONS not in self._slices:
            dirty.add(_EXTENSIONS)
        if credentials != self._credentials:
            self._credentials = credentials
            dirty.add(_IDENTITY)
        around = Around(frozenset(dead), frozenset(leaving), near or {}, *_names(credentials))
        if around != self._around:
            self._around = around
            dirty |= {unit for users in self._users.values() for unit in users}
        if (shunned := frozenset(refused)) != self._refused:
            touched |= shunned ^ self._refused
            dirty |= {(_HOST, key, "", 0) for key in shunned ^ self._refused}
            self._refused = shunned
        touched |= self._rebuild(dirty)
        return Program(
            resources=dict(self._resources),
            needs=dict(self._needs.values),
            faults=dict(self._faults.values),
            services=dict(self._services.values),
            hosts={
                ref.name: one.hosts for unit, one in self._slices.items() if unit[0] == _ROUTES for ref in one.resources
            },
            touched=frozenset(touched),
            unused=self._unused(),
        )

    def _unused(self) -> frozenset[str]:
        shaky = self._around.dead | self._around.leaving
        return shaky.difference(*(one.serving for one in self._slices.values())) if shaky else shaky

    # ---- who is concerned ------------------------------------------------------------------------------------------

    def _take(self, entries: Mapping[str, Entry]) -> dict[str, Entry | None]:
        """Hold these entries; gives those that are others now, as they were. The very same cost a look at a pointer."""
        before = self._entries
        self._entries = entries
        others = [key for key, entry in entries.items() if before.get(key) is not entry]
        others = [key for key in others if before.get(key) != entries[key]]
        changed = {key: before.get(key) for key in (*others, *(before.keys() - entries.keys()))}
        for key, former in changed.items():
            self._leave(key, former)
            self._stand(key, entries.get(key))
        return changed

    def _leave(self, key: str, entry: Entry | None) -> None:
        if isinstance(entry, GatewayListener | TcpExposure | SniExposure | HttpHost):
            place = (entry.address, entry.port)
            del self._at[place][key]
            if not self._at[place]:
                del self._at[place]

    def _stand(self, key: str, entry: Entry | None) -> None:
        if isinstance(entry, GatewayListener | TcpExposure | SniExposure | HttpHost):
            self._at.setdefault((entry.address, entry.port), {})[key] = entry

    def _concerned(self, key: str, former: Entry | None) -> Iterable[Unit]:
        """Slices that are made of an entry that has changed."""
        yield from self._users.get(key, ())
        for entry in (former, self._entries.get(key)):
            match entry:
                case GatewayListener() | TcpExposure() | SniExposure():
                    yield (_SOCKET, "", entry.address, entry.port)
                    if isinstance(entry, GatewayListener):
                        yield (_ROUTES, "", entry.address, entry.port)
                case HttpHost():
                    yield (_HOST, key, "", 0)
                    yield (_ROUTES, "", entry.address, entry.port)
                    if entry.asks_who != _asks(self._entries.get(key) if entry is former else former):
                        yield (_SOCKET, "", entry.address, entry.port)
                case ServingCertificate():
                    yield (_SECRET, key, "", 0)
                case _:
                    continue

    # ---- building --------------------------------------------------------------------------------------------------

    def _rebuild(self, dirty: set[Unit]) -> set[str]:
        """Build these slices again, each after what it depends on. Gives the entries whose resources are others."""
        touched: set[str] = set()
        changed: set[Ref] = set()
        built = sorted(unit for unit in dirty if unit[0] != _ROUTES)
        tables = {unit for unit in dirty if unit[0] == _ROUTES}
        for unit in built:
            before = self._slices.get(unit, _NOTHING)
            changed |= self._run(unit, touched)
            after = self._slices.get(unit, _NOTHING)
            if unit[0] == _SOCKET and before.needs != after.needs:
                tables.add((_ROUTES, "", unit[2], unit[3]))
            host = self._entries.get(unit[1]) if unit[0] == _HOST else None
            if isinstance(host, HttpHost) and before.part is not after.part:
                tables.add((_ROUTES, "", host.address, host.port))
        for unit in sorted(tables):
            changed |= self._run(unit, touched)
        # Hosts stand on their socket's listener. Of their table they hear by themselves, or each would of every other.
        others = {ref for ref in changed if ref.kind is not Kind.ROUTES}
        sockets = [(_ROUTES, *unit[1:]) for unit in built if unit[0] == _SOCKET]
        for unit in (*built, *sockets):
            for key, refs in self._slices.get(unit, _NOTHING).needs.items():
                if not others.isdisjoint(refs):
                    touched.add(key)
        touched |= {key for unit in tables if (key := entrykeys.listener(unit[2], unit[3])) in self._entries}
        self._store(changed)
        return touched

    def _run(self, unit: Unit, touched: set[str]) -> set[Ref]:
        """Build one slice; gives the resources that are others now."""
        self.runs += 1
        before = self._slices.pop(unit, _NOTHING)
        draft = Draft(self._means, self._entries.get, self._around)
        self._draw(unit, draft)
        after = draft.slice()
        self._means.encoded.want(unit, draft.names)
        self._means.virtual_hosts.want(unit, draft.names)
        if after != _NOTHING:
            self._slices[unit] = after
        for key in before.uses - after.uses:
            self._users[key].discard(unit)
            if not self._users[key]:
                del self._users[key]
        for key in after.uses - before.uses:
            self._users.setdefault(key, set()).add(unit)
        touched |= self._needs.put(unit, before.needs, after.needs)
        touched |= self._faults.put(unit, before.faults, after.faults)
        self._services.put(unit, before.services, after.services)
        return self._kept.put(unit, before.resources, after.resources)

    def _draw(self, unit: Unit, draft: Draft) -> None:
        rank, key, *place = unit
        address, port = cast("Place", tuple(place))
        entry = self._entries.get(key)
        if rank == _SECRET and isinstance(entry, ServingCertificate):
            draft.certificate(key.removeprefix("certificate/"), entry)
        elif unit == _IDENTITY and self._credentials is not None:
            draft.identity(self._credentials)
        elif unit == _EXTENSIONS:
            draft.extensions()
        elif rank == _HOST and isinstance(entry, HttpHost):
            draft.host(key, entry, refused=key in self._refused)
        elif rank == _SOCKET:
            tcp = self._standing((address, port), TcpExposure)
            sni = self._standing((address, port), SniExposure)
            hosts = self._standing((address, port), HttpHost)
            asking = sorted({host.hostname.lower() for _, host in hosts if host.asks_who})
            draft.socket(self._listener((address, port)), tcp[0] if tcp else None, sni, asking)
        elif rank == _ROUTES:
            hosts = self._standing((address, port), HttpHost)
            found = ((key, self._slices.get((_HOST, key, "", 0), _NOTHING).part) for key, _ in hosts)
            parts = {key: part for key, part in found if part is not None}
            socket = self._slices.get((_SOCKET, "", address, port), _NOTHING)
            beside = socket.needs.get(entrykeys.listener(address, port), ())
            draft.routes(self._listener((address, port)), beside, hosts, parts)

    def _listener(self, place: Place) -> tuple[str, GatewayListener] | None:
        return next(iter(self._standing(place, GatewayListener)), None)

    def _standing(self, place: Place, kind: type[E]) -> list[tuple[str, E]]:
        """Entries of one kind at a place, by key, so that equal tables build equal bytes."""
        found = self._at.get(place, {})
        return sorted((key, entry) for key, entry in found.items() if isinstance(entry, kind))

    def _store(self, changed: set[Ref]) -> None:
        """Bring the resources by kind up to date; kinds in which nothing has changed stay the very same."""
        for kind in Kind:
            refs = [ref for ref in changed if ref.kind is kind]
            if refs:
                fresh: dict[str, Any] = dict(self._resources[kind])
                for ref in refs:
                    if ref in self._kept.values:
                        fresh[ref.name] = self._kept.values[ref]
                    else:
                        fresh.pop(ref.name, None)
                self._resources[kind] = fresh
