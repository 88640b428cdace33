"""Who a visitor of an HTTP host is, to Envoy: a token or a certificate, and rules that name organisations or people.

The control plane's sign-in makes a **visit token** for one host name (`issuers/visits.py`). `jwt_authn` checks its
signature and its times, and leaves what it says as metadata; `RBAC` of the route decides over that and the address, as
`rules.asking` decides: what is unknown of whoever has not signed in allows nothing, and denies wherever a rule might.
Who could pass if they signed in is sent to do so. Keys, and names of people who are shut out, change without the
listener: they are extensions that Envoy is given beside it.

A program shows its user's certificate in the handshake instead, where the host's rules ask who comes. It counts if the
rules mean its user; of its groups nothing is known, and what is unknown denies. Of both, a token for this very host is
who it is.

Names of cookies, headers and paths that visitors and services meet are here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from drtp.api.drtp import Action
from drtp.api.people import RESERVED, account_uid
from drtp.api.snapshots import Access, AccessClause, AccessList, AccessListRule, Membership, SignInEntry
from drtp.api.spiffe import BACKDATED, PeerRole, SpiffeId
from drtp.api.visiting import SIGNED_IN_PATH, VISIT_LIFETIME
from drtp.gateway.admission import admitted, source_in
from drtp.rules import asking

Json = dict[str, Any]
Predicate = Json | bool
"""A matcher's predicate, or what is known already."""

_TYPE = "type.googleapis.com/"
_FILTERS = f"{_TYPE}envoy.extensions.filters.http."

RBAC_FILTER = "envoy.filters.http.rbac"
LUA_FILTER = "envoy.filters.http.lua"
TOKENS_FILTER = "envoy.filters.http.jwt_authn"
PEOPLE_FILTER = "drtp.people"
HOLDERS_FILTER = "drtp.holders"
SINCE_FILTER = "drtp.since"
OF_CERTIFICATES = (HOLDERS_FILTER, SINCE_FILTER)
"""Filters of listeners that ask for certificates."""
EXTENSIONS = {
    TOKENS_FILTER: f"{_FILTERS}jwt_authn.v3.JwtAuthentication",
    PEOPLE_FILTER: f"{_FILTERS}rbac.v3.RBAC",
    HOLDERS_FILTER: f"{_FILTERS}rbac.v3.RBAC",
    SINCE_FILTER: f"{_FILTERS}lua.v3.Lua",
}
"""Filters whose configuration Envoy is given beside the listener, by name, and its type.

Holders of certificates, and since when theirs count, are looked at where one is asked for, and nowhere else: without
TLS Envoy has no answer to what a certificate says, and refuses.
"""

COOKIE = "__Host-drtp-visit"
BROWSER_COOKIE = "__Host-drtp-browser"
"""What ties an answer of the sign-in to the browser that was sent there."""
SIGN_IN_PATH = "/.drtp/sign-in"
SIGN_OUT_PATH = "/.drtp/sign-out"
VISIT_S = int(VISIT_LIFETIME.total_seconds())

SIGN_IN, NEEDS_TLS, NOT_THIS_PERSON = "sign_in", "needs_tls", "not_this_person"
"""Names of refusals, in Envoy's details of a response."""

_VISIT, _ENTRY = "visit", "entry"
_METADATA = "visit"


class Place(msgspec.Struct, frozen=True):
    """An HTTP host as its rules are decided at. `secure`: by TLS, so that a cookie can be trusted there.

    `host`: as the table has it; tokens are for it. `trust_domain`: of certificates; "" where none is taken.
    """

    host: str
    memberships: tuple[Membership, ...] = ()
    secure: bool = True
    trust_domain: str = ""


# ---- extensions ----------------------------------------------------------------------------------------------------


def tokens(sign_in: SignInEntry | None) -> Json:
    """How tokens are read; before anybody can sign in, none is."""
    if sign_in is None:
        return {"@type": EXTENSIONS[TOKENS_FILTER]}
    checked = {
        "issuer": sign_in.issuer,
        "local_jwks": {"inline_string": sign_in.keys},
        "payload_in_metadata": _METADATA,
        "clock_skew_seconds": 30,
        "require_expiration": True,
    }
    either: Json = {"requirements": [{"provider_name": _VISIT}, {"allow_missing_or_failed": {}}]}
    return {
        "@type": EXTENSIONS[TOKENS_FILTER],
        "providers": {
            _VISIT: {**checked, "from_cookies": [COOKIE], "forward": True},
            _ENTRY: {**checked, "from_params": ["token"], "forward": True},
        },
        "requirement_map": {_VISIT: {"requires_any": either}, _ENTRY: {"provider_name": _ENTRY}},
    }


def people(shut_out: Sequence[str], since: Mapping[str, int]) -> Json:
    """Whoever has signed in and is shut out by now is sent to sign in again, which tells them.

    And whoever signed in before they were let in again (`since`): an hour's token outlives that.
    """
    shut = _says("name", _one_of(shut_out)) if shut_out else False
    return _refusing(_any([shut, *(_said_before(name, moment) for name, moment in since.items())]), SIGN_IN)


def _said_before(name: str, moment: int) -> Predicate:
    earlier = _says("iat", {"double_match": {"range": {"start": 0, "end": moment}}})
    return _all([_says("name", _one_of((name,))), earlier])


def holders(shut_out: Sequence[str], trust_domain: str) -> Json:
    """The same of those who show a certificate, which is of no use to them any more."""
    return _refusing(_shows_one_of(shut_out, trust_domain), NOT_THIS_PERSON)


def certified_since(since: Mapping[str, int], trust_domain: str) -> Json:
    """Certificates from before their holders were let in again are refused; only a script can ask Envoy for dates."""
    moments = {uri: since[name] for uri, name in _uris(since, trust_domain).items()} if trust_domain else {}
    table = ", ".join(f'["{uri}"] = {moment}' for uri, moment in moments.items())
    code = _CERTIFIED_SINCE % (table, int(BACKDATED.total_seconds())) if moments else _NOTHING
    return {"@type": EXTENSIONS[SINCE_FILTER], "default_source_code": {"inline_string": code}}


_NOTHING = "function envoy_on_request(handle) end\n"
_CERTIFIED_SINCE = """
local since = { %s }
function envoy_on_request(handle)
  local connection = handle:streamInfo():downstreamSslConnection()
  if connection == nil or not connection:peerCertificatePresented() then return end
  for _, uri in ipairs(connection:uriSanPeerCertificate()) do
    if since[uri] ~= nil and connection:validFromPeerCertificate() + %d < since[uri] then
      return handle:respond({ [":status"] = "401" }, "") -- the page is made outside
    end
  end
end
"""


def _refusing(who: Predicate, name: str) -> Json:
    config: Json = {"@type": EXTENSIONS[PEOPLE_FILTER]}
    if isinstance(who, bool):
        return config
    refused = {"predicate": who, "on_match": _action(name, "DENY")}
    return config | {"matcher": {"matcher_list": {"matchers": [refused]}, "on_no_match": _action("allow", "ALLOW")}}


def discovered(name: str, config_source: Json) -> Json:
    """An HTTP filter whose configuration comes by itself."""
    return {"name": name, "config_discovery": {"config_source": config_source, "type_urls": [EXTENSIONS[name]]}}


# ---- routes --------------------------------------------------------------------------------------------------------


def on_route(access: Access, place: Place) -> Json:
    """Per-route configuration of the filters, for a rule that asks who visitors are."""
    context = {"host": place.host, **_names_of(access, place)}
    return {TOKENS_FILTER: _requires(_VISIT), **_ruled(rbac(access, place)), **_told(context)}


def own_routes(place: Place, sign_in: SignInEntry) -> list[Json]:
    """What the gateway answers itself at a host where visitors sign in; the script does."""
    only_here = {"predicate": _is_for(place), "on_match": _action("allow", "ALLOW")}
    entry: Json = {"matcher_list": {"matchers": [only_here]}, "on_no_match": _action(NOT_THIS_PERSON, "DENY")}
    anybody: Json = {"on_no_match": _action("allow", "ALLOW")}
    entering = {"host": place.host, "does": "enter"}
    return [
        _own(SIGN_IN_PATH, {**_ruled(anybody), **_told({"does": "sign in", "url": sign_in.url})}),
        _own(SIGNED_IN_PATH, {TOKENS_FILTER: _requires(_ENTRY), **_ruled(entry), **_told(entering)}),
        _own(SIGN_OUT_PATH, {**_ruled(anybody), **_told({"does": "sign out", "url": sign_in.url})}),
    ]


def _own(path: str, filters: Json) -> Json:
    return {"match": {"path": path}, "direct_response": {"status": 404}, "typed_per_filter_config": filters}


def _ruled(matcher: Json) -> Json:
    return {RBAC_FILTER: {"@type": f"{_FILTERS}rbac.v3.RBACPerRoute", "rbac": {"matcher": matcher}}}


def _told(context: Json) -> Json:
    return {LUA_FILTER: {"@type": f"{_FILTERS}lua.v3.LuaPerRoute", "filter_context": context}}


def header(key: str, value: str) -> Json:
    """A header that is set, whatever was there."""
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _requires(name: str) -> Json:
    return {"@type": f"{_FILTERS}jwt_authn.v3.PerRouteConfig", "requirement_name": name}


# ---- the decision --------------------------------------------------------------------------------------------------


def rbac(access: Access, place: Place) -> Json:
    """The whole decision on a request as a matcher. No list at all lets nobody in, as everywhere."""
    signed = _is_for(place) if place.secure else False
    shown = _shows({"prefix": "spiffe://"}) if place.secure and place.trust_domain else False
    lists = access.lists or (AccessList(),)
    stranger = _all(_allows(one, _Stranger()) for one in lists)
    known = _all([signed, *(_allows(one, _Person(place.memberships)) for one in lists)])
    named = _shows_one_of(_names_of(access, place).values(), place.trust_domain)
    holder = _all([shown, _not(signed), named, *(_allows(one, _Holder(place)) for one in lists)])
    somebody = _all(_allows(one, _Anybody()) for one in lists)
    steps = (
        (_any([stranger, known, holder]), "allow", "ALLOW"),
        (_any([signed, shown]), NOT_THIS_PERSON, "DENY"),
        (somebody, SIGN_IN if place.secure else NEEDS_TLS, "DENY"),
    )
    matchers: list[Json] = []
    otherwise = _action("deny", "DENY")
    for predicate, name, action in steps:
        if predicate is True:
            otherwise = _action(name, action)
            break
        if predicate is not False:
            matchers.append({"predicate": predicate, "on_match": _action(name, action)})
    found: Json = {"on_no_match": otherwise}
    return found | ({"matcher_list": {"matchers": matchers}} if matchers else {})


class _Stranger:
    """Nothing is known: what asks for an identity does not allow, and denies."""

    def holds(self, clause: AccessClause) -> Predicate:
        """Whether the clause's identity part holds."""
        return not (clause.organizations or clause.principals) or clause.action is Action.DENY


class _Anybody:
    """Whoever it takes to be let in: doubt serves them."""

    def holds(self, clause: AccessClause) -> Predicate:
        """As of `_Stranger`."""
        return not (clause.organizations or clause.principals) or clause.action is Action.ALLOW


class _Known(ABC):
    """Whoever has said who they are, in one way or another."""

    def __init__(self, memberships: tuple[Membership, ...]) -> None:
        self._of = {one.organization: one for one in memberships}

    @abstractmethod
    def _is(self, users: Sequence[str]) -> Predicate:
        """Whether it is one of these; never asked about none."""

    @abstractmethod
    def _is_in(self, groups: Sequence[str], action: Action) -> Predicate:
        """The same of its groups; where that is not known, a rule that denies holds and one that allows does not."""

    def holds(self, clause: AccessClause) -> Predicate:
        """As of `_Stranger`."""
        found: list[Predicate] = []
        if clause.organizations:
            found.append(self._is_of(clause.organizations, clause.action))
        if clause.principals:
            users = _users(clause)
            organizations = [name[4:] for name in clause.principals if name.startswith("org:")]
            found.append(_any([self._is(users) if users else False, self._is_of(organizations, clause.action)]))
        return _all(found)

    def _is_of(self, organizations: Iterable[str], action: Action) -> Predicate:
        held = [self._of[name] for name in organizations if name in self._of]
        users = [user for one in held for user in one.users]
        groups = [group for one in held for group in one.groups]
        return _any([self._is(users) if users else False, self._is_in(groups, action) if groups else False])


class _Person(_Known):
    """What the token says."""

    def _is(self, users: Sequence[str]) -> Predicate:
        return _says("name", _one_of(users))

    def _is_in(self, groups: Sequence[str], action: Action) -> Predicate:
        return _says("groups", {"list_match": {"one_of": _one_of(groups)}})


class _Holder(_Known):
    """What the certificate says: of groups nothing, which are in tokens of a sign-in only."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.memberships)
        self._trust_domain = place.trust_domain

    def _is(self, users: Sequence[str]) -> Predicate:
        return _shows_one_of(users, self._trust_domain)

    def _is_in(self, groups: Sequence[str], action: Action) -> Predicate:
        return action is Action.DENY


def _users(clause: AccessClause) -> list[str]:
    return [name[5:] for name in clause.principals if name.startswith("user:")]


def _names_of(access: Access, place: Place) -> dict[str, str]:
    """Of everybody whom the rules may mean: what a certificate calls them -> their name."""
    if not (place.secure and place.trust_domain):
        return {}
    users = {user for one in access.lists for clause in one.clauses for user in _users(clause)}
    users |= {user for membership in place.memberships for user in membership.users}
    return _uris(sorted(users), place.trust_domain)


def _uris(users: Iterable[str], trust_domain: str) -> dict[str, str]:
    """What certificates call these users -> their names; programs have none."""
    people = (name for name in users if not name.startswith(RESERVED))
    return {str(SpiffeId(trust_domain, PeerRole.USER, account_uid(name))): name for name in people}


_Asked = _Stranger | _Anybody | _Known


def _allows(one: AccessList, asked: _Asked) -> Predicate:
    """Whether a list allows: some clause that does and before which none denies, else its default.

    One that cannot be read allows nobody: a network in it that means nothing must not make a rule that denies silent.
    """
    if not asking.is_readable(one):
        return False
    clauses, default = asking.parts(one)
    allowed, undenied = _in_turn(clauses, asked)
    return _any([allowed, undenied]) if default is Action.ALLOW else allowed


def _in_turn(clauses: Sequence[AccessClause], asked: _Asked) -> tuple[Predicate, Predicate]:
    """Whether clauses in their order allow, and whether none of them denies.

    In halves, because Envoy reads messages to a depth of a hundred: a thousand clauses are ten halves deep.
    """
    if not clauses:
        return False, True
    if len(clauses) == 1:
        speaks = _all([_from(clauses[0].cidrs), asked.holds(clauses[0])])
        return (False, _not(speaks)) if clauses[0].action is Action.DENY else (speaks, True)
    middle = len(clauses) // 2
    first, undenied = _in_turn(clauses[:middle], asked)
    then, still = _in_turn(clauses[middle:], asked)
    return _any([first, _all([undenied, then])]), _all([undenied, still])


def _from(cidrs: tuple[str, ...]) -> Predicate:
    if not cidrs:
        return True
    who = admitted(Access(lists=(AccessList(rules=(AccessListRule(Action.ALLOW, cidrs),)),)))
    return source_in(who.networks, "SourceIPInput") if who.networks else False


# ---- predicates ----------------------------------------------------------------------------------------------------


def _is_for(place: Place) -> Json:
    """A token was shown that is for this very host: one for another proves nothing here."""
    return _says("aud", {"string_match": {"exact": place.host}})


def _says(claim: str, value: Json) -> Json:
    path = [{"key": _METADATA}, {"key": claim}]
    return {
        "single_predicate": {
            "input": {
                "name": "token",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput",
                    "filter": TOKENS_FILTER,
                    "path": path,
                },
            },
            "custom_match": {
                "name": "claim",
                "typed_config": {
                    "@type": f"{_TYPE}envoy.extensions.matching.input_matchers.metadata.v3.Metadata",
                    "value": value,
                },
            },
        }
    }


def _shows_one_of(users: Iterable[str], trust_domain: str) -> Predicate:
    return _any(_shows({"exact": uri}) for uri in _uris(users, trust_domain)) if trust_domain else False


def _shows(match: Json) -> Json:
    """What the certificate of the handshake calls its holder; nothing without one."""
    kind = f"{_TYPE}envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput"
    return {
        "single_predicate": {"input": {"name": "certificate", "typed_config": {"@type": kind}}, "value_match": match}
    }


def _one_of(words: Sequence[str]) -> Json:
    exact = [{"string_match": {"exact": word}} for word in dict.fromkeys(words)]
    return exact[0] if len(exact) == 1 else {"or_match": {"value_matchers": exact}}


def _all(predicates: Iterable[Predicate]) -> Predicate:
    return _joined("and_matcher", list(predicates), neutral=True)


def _any(predicates: Iterable[Predicate]) -> Predicate:
    return _joined("or_matcher", list(predicates), neutral=False)


def _joined(kind: str, predicates: list[Predicate], *, neutral: bool) -> Predicate:
    if (not neutral) in predicates:
        return not neutral
    left: list[Json] = []
    for one in predicates:
        if not isinstance(one, bool):
            left.extend(one[kind]["predicate"] if kind in one else [one])
    if not left:
        return neutral
    return left[0] if len(left) == 1 else {kind: {"predicate": left}}


def _not(predicate: Predicate) -> Predicate:
    return not predicate if isinstance(predicate, bool) else {"not_matcher": predicate}


def _action(name: str, action: str) -> Json:
    typed = {"@type": f"{_TYPE}envoy.config.rbac.v3.Action", "name": name, "action": action}
    return {"action": {"name": name, "typed_config": typed}}
