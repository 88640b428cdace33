"""Who a visitor is, to Envoy: its rules decide as `rules.asking` does, and a token is of one host and person."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.events
import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from drtp.api.drtp import Action
from drtp.api.people import account_uid
from drtp.api.snapshots import (
    Access,
    AccessClause,
    AccessList,
    AccessListRule,
    DenyEntry,
    Entry,
    HttpHost,
    HttpMatch,
    HttpRule,
    ListenerProtocol,
    Membership,
    SignInEntry,
    WeightedBackend,
)
from drtp.gateway import visitors
from drtp.gateway.visitors import Place
from drtp.rules import asking
from drtp.rules.asking import Asking, Caller
from unit.gateway.gatewaykit import (
    ANYONE,
    DEADLINE_S,
    Authority,
    Pair,
    Pop,
    Running,
    free_port,
    gateway,
    http,
    listener,
    load,
    pop,
)
from unit.gateway.test_http import service, web_backend

HOST = "a.test"
ISSUER = "https://drtp.test/oidc"
OF_PARTNER = Access(lists=(AccessList(clauses=(AccessClause(Action.ALLOW, organizations=("partner",)),)),))
MEMBERS = (Membership("partner", users=("anna", "bob"), groups=("idp#staff",)), Membership("rival", users=("eve",)))


# ---- the decision, as a matcher ------------------------------------------------------------------------------------


class Shown(NamedTuple):
    """What Envoy knows of a request: where it came from, what its token says, and its certificate's URI."""

    address: str
    claims: dict[str, Any] | None = None
    uri: str = ""


def outcome(matcher: dict[str, Any], address: str, claims: dict[str, Any] | None, uri: str = "") -> str:
    """The name of the action that Envoy would take."""
    shown = Shown(address, claims, uri)
    for one in matcher.get("matcher_list", {}).get("matchers", []):
        if holds(one["predicate"], shown):
            return one["on_match"]["action"]["name"]
    return matcher["on_no_match"]["action"]["name"]


def holds(predicate: dict[str, Any], shown: Shown) -> bool:
    [(kind, inner)] = predicate.items()
    match kind:
        case "and_matcher":
            assert len(inner["predicate"]) >= 2, "Envoy wants two"
            return all(holds(one, shown) for one in inner["predicate"])
        case "or_matcher":
            assert len(inner["predicate"]) >= 2, "Envoy wants two"
            return any(holds(one, shown) for one in inner["predicate"])
        case "not_matcher":
            return not holds(inner, shown)
        case _:
            return single(inner, shown)


def single(inner: dict[str, Any], shown: Shown) -> bool:
    if inner["input"]["name"] == "certificate":
        wanted = inner["value_match"]
        return shown.uri == wanted["exact"] if "exact" in wanted else shown.uri.startswith(wanted["prefix"])
    if inner["custom_match"]["name"] == "envoy.matching.matchers.ip":
        ranges = inner["custom_match"]["typed_config"]["cidr_ranges"]
        networks = [ip_network(f"{one['address_prefix']}/{one['prefix_len']}") for one in ranges]
        return any(ip_address(shown.address) in network for network in networks)
    said = (shown.claims or {}).get(inner["input"]["typed_config"]["path"][1]["key"])
    return value_fits(inner["custom_match"]["typed_config"]["value"], said)


def value_fits(wanted: dict[str, Any], said: Any) -> bool:
    if "or_match" in wanted:
        return any(value_fits(one, said) for one in wanted["or_match"]["value_matchers"])
    if "list_match" in wanted:
        return isinstance(said, list) and any(value_fits(wanted["list_match"]["one_of"], one) for one in said)
    return said == wanted["string_match"]["exact"]


def _clause(draw: random.Random) -> AccessClause:
    def some(words: list[str], odds: float) -> tuple[str, ...]:
        return tuple(draw.sample(words, draw.randint(1, 2))) if draw.random() < odds else ()

    return AccessClause(
        draw.choice([Action.ALLOW, Action.DENY]),
        cidrs=some(["10.0.0.0/8", "10.1.0.0/16", "192.0.2.0/24", "0.0.0.0/0"], 0.4),
        countries=some(["DE", "FR"], 0.1),
        organizations=some(["partner", "rival", "unknown"], 0.4),
        principals=some(["user:anna", "user:zoe", "app:p/a", "org:rival"], 0.3),
    )


def _access(draw: random.Random) -> Access:
    lists = [
        AccessList(clauses=tuple(_clause(draw) for _ in range(draw.randint(1, 5))), otherwise=draw.choice([*Action]))
        for _ in range(draw.randint(1, 3))
    ]
    return Access(lists=tuple(lists))


PEOPLE: list[dict[str, Any]] = [
    {"name": "anna", "groups": []},
    {"name": "eve", "groups": ["idp#staff"]},
    {"name": "zoe", "groups": ["other"]},
    {"name": "bob", "groups": []},
]


def uri_of(name: str) -> str:
    """What a user's certificate calls them."""
    return f"spiffe://drtp.test/user/{account_uid(name)}"


def organizations(claims: dict[str, Any]) -> tuple[str, ...]:
    of = (one for one in MEMBERS if claims["name"] in one.users or set(claims["groups"]) & set(one.groups))
    return tuple(one.organization for one in of)


def test_envoys_rules_decide_as_the_one_decision_does() -> None:
    """For a stranger, each person, and who has a token for another host; what a POP alone knows is doubt.

    A person by token, or by certificate, which has no groups.
    """
    draw = random.Random(67)
    place = Place(HOST, MEMBERS, trust_domain="drtp.test")
    seen: set[str] = set()
    for _ in range(4_000):
        access = _access(draw)
        left = asking.by_visitor(access, 0)
        matcher = visitors.rbac(left, place)
        address = draw.choice(["10.1.2.3", "10.9.9.9", "192.0.2.7", "203.0.113.1"])
        told = Access(lists=tuple(_without_countries(one) for one in access.lists))
        stranger = asking.decide(told, Asking(address=address)).allowed
        anybody = asking.might(told, Asking(address=address))
        expected = "allow" if stranger else visitors.SIGN_IN if anybody else "deny"
        for claims in (None, {"aud": "b.test", **PEOPLE[0]}):
            assert outcome(matcher, address, claims) == expected, (access, address)
        seen.add(expected)
        for person in PEOPLE:
            caller = Caller("user", person["name"], organizations(person))
            known = asking.decide(told, Asking(address=address, caller=caller)).allowed
            said = outcome(matcher, address, {"aud": HOST, **person}, uri_of("root"))
            assert said == ("allow" if known or stranger else visitors.NOT_THIS_PERSON), (access, address, person)
            seen.add(said)
            sure = organizations({**person, "groups": []})
            perhaps = tuple(one.organization for one in MEMBERS if one.groups)
            caller = Caller("user", person["name"], sure, perhaps=perhaps)
            known = asking.decide(told, Asking(address=address, caller=caller)).allowed and means(left, person["name"])
            said = outcome(matcher, address, {"aud": "b.test", **person}, uri_of(person["name"]))
            assert said == ("allow" if known or stranger else visitors.NOT_THIS_PERSON), (access, address, person)
    assert seen == {"allow", "deny", visitors.SIGN_IN, visitors.NOT_THIS_PERSON}


def means(access: Access, name: str) -> bool:
    """Whether the rules name a user, or the table does for an organisation."""
    ours = {user for one in MEMBERS for user in one.users}
    return name in ours or f"user:{name}" in {who for one in access.lists for c in one.clauses for who in c.principals}


def _without_countries(one: AccessList) -> AccessList:
    """As a gateway leaves them to the POP: what allows by one may, what denies by one may not."""
    kept = [
        msgspec.structs.replace(clause, countries=())
        for clause in one.clauses
        if not (clause.countries and clause.action is Action.DENY)
    ]
    return AccessList(clauses=tuple(kept), otherwise=one.otherwise) if kept else AccessList(default=one.otherwise)


def test_a_list_that_cannot_be_read_lets_nobody_in_whoever_they_are() -> None:
    """Beside one that asks who visitors are: its rule that denies must not be passed over."""
    broken = AccessList(
        default=Action.ALLOW, rules=(AccessListRule(action=Action.DENY, cidrs=("10.1.2.3/8",)),)
    )  # fmt: skip
    for lists in ((), (broken, *OF_PARTNER.lists), (*OF_PARTNER.lists, broken)):
        matcher = visitors.rbac(asking.by_visitor(Access(lists=lists), 0), Place(HOST, MEMBERS))
        for claims in (None, {"aud": HOST, **PEOPLE[0]}):
            assert outcome(matcher, "192.0.2.7", claims) in {"deny", visitors.NOT_THIS_PERSON}


def test_where_bytes_are_not_encrypted_nobody_is_known() -> None:
    matcher = visitors.rbac(OF_PARTNER, Place(HOST, MEMBERS, secure=False))
    assert outcome(matcher, "10.0.0.1", {"aud": HOST, **PEOPLE[0]}) == visitors.NEEDS_TLS


def test_a_thousand_rules_in_turn_are_neither_deep_nor_many_times_as_large() -> None:
    def clause(number: int) -> AccessClause:
        network = f"10.{number // 256}.{number % 256}.0/24"
        return AccessClause(Action.DENY if number % 2 else Action.ALLOW, (network,), principals=("user:a",))

    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + max(map(depth, inner), default=0)

    def size(count: int) -> int:
        access = Access(lists=(AccessList(clauses=tuple(map(clause, range(count)))),))
        return len(json.dumps(visitors.rbac(access, Place(HOST))))

    access = Access(lists=(AccessList(clauses=tuple(map(clause, range(1_000)))),))
    assert depth(visitors.rbac(access, Place(HOST))) < 90  # of JSON, where lists count; Envoy's messages have half
    assert size(1_000) < 20 * size(100)


# ---- a real Envoy --------------------------------------------------------------------------------------------------


class Issuer:
    """Signs visit tokens as the control plane does."""

    def __init__(self, kid: str = "k1") -> None:
        self.kid = kid
        self.key = ECKey.generate_key("P-256")

    def token(self, name: str = "anna", host: str = HOST, groups: tuple[str, ...] = (), **more: Any) -> str:
        now = int(time.time())
        who = json.dumps({"name": name, "groups": list(groups)})
        claims = {
            "iss": ISSUER, "sub": name, "aud": host, "iat": now, "exp": now + 600, "name": name,
            "groups": list(groups), "browser": "b", "who": who, "assertion": f"for the service: {name}", **more,
        }  # fmt: skip
        return jwt.encode({"alg": "ES256", "kid": self.kid, "typ": "JWT"}, claims, self.key, ["ES256"])

    def entry(self, *others: Issuer) -> dict[str, Entry]:
        keys = [
            {**one.key.as_dict(private=False), "kid": one.kid, "use": "sig", "alg": "ES256"} for one in (self, *others)
        ]
        return {"sign-in": SignInEntry(ISSUER, f"{ISSUER}/visit", json.dumps({"keys": keys}))}


class Site:
    """An HTTPS host of partner's, before a POP stand-in."""

    def __init__(self, running: Running, endpoint: Pop, authority: Authority, directory: Path) -> None:
        self.directory = directory
        self.running = running
        self.endpoint = endpoint
        self.authority = authority
        self.issuer = Issuer()
        self.port = free_port()

    def entries(self, access: Access = OF_PARTNER, members: tuple[Membership, ...] = MEMBERS) -> dict[str, Entry]:
        rule = HttpRule(matches=(HttpMatch(),), access=access, backends=(WeightedBackend(service="s1"),))
        [(key, host)] = http(self.port, HOST, rule).items()
        assert isinstance(host, HttpHost)
        return {
            **listener(self.port, ListenerProtocol.HTTPS, "c1"),
            "certificate/c1": self.authority.serving(HOST),
            key: msgspec.structs.replace(host, memberships=members, asks_who=asking.asks_who(access)),
            **web_backend(self.endpoint.endpoint()),
        }

    async def serve(self, **more: Any) -> None:
        await self.running.programmed({**self.entries(**more), **self.issuer.entry()})

    async def connection(self, shown: Pair | None = None, name: str = HOST) -> Http1:
        """Of a visitor, with this certificate, by this server name."""
        context = self.authority.visitor_context("http/1.1")
        if shown is not None:
            load(context, shown, self.directory)
        return Http1(*await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=name))

    async def get(self, token: str = "", path: str = "/", **headers: str) -> tuple[int, str]:
        return await self._once(None, token, path, headers)

    async def show(self, shown: Pair, token: str = "", /, **headers: str) -> tuple[int, str]:
        """The same with a certificate."""
        return await self._once(shown, token, "/", headers)

    async def _once(self, shown: Pair | None, token: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        connection = await self.connection(shown)
        try:
            return await connection.get(token, path, **headers)
        finally:
            connection.writer.close()


class Http1:
    """One connection of a visitor."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def get(self, token: str = "", path: str = "/", host: str = HOST, **headers: str) -> tuple[int, str]:
        """Status, and the whole answer."""
        sent = {"cookie": f"own=1; {visitors.COOKIE}={token}"} if token else {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**sent, **headers}.items())
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            length = next((int(one[15:]) for one in head.splitlines() if one.startswith("content-length:")), 0)
            return int(head.split()[1]), head + (await self.reader.readexactly(length)).decode()


@pytest.fixture
async def site(tmp_path: Path):
    authority = Authority()
    async with pop("p1", service) as endpoint, gateway(tmp_path, authority.credentials()) as running:
        yield Site(running, endpoint, authority, tmp_path)


async def test_a_member_is_let_in_and_told_of_to_the_pop_and_to_the_service(site: Site) -> None:
    await site.serve()
    status, body = await site.get(site.issuer.token("anna"), **{"x-drtp-visitor": "user:root"})
    assert status == 200
    assert "x-drtp-visitor: user:anna\r\n" in body and "user:root" not in body
    assert "x-drtp-assertion: for the service: anna\r\n" in body
    assert "cookie: own=1\r\n" in body and visitors.COOKIE not in body
    assert json.loads(site.endpoint.visits[0].tlvs[0xE4]) == {"name": "anna", "groups": []}
    assert (await site.get(site.issuer.token("zoe", groups=("idp#staff",))))[0] == 200


async def test_only_a_token_of_ours_for_this_host_that_is_not_over_is_one(site: Site) -> None:
    await site.serve()
    now = int(time.time())
    for wrong in (
        "", "x", Issuer().token(), site.issuer.token(host="b.test"), site.issuer.token(exp=now - 100),
        site.issuer.token(iss="https://evil.test"), site.issuer.token()[:-3] + "AAA",
    ):  # fmt: skip
        status, body = await site.get(wrong)
        assert status == 401 and "DRTP-5007" in body, wrong
        status, body = await site.get(wrong, "/p?q=1", accept="text/html")
        assert status == 302 and f"location: {visitors.SIGN_IN_PATH}?to=/p?q=1\r\n" in body
    assert (await site.get(site.issuer.token("eve")))[0] == 403
    assert site.endpoint.visits == []


async def test_each_request_is_of_whom_its_own_cookie_says_whatever_came_before_on_the_connection(site: Site) -> None:
    """A proxy of many people keeps one connection; the next one's request must not go as the last one's."""
    await site.serve()
    connection = await site.connection()
    for name in ("anna", "bob", "anna"):
        status, body = await connection.get(site.issuer.token(name))
        assert status == 200 and f"x-drtp-visitor: user:{name}\r\n" in body
    assert (await connection.get(""))[0] == 401
    by_pop = {json.loads(visit.tlvs[0xE4])["name"] for visit in site.endpoint.visits}
    assert by_pop == {"anna", "bob"}
    connection.writer.close()


async def test_streams_of_one_connection_are_of_different_people_too(site: Site) -> None:
    await site.serve()
    context = site.authority.visitor_context("h2")
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=context, server_hostname=HOST)
    protocol = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    protocol.initiate_connection()
    for stream, name in ((1, "anna"), (3, "bob")):
        said = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", HOST)]
        protocol.send_headers(stream, [*said, ("cookie", f"{visitors.COOKIE}={site.issuer.token(name)}")], True)
    writer.write(protocol.data_to_send())
    bodies: dict[int, bytes] = {1: b"", 3: b""}
    ended: set[int] = set()
    async with asyncio.timeout(DEADLINE_S):
        while len(ended) < 2:
            for event in protocol.receive_data(await reader.read(65_536)):
                if isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id or 0] += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    ended.add(event.stream_id or 0)
            writer.write(protocol.data_to_send())
    assert b"user:anna" in bodies[1] and b"user:bob" in bodies[3]
    assert {json.loads(one.tlvs[0xE4])["name"] for one in site.endpoint.visits} == {"anna", "bob"}
    writer.close()


async def test_keys_members_and_those_shut_out_change_without_a_visitor_noticing(site: Site) -> None:
    await site.serve()
    staying = await site.connection()
    assert (await staying.get(site.issuer.token()))[0] == 200
    following = Issuer("k2")
    await site.running.programmed({**site.entries(), **site.issuer.entry(following)})
    assert (await staying.get(following.token()))[0] == 200
    assert (await staying.get(site.issuer.token()))[0] == 200
    await site.running.programmed({**site.entries(), **following.entry()})
    assert (await staying.get(site.issuer.token()))[0] == 401
    without = (Membership("partner", users=("bob",)),)
    await site.running.programmed({**site.entries(members=without), **following.entry()})
    assert (await staying.get(following.token()))[0] == 403
    assert (await staying.get(following.token("bob")))[0] == 200
    denied: dict[str, Entry] = {"deny": DenyEntry(people=("bob",))}
    await site.running.programmed({**site.entries(members=without), **following.entry(), **denied})
    assert (await staying.get(following.token("bob")))[0] == 401
    staying.writer.close()


async def test_without_a_place_to_sign_in_nobody_is_let_in_who_would_have_to(site: Site) -> None:
    await site.running.programmed(site.entries())
    assert (await site.get(site.issuer.token()))[0] == 403


async def test_who_needs_no_name_is_not_asked_for_one(site: Site) -> None:
    near = AccessClause(Action.ALLOW, cidrs=("127.0.0.0/8",))
    of_partner = AccessClause(Action.ALLOW, organizations=("partner",))
    await site.serve(access=Access(lists=(AccessList(clauses=(near, of_partner)),)))
    status, body = await site.get()
    assert status == 200 and "x-drtp-visitor" not in body
    assert 0xE4 not in site.endpoint.visits[0].tlvs
    status, body = await site.get(site.issuer.token("eve"))
    assert status == 200 and "x-drtp-visitor: user:eve\r\n" in body


async def test_in_the_clear_a_browser_is_sent_to_https_where_that_is_known_and_nobody_is_let_in(site: Site) -> None:
    clear = free_port()
    entries = {key: one for key, one in site.entries().items() if not key.startswith(("listener", "http/"))}
    [host] = [one for one in site.entries().values() if isinstance(one, HttpHost)]
    moved = {f"http/127.0.0.1/{clear}/{HOST}": msgspec.structs.replace(host, port=clear)}
    plain = listener(clear, ListenerProtocol.HTTP)
    await site.running.programmed({**entries, **moved, **plain, **site.issuer.entry()})

    async def get(name: str, **headers: str) -> tuple[int, str]:
        http1 = Http1(*await asyncio.open_connection("127.0.0.1", clear))
        return await http1.get(site.issuer.token(), "/p?q", host=name, **headers)

    status, body = await get(HOST, accept="text/html")
    assert status == 302 and f"location: https://{HOST}/p?q\r\n" in body
    for status, body in (await get(f"{HOST}:{clear}", accept="text/html"), await get(HOST)):
        assert status == 403 and "DRTP-5008" in body
    assert site.endpoint.visits == []


async def test_the_way_in_and_out_sets_cookies_of_this_host_alone(site: Site) -> None:
    await site.serve()
    _, asked = await site.get(path="/.drtp/sign-in?to=/a?b=c")
    mark = asked.split(f"{visitors.BROWSER_COOKIE}=")[1].split(";")[0]
    assert f"location: {ISSUER}/visit?browser={mark}&to=https://{HOST}/a?b=c\r\n" in asked
    assert "; Path=/; Secure; HttpOnly; SameSite=Lax" in asked
    token = site.issuer.token(browser=mark)
    cookie = {"cookie": f"{visitors.BROWSER_COOKIE}={mark}"}
    status, entered = await site.get(path=f"/.drtp/signed-in?token={token}&to=/a?b=c&token=x", **cookie)
    assert status == 302 and "location: /a?b=c&token=x\r\n" in entered
    assert f"set-cookie: {visitors.COOKIE}={token}; Path=/; Secure; HttpOnly; SameSite=Lax" in entered
    for elsewhere in ("//evil.test/", "/\\evil.test/", "https://evil.test/", ""):
        _, entered = await site.get(path=f"/.drtp/signed-in?token={token}&to={elsewhere}", **cookie)
        assert "location: /\r\n" in entered, elsewhere
    assert (await site.get(path=f"/.drtp/signed-in?token={token}&to=/"))[0] == 403
    assert (await site.get(path=f"/.drtp/signed-in?token={site.issuer.token(host='b.test')}&to=/", **cookie))[0] == 403
    _, left = await site.get(path="/.drtp/sign-out")
    assert f"location: {ISSUER}/visit/sign-out\r\n" in left
    assert f"set-cookie: {visitors.COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0" in left


# ---- certificates --------------------------------------------------------------------------------------------------


async def test_a_member_with_a_certificate_is_let_in_and_told_of_to_the_pop_and_to_the_service(site: Site) -> None:
    await site.serve()
    anna = site.authority.issue(uri=uri_of("anna"))
    status, body = await site.show(anna, **{"x-drtp-visitor": "user:root"})
    assert status == 200
    assert "x-drtp-visitor: user:anna\r\n" in body and "user:root" not in body and "x-drtp-assertion" not in body
    told = json.loads(site.endpoint.visits[0].tlvs[0xE4])
    assert (told["name"], told["groups"]) == ("anna", None)
    assert 3000 < told["until"] - time.time() < 3700  # the certificate's end
    status, body = await site.show(site.authority.issue(uri=uri_of("eve")))
    assert status == 403 and "DRTP-5009" in body
    assert (await site.get())[0] == 401, "who shows none is a stranger as ever"


async def test_a_token_for_this_host_says_who_it_is_whatever_certificate_is_shown_beside(site: Site) -> None:
    await site.serve()
    anna = site.authority.issue(uri=uri_of("anna"))
    assert (await site.show(anna, site.issuer.token("eve")))[0] == 403
    status, body = await site.show(anna, site.issuer.token("bob"))
    assert status == 200 and "x-drtp-visitor: user:bob\r\n" in body
    status, body = await site.show(anna, site.issuer.token("eve", host="b.test"))
    assert status == 200 and "x-drtp-visitor: user:anna\r\n" in body


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://drtp.test/gateway/g1",
        f"spiffe://drtp.test/user/{account_uid('anna')}/connector/c1",
        f"spiffe://drtpXtest/user/{account_uid('anna')}",
        f"spiffe://drtp.test/pop/spiffe://drtp.test/user/{account_uid('anna')}",
        "",
    ],
)
async def test_no_certificate_of_another_role_or_domain_names_anybody(site: Site, uri: str) -> None:
    await site.serve()
    status, body = await site.show(site.authority.issue(uri=uri) if uri else site.authority.issue("a.test"))
    assert (status, "DRTP-5009" in body) == ((403, True) if uri else (401, False))


RIVAL_OUT = Access(
    lists=(
        AccessList(
            clauses=(AccessClause(Action.DENY, organizations=("rival",)),), otherwise=Action.ALLOW
        ),
    )
)  # fmt: skip


async def test_a_rule_that_denies_is_not_passed_by_a_certificate_that_names_nobody_whom_it_means(site: Site) -> None:
    """Others' certificates, and those of whom a group might be meant, are a stranger's; so is one that nobody names."""
    by_group = (Membership("rival", users=("eve", "anna"), groups=("idp#rivals",)), Membership("partner", ("bob",)))
    await site.serve(access=RIVAL_OUT, members=by_group)
    assert (await site.get(site.issuer.token("zoe")))[0] == 200, "her groups are known"
    for uri in ("spiffe://drtp.test/org/o/project/p/agent/a-1", uri_of("eve"), uri_of("bob"), uri_of("zoe")):
        assert (await site.show(site.authority.issue(uri=uri)))[0] == 403, uri
    named = (Membership("rival", users=("eve",)), Membership("partner", ("bob",)))
    rules = (
        AccessClause(Action.DENY, organizations=("rival",)),
        AccessClause(Action.ALLOW, organizations=("partner",)),
    )
    await site.serve(access=Access(lists=(AccessList(clauses=rules),)), members=named)
    assert (await site.show(site.authority.issue(uri=uri_of("bob"))))[0] == 200
    assert (await site.show(site.authority.issue(uri=uri_of("eve"))))[0] == 403


async def test_a_host_that_stops_asking_and_a_certificate_that_takes_over_cut_nobody(site: Site) -> None:
    await site.serve()
    anna = site.authority.issue(uri=uri_of("anna"))
    connection = await site.connection(anna)
    assert (await connection.get())[0] == 200
    await site.serve(access=ANYONE)
    assert (await connection.get())[0] == 200
    await site.serve()
    second = {"certificate/c0": site.authority.serving(HOST), **listener(site.port, ListenerProtocol.HTTPS, "c0", "c1")}
    await site.running.programmed({**site.entries(), **site.issuer.entry(), **second})
    for _ in range(20):
        assert (await connection.get())[0] == 200
        await asyncio.sleep(0.1)
    connection.writer.close()


async def test_no_certificate_of_another_authority_is_one(site: Site) -> None:
    await site.serve()
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await site.show(Authority().issue(uri=uri_of("anna")))


async def test_who_is_shut_out_is_refused_with_their_certificate_too(site: Site) -> None:
    await site.serve()
    connection = await site.connection(site.authority.issue(uri=uri_of("anna")))
    assert (await connection.get())[0] == 200
    await site.running.programmed(
        {**site.entries(), **site.issuer.entry(), "deny": DenyEntry(minimum_generation={}, people=("anna",))}
    )
    status, body = await connection.get()
    assert status == 403 and "DRTP-5009" in body
    connection.writer.close()


async def test_what_proved_somebody_before_they_were_let_in_again_proves_nobody(site: Site) -> None:
    await site.serve()
    staying = await site.connection(site.authority.issue(uri=uri_of("anna")))
    assert (await staying.get())[0] == 200
    now = int(time.time())
    later: dict[str, Entry] = {"deny": DenyEntry(since={"anna": now + 1_000, "it's": 5})}
    await site.running.programmed({**site.entries(), **site.issuer.entry(), **later})
    status, body = await staying.get()
    assert status == 401 and "DRTP-" in body
    assert (await site.get(site.issuer.token()))[0] == 401
    assert (await site.get(site.issuer.token("bob")))[0] == 200
    assert (await site.show(site.authority.issue(uri=uri_of("bob"))))[0] == 200
    earlier: dict[str, Entry] = {"deny": DenyEntry(since={"anna": now - 1_000})}
    await site.running.programmed({**site.entries(), **site.issuer.entry(), **earlier})
    assert (await staying.get())[0] == 200
    assert (await site.get(site.issuer.token()))[0] == 200
    assert (await site.get(site.issuer.token(iat=now - 2_000)))[0] == 401
    staying.writer.close()


async def test_who_is_shut_out_is_no_matter_to_others_where_bytes_are_not_encrypted(site: Site) -> None:
    clear, deny = free_port(), {"deny": DenyEntry(minimum_generation={}, people=("anna", "bob"))}
    hosts = {**listener(clear, ListenerProtocol.HTTP), **http(clear, HOST)}
    await site.running.programmed({**hosts, **web_backend(site.endpoint.endpoint()), **deny, **site.issuer.entry()})
    reader, writer = await asyncio.open_connection("127.0.0.1", clear)
    assert (await Http1(reader, writer).get())[0] == 200
    writer.close()


async def test_hosts_that_do_not_ask_who_comes_ask_nobody_for_a_certificate(site: Site) -> None:
    """So a visitor with one of somebody else's is served there; and a host that begins to ask cuts nobody."""
    await site.serve(access=ANYONE)
    foreign = Authority().issue(uri="urn:elsewhere")
    connection = await site.connection(foreign)
    assert (await connection.get())[0] == 200
    await site.serve()
    assert (await connection.get())[0] == 401, "the rules hold at once"
    connection.writer.close()
    assert (await site.show(site.authority.issue(uri=uri_of("anna"))))[0] == 200


async def test_names_below_a_wildcard_that_asks_are_asked_and_names_beside_it_are_not(site: Site) -> None:
    asks = HttpRule(matches=(HttpMatch(),), access=OF_PARTNER, backends=(WeightedBackend(service="s1"),))
    [(key, wildcard)] = http(site.port, "*.wide.test", asks).items()
    assert isinstance(wildcard, HttpHost)
    await site.running.programmed(
        {
            **listener(site.port, ListenerProtocol.HTTPS, "c1", "c2"),
            "certificate/c1": site.authority.serving("b.test"),
            "certificate/c2": site.authority.serving("*.wide.test"),
            key: msgspec.structs.replace(wildcard, memberships=MEMBERS, asks_who=True),
            **http(site.port, "b.test"),
            **web_backend(site.endpoint.endpoint()),
            **site.issuer.entry(),
        }
    )
    foreign, anna = Authority().issue(uri="urn:elsewhere"), site.authority.issue(uri=uri_of("anna"))
    connection = await site.connection(foreign, "b.test")
    assert (await connection.get(host="b.test"))[0] == 200
    connection.writer.close()
    connection = await site.connection(anna, "one.wide.test")
    assert (await connection.get(host="one.wide.test"))[0] == 200
    connection.writer.close()
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await (await site.connection(foreign, "one.wide.test")).get(host="one.wide.test")


async def test_a_connection_that_outlives_its_certificate_proves_nobody(site: Site) -> None:
    await site.serve()
    connection = await site.connection(site.authority.issue(uri=uri_of("anna"), lifetime_s=3))
    assert (await connection.get())[0] == 200
    async with asyncio.timeout(DEADLINE_S):
        while (await connection.get())[0] == 200:
            await asyncio.sleep(0.1)
    status, body = await connection.get()
    assert status == 401 and "DRTP-5007" in body
    connection.writer.close()
