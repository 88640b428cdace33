"""One slice of what Envoy holds: a socket with what stands on it, a host, a route table, a secret. Pure but for a memo.

A slice is built from a few entries of the table, and says which it looked at, so that it is built again when one of
these has changed, and not before. Each entry also learns which resources it lives in, so that it counts as programmed
once Envoy has acknowledged exactly those, and which entry to blame when Envoy refuses one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from drtp.api.snapshots import (
    Backend,
    DenyEntry,
    Entry,
    GatewayListener,
    HttpHost,
    ListenerProtocol,
    ServingCertificate,
    SignInEntry,
    SniExposure,
    TcpExposure,
)
from drtp.gateway import clusters, listeners, routes, visitors
from drtp.gateway.accesslogs import AccessLogs
from drtp.gateway.admission import admitted
from drtp.gateway.balancers import behind
from drtp.gateway.clusters import Carries
from drtp.gateway.memo import Memo
from drtp.gateway.protos import concatenate, encode
from drtp.gateway.resources import Kind, Ref, Resource, content_hash
from drtp.rules import asking, entrykeys

Json = dict[str, Any]
Named = tuple[str, Any]


class Credentials(msgspec.Struct, frozen=True):
    """What the gateway shows to POPs, and what it holds certificates against, PEM. `uid`, `trust_domain`: its own."""

    chain_pem: bytes
    key_pem: bytes
    bundle_pem: bytes
    uid: str = ""
    trust_domain: str = ""

    def __repr__(self) -> str:
        """Masked: the key is a secret."""
        return "Credentials(****)"


class Part(msgspec.Struct, frozen=True):
    """An encoding and the hash of what it was made of."""

    version: str
    body: bytes


class Slice(msgspec.Struct, frozen=True):
    """Resources, and how they hang together with the table's entries.

    needs: entry key -> the resources it lives in. faults: entry key -> why (part of) it could not be built.
    services: cluster name -> service uid. uses: keys of the entries that were looked up, there or not.
    serving: POPs (server uids) that are dead or leave, and get visitors all the same, for want of others.
    part: a host's share of its route table. hosts: a route table's, by entry key.
    """

    resources: dict[Ref, Resource] = {}
    needs: dict[str, tuple[Ref, ...]] = {}
    faults: dict[str, str] = {}
    services: dict[str, str] = {}
    uses: frozenset[str] = frozenset()
    serving: frozenset[str] = frozenset()
    part: Part | None = None
    hosts: tuple[tuple[str, HttpHost], ...] = ()


class Around(msgspec.Struct, frozen=True):
    """What the gateway host knows of itself and of POPs (server uids) beside the table.

    `dead`, `leaving`: found so. `near`: directories of sockets of those on this machine. `gateway`: its own uid.
    `trust_domain`: its own, of certificates that it can tell; "" while it has no identity.
    """

    dead: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    near: Mapping[str, str] = {}
    gateway: str = ""
    trust_domain: str = ""


class Means(msgspec.Struct, frozen=True):
    """What all slices are built with. `connections_max`: of one TCP service. `conceals`: introduces nobody."""

    logs: AccessLogs
    balancers: tuple[str, ...]
    connections_max: int
    conceals: bool
    encoded: Memo[Resource]
    virtual_hosts: Memo[Part]


class Draft:
    """One slice in the making."""

    def __init__(self, means: Means, look: Callable[[str], Entry | None], around: Around) -> None:
        """`look`: an entry of the table by its key."""
        self._means = means
        self._look = look
        self._around = around
        self._serving: set[str] = set()
        self._resources: dict[Ref, Resource] = {}
        self._needs: defaultdict[str, list[Ref]] = defaultdict(list)
        self._faults: dict[str, str] = {}
        self._services: dict[str, str] = {}
        self._uses: set[str] = set()
        self._part: Part | None = None
        self._hosts: tuple[tuple[str, HttpHost], ...] = ()
        self.names: set[str] = set()
        """Of the memo's values that went into it."""

    def slice(self) -> Slice:
        """What has come of it."""
        return Slice(
            resources=self._resources,
            needs={key: tuple(dict.fromkeys(refs)) for key, refs in self._needs.items()},
            faults=self._faults,
            services=self._services,
            uses=frozenset(self._uses),
            serving=frozenset(self._serving),
            part=self._part,
            hosts=self._hosts,
        )

    def _add(
        self, kind: Kind, name: str, inputs: tuple[object, ...], build: Callable[[], Json], *, endpoints: str = ""
    ) -> Ref:
        """Encode and keep one resource. Raises: ValueError if it cannot be expressed."""

        def fresh() -> Resource:
            part = _part(kind, build())
            return Resource(name=name, version=part.version, body=part.body, endpoints=endpoints)

        ref = Ref(kind, name)
        self._resources[ref] = self._means.encoded.get(self._named(f"{kind.name}/{name}"), inputs, fresh)
        return ref

    def _named(self, name: str) -> str:
        self.names.add(name)
        return name

    def _backend(self, uid: str) -> Backend | None:
        key = entrykeys.backend(uid)
        self._uses.add(key)
        found = self._look(key)
        return found if isinstance(found, Backend) else None

    # ---- secrets ---------------------------------------------------------------------------------------------------

    def identity(self, credentials: Credentials) -> None:
        """The gateway's identity and bundle; Envoy asks for those it needs."""
        pair = {"chain": credentials.chain_pem.decode(), "key": credentials.key_pem.decode()}
        name = clusters.IDENTITY_SECRET
        self._add(Kind.SECRET, name, (credentials,), lambda: _pair(name, **pair))
        bundle = credentials.bundle_pem.decode()
        trust: Json = {"name": clusters.BUNDLE_SECRET, "validation_context": {"trusted_ca": {"inline_string": bundle}}}
        self._add(Kind.SECRET, clusters.BUNDLE_SECRET, (credentials,), lambda: trust)

    def certificate(self, identifier: str, entry: ServingCertificate) -> None:
        """A serving certificate."""
        name = listeners.certificate_secret(identifier)
        self._add(Kind.SECRET, name, (entry,), lambda: _pair(name, chain=entry.chain_pem, key=entry.key_pem))

    # ---- who visitors are ------------------------------------------------------------------------------------------

    def extensions(self) -> None:
        """How Envoy tells who visitors are; there whatever the table holds, because listeners wait for it."""
        entry = self._sign_in()
        self._uses.add(entrykeys.DENY)
        denied = self._look(entrykeys.DENY)
        known = denied if isinstance(denied, DenyEntry) else DenyEntry()
        shut_out, since, around = known.people, known.since, self._around
        for key, name, config in (
            (entrykeys.SIGN_IN, visitors.TOKENS_FILTER, visitors.tokens(entry)),
            (entrykeys.DENY, visitors.PEOPLE_FILTER, visitors.people(shut_out, since)),
            # Envoy asks for it where there is a listener with TLS, which needs it; the entry does not wait for one.
            ("", visitors.HOLDERS_FILTER, visitors.holders(shut_out, around.trust_domain)),
            ("", visitors.SINCE_FILTER, visitors.certified_since(since, around.trust_domain)),
        ):
            body: Json = {"name": name, "typed_config": config}
            ref = self._add(Kind.EXTENSION, name, (config,), lambda body=body: body)
            if self._look(key) is not None:
                self._needs[key].append(ref)

    def _sign_in(self) -> SignInEntry | None:
        self._uses.add(entrykeys.SIGN_IN)
        found = self._look(entrykeys.SIGN_IN)
        return found if isinstance(found, SignInEntry) else None

    # ---- sockets ---------------------------------------------------------------------------------------------------

    def socket(
        self,
        listener: tuple[str, GatewayListener] | None,
        tcp: tuple[str, TcpExposure] | None,
        sni: Sequence[tuple[str, SniExposure]],
        asking: Sequence[str] = (),
    ) -> None:
        """A bound socket with what stands on it. `asking`: names of hosts whose rules ask who visitors are."""
        if listener is None:
            for key, exposure in (*((tcp,) if tcp else ()), *sni):
                self._faults[key] = f"There is no listener on {exposure.address} port {exposure.port}."
            return
        try:
            self._listener(*listener, tcp, sni, asking)
        except ValueError as error:
            self._faults[listener[0]] = str(error)

    def _listener(
        self,
        key: str,
        entry: GatewayListener,
        tcp: tuple[str, TcpExposure] | None,
        sni: Sequence[tuple[str, SniExposure]],
        asking: Sequence[str],
    ) -> None:
        name = listeners.listener_name(entry.address, entry.port)
        exposures = [exposure for _key, exposure in sni]
        if entry.protocol is ListenerProtocol.TCP and tcp is not None and not tcp[1].enabled:
            # Closed, not only empty: a port scan finds nothing. The claim keeps it for its owner meanwhile.
            self._needs[key].append(Ref(Kind.LISTENER, name))
            self._stand_on(entry, Ref(Kind.LISTENER, name), tcp, sni)
            return
        match entry.protocol:
            case ListenerProtocol.TCP:
                exposure = tcp[1] if tcp is not None else None
                built = (
                    (entry, exposure),
                    lambda: listeners.tcp_listener(entry, exposure, self._means.logs, self._means.connections_max),
                )
            case ListenerProtocol.HTTP:
                built = (entry,), lambda: listeners.http_listener(entry, self._means.logs)
            case ListenerProtocol.HTTPS | ListenerProtocol.TLS_PASSTHROUGH:
                chosen = self._certificates(key, entry)
                asked = tuple(asking) if self._around.trust_domain else None
                if asked is not None and chosen:
                    self._needs[key].append(Ref(Kind.SECRET, clusters.BUNDLE_SECRET))
                    self._needs[key] += [Ref(Kind.EXTENSION, name) for name in visitors.OF_CERTIFICATES]
                built = (
                    (entry, chosen, exposures, asked),
                    lambda: listeners.tls_listener(entry, chosen, exposures, self._means.logs, asked),
                )
            case ListenerProtocol.UDP:
                return  # None comes here: the host receives datagrams itself.
        inputs, build = built
        ref = self._add(
            Kind.LISTENER, name, inputs, lambda: behind(build(), self._means.balancers, listeners.TRAFFIC_CHAIN)
        )
        self._needs[key].append(ref)
        if entry.protocol in (ListenerProtocol.HTTP, ListenerProtocol.HTTPS):
            # It listens when it has these, and not before.
            found = (visitors.TOKENS_FILTER, visitors.PEOPLE_FILTER)
            self._needs[key] += [Ref(Kind.EXTENSION, name) for name in found]
        self._stand_on(entry, ref, tcp, sni)

    def _stand_on(
        self,
        entry: GatewayListener,
        ref: Ref,
        tcp: tuple[str, TcpExposure] | None,
        sni: Sequence[tuple[str, SniExposure]],
    ) -> None:
        """The exposures of a listener live in it, in their clusters, and only if its protocol carries them."""
        if tcp is not None:
            if entry.protocol is ListenerProtocol.TCP:
                self._exposure(tcp[0], tcp[1], ref)
            else:
                self._faults[tcp[0]] = f"The listener there speaks {entry.protocol.value}, not TCP."
        for key, exposure in sni:
            if entry.protocol in (ListenerProtocol.HTTPS, ListenerProtocol.TLS_PASSTHROUGH):
                self._exposure(key, exposure, ref)
            else:
                self._faults[key] = f"The listener there speaks {entry.protocol.value}, not TLS."

    def _exposure(self, key: str, exposure: TcpExposure | SniExposure, ref: Ref) -> None:
        self._needs[key].append(ref)
        fault = admitted(exposure.access).fault
        if fault:
            self._faults[key] = fault
        for target in exposure.backends:
            backend = self._backend(target.service)
            if backend is None:
                continue
            if isinstance(exposure, SniExposure) and listeners.shares_chain(exposure):
                name = listeners.sni_cluster(exposure.address, exposure.port, exposure.hostname.lower())
            else:
                name = clusters.front_name(target.service, Carries.STREAM)
            self._needs[key] += self._front(name, backend, Carries.STREAM)

    def _certificates(self, key: str, entry: GatewayListener) -> tuple[listeners.Certificate, ...]:
        """Those of the listener's certificates that are in the table. A name is served by the first that has it."""
        if entry.protocol is ListenerProtocol.TLS_PASSTHROUGH:
            return ()
        found: list[listeners.Certificate] = []
        for identifier in dict.fromkeys(entry.certificates):
            wanted = entrykeys.certificate(identifier)
            self._uses.add(wanted)
            certificate = self._look(wanted)
            if isinstance(certificate, ServingCertificate):
                chosen = listeners.certificate_of(identifier, certificate)
                found.append(chosen)
                for needing in (key, wanted):
                    self._needs[needing].append(Ref(Kind.SECRET, chosen.secret))
        if not found:
            self._faults[key] = "No serving certificate is there for this listener yet."
        return tuple(found)

    # ---- routes ----------------------------------------------------------------------------------------------------

    def host(self, key: str, host: HttpHost, *, refused: bool) -> None:
        """A host's part of its route configuration; none, and a fault, if it cannot be one."""
        found = {uid: self._backend(uid) for uid in sorted(_services(host))}
        used = {uid: backend for uid, backend in found.items() if backend is not None}
        renames = tuple((uid, backend.host_header) for uid, backend in used.items())
        asks = any(asking.asks_who(rule.access) for rule in host.rules)
        sign_in, secure = self._sign_in() if asks else None, asks and self._is_secure(host)
        trusted = self._around.trust_domain if secure else ""

        def build() -> Part:
            whole = (
                routes.out_of_service
                if refused
                else partial(
                    routes.virtual_host, backends=used.get, sign_in=sign_in, secure=secure, trust_domain=trusted
                )
            )
            return _part(Kind.ROUTES, {"virtual_hosts": [whole(host)]})

        inputs = (host, renames, refused, sign_in.url if sign_in else None, secure, trusted)
        try:
            self._part = self._means.virtual_hosts.get(self._named(f"host/{key}"), inputs, build)
        except ValueError as error:
            self._faults[key] = str(error)
            return
        fault = routes.policy_fault(host)
        if fault:
            self._faults[key] = fault
        for uid, backend in used.items():
            self._needs[key] += self._front(clusters.front_name(uid, Carries.HTTP), backend, Carries.HTTP)

    def _is_secure(self, host: HttpHost) -> bool:
        key = entrykeys.listener(host.address, host.port)
        self._uses.add(key)
        listener = self._look(key)
        return isinstance(listener, GatewayListener) and listener.protocol is ListenerProtocol.HTTPS

    def routes(
        self,
        listener: tuple[str, GatewayListener] | None,
        beside: Sequence[Ref],
        hosts: Sequence[tuple[str, HttpHost]],
        parts: Mapping[str, Part],
    ) -> None:
        """The route configuration of an HTTP or HTTPS listener, made of its hosts' own encodings.

        `beside`: what the listener lives in besides. `parts`: by entry key, of hosts that can be one.
        """
        if listener is None or listener[1].protocol not in (ListenerProtocol.HTTP, ListenerProtocol.HTTPS):
            for key, host in hosts:
                self._faults[key] = f"There is no HTTP listener on {host.address} port {host.port}."
            return
        name = listeners.routes_name(listener[1].address, listener[1].port)
        chosen: list[Part] = []
        taken: dict[str, str] = {}
        for key, host in hosts:
            hostname = host.hostname.lower()
            if hostname in taken:
                self._faults[key] = f"{hostname} is taken by {taken[hostname]}."
            elif key in parts:
                taken[hostname] = key
                chosen.append(parts[key])
        if "*" not in taken:
            chosen.append(_NOTHING_HERE)
        chosen.append(_part(Kind.ROUTES, routes.route_table(name)))

        def whole() -> Resource:
            version = content_hash(*(part.version.encode() for part in chosen))
            return Resource(name=name, version=version, body=concatenate(part.body for part in chosen))

        ref = Ref(Kind.ROUTES, name)
        inputs = tuple(part.version for part in chosen)
        self._resources[ref] = self._means.encoded.get(self._named(f"routes/{name}"), inputs, whole)
        self._hosts = tuple(hosts)
        self._needs[listener[0]] = [ref]
        self._needs.update({key: [*beside, ref] for key in taken.values()})

    # ---- backends --------------------------------------------------------------------------------------------------

    def _front(self, name: str, backend: Backend, carries: Carries) -> Iterable[Ref]:
        """The front cluster under this name, and all it stands on."""
        introduces = carries is Carries.STREAM and not self._means.conceals
        straight = clusters.goes_straight(backend, introduces=introduces)
        gateway, endpoints = self._around.gateway, clusters.endpoints_name(backend)
        inputs = (backend.service, backend.app_protocol, endpoints, straight, carries, gateway)

        def front() -> Json:
            return clusters.front_cluster(name, backend, carries, gateway, straight=straight)

        yield self._add(Kind.CLUSTER, name, inputs, front, endpoints=endpoints if straight else "")
        self._services[name] = backend.service
        lives = self._needs[entrykeys.backend(backend.service)]
        lives.append(Ref(Kind.CLUSTER, name))
        if not straight:
            hop_name = clusters.hop_name(backend.service)
            self._services[hop_name] = backend.service
            build = clusters.hop_cluster
            lives.append(Ref(Kind.CLUSTER, hop_name))
            yield self._add(Kind.CLUSTER, hop_name, (hop_name,), lambda: build(backend.service), endpoints=hop_name)
        lives.append(self._endpoints(backend))
        yield lives[-1]

    def _endpoints(self, backend: Backend) -> Ref:
        name = clusters.endpoints_name(backend)
        around = self._around
        shunned = clusters.avoided(backend, around.dead, around.leaving)
        servers = {endpoint.server for endpoint in backend.endpoints}
        self._serving |= servers & (around.dead | around.leaving) - shunned.keys()
        near = {server: around.near[server] for server in sorted(servers & around.near.keys())}
        fault = clusters.endpoints_fault(backend)
        if fault:
            self._faults[entrykeys.backend(backend.service)] = fault
        inputs = (name, backend.endpoints, shunned, near)
        return self._add(Kind.ENDPOINTS, name, inputs, lambda: clusters.load_assignment(backend, shunned, near))


def _pair(name: str, chain: str, key: str) -> Json:
    return {
        "name": name,
        "tls_certificate": {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}},
    }


def _part(kind: Kind, body: Json) -> Part:
    return Part(version=content_hash(msgspec.json.encode(body, order="deterministic")), body=encode(kind, body))


def _services(host: HttpHost) -> set[str]:
    return {target.service for rule in host.rules for target in rule.backends if target.weight > 0}


_NOTHING_HERE = _part(Kind.ROUTES, {"virtual_hosts": [routes.nothing_here()]})
