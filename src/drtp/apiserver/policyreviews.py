"""Posted `PolicyReview`: who would reach a service, and by which rule. It comes back with the decision and its trace.

Who may read the project's policies may ask. Whatever is unknown stays unknown, as at an enforcement point.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import msgspec

from drtp.api import quotas
from drtp.api.core import Namespace, ResourceQuota, home_of, organization_of
from drtp.api.drtp import DRTPAccessPolicy, DRTPConnection, DRTPServer, DRTPService, Protocol
from drtp.api.jsonvalue import JsonObject, is_list, is_object
from drtp.api.meta import Key, Model
from drtp.api.policies import Country, Principal
from drtp.api.snapshots import Access, PopPlace
from drtp.apiserver.admissions import Admissions
from drtp.apiserver.failures import Failure
from drtp.rules import access, asking, explaining
from drtp.rules.asking import Asking, Caller
from drtp.rules.explaining import LimitTrace
from drtp.store.protocol import NotFound, Store
from drtp.store.view import kind_key

_KNOWN = {"service", "as", "from", "country", "at", "server", "signedIn"}
PRINCIPALS_MAX = 16
T = TypeVar("T", bound=Model)


class _Question(NamedTuple):
    service: str
    asking: Asking
    server: str
    signed_in: bool


class _Path(NamedTuple):
    """The connection by which the question goes, if there is one, and the tunnel server on it."""

    policies: Sequence[DRTPAccessPolicy]
    missing: Sequence[str] = ()
    place: PopPlace | None = None
    server: str = ""


async def answer(body: JsonObject, namespace: str, store: Store, admissions: Admissions, now: datetime) -> JsonObject:
    """The posted object with its status. Raises: Failure 422, NotFound."""
    given: Any = body.get("spec")
    spec: JsonObject = given if is_object(given) else {}
    question = _question(spec, now)
    service = _typed(DRTPService, (await store.get(Key(kind_key(DRTPService), namespace, question.service))).object)
    path = await _path(store, service, await _all(store, DRTPAccessPolicy, namespace), question.server)
    if question.signed_in and service.spec.protocol not in {Protocol.HTTP, Protocol.HTTPS}:
        raise _wrong("signedIn", "visitors sign in at services of protocol HTTP or HTTPS alone")
    caller = question.asking.caller if not question.signed_in else None
    explained = explaining.explain(
        explaining.Question(
            service,
            path.policies,
            question.asking._replace(place=path.place, caller=_in_doubt(question.asking.caller, path.policies)),
            exposed=service.spec.expose is not None or bool(service.status.addresses),
            missing=path.missing,
            signed_in=question.signed_in,
            admitted=await admissions.admits(caller, namespace, question.service) if caller is not None else None,
        )
    )
    above = await _quotas(store, namespace)
    explained = msgspec.structs.replace(explained, limits=(*explained.limits, *above))
    status: JsonObject = msgspec.to_builtins(explained) | ({"server": path.server} if path.server else {})
    return body | {"metadata": {"namespace": namespace}, "spec": spec, "status": status}


def _question(spec: JsonObject, now: datetime) -> _Question:
    unknown = sorted(spec.keys() - _KNOWN)
    if unknown:
        raise _wrong(unknown[0], f"only {', '.join(sorted(_KNOWN))}")
    words = {name: _text(spec, name) for name in ("service", "from", "country", "at", "server")}
    if not words["service"]:
        raise Failure(422, "DRTP-1010", "spec.service: Required value: the name of a DRTPService")
    if words["from"] and asking.address(words["from"]) is None:
        raise _wrong("from", "must be an IP address")
    if words["country"]:
        _checked(words["country"], Country, "country", "must be two capital letters, such as DE")
    principals: Any = spec.get("as") or []
    if not is_list(principals) or len(principals) > PRINCIPALS_MAX:
        raise _wrong("as", f"must be a list of at most {PRINCIPALS_MAX}")
    names = [_checked(one, Principal, "as", "must be user:NAME, app:NAMESPACE/NAME or org:NAME") for one in principals]
    asked = Asking(
        address=words["from"] or None,
        country=words["country"] or None,
        now=_moment(words["at"], now),
        caller=_caller(names),
    )
    return _Question(words["service"], asked, words["server"], _signed_in(spec, asked.caller))


def _signed_in(spec: JsonObject, who: Caller | None) -> bool:
    """Whether whoever it is is asked about as a visitor."""
    said: Any = spec.get("signedIn", False)
    if not isinstance(said, bool):
        raise _wrong("signedIn", "must be true or false")
    if said and (who is None or who.kind == "app"):
        raise _wrong("signedIn", "say who with spec.as: a user, or somebody of an organisation")
    return said


def _caller(principals: Sequence[str]) -> Caller | None:
    """One user or application, and organisations; or somebody of an organisation."""
    organizations = tuple(name for kind, _, name in (one.partition(":") for one in principals) if kind == "org")
    people = [(kind, name) for kind, _, name in (one.partition(":") for one in principals) if kind != "org"]
    if len(people) > 1:
        raise _wrong("as", "one user or application at a time")
    if not principals:
        return None
    kind, name = people[0] if people else ("", "")
    return Caller(kind, name, organizations)


def _in_doubt(caller: Caller | None, policies: Sequence[DRTPAccessPolicy]) -> Caller | None:
    """Somebody of whom no organisation is said may be of any that the rules name: who asks is not told of members."""
    if caller is None or caller.organizations:
        return caller
    named = asking.organizations_named(Access(lists=tuple(map(access.policy_list, policies))))
    return caller._replace(perhaps=tuple(sorted(named)))


def _moment(written: str, now: datetime) -> int:
    if not written:
        return int(now.timestamp())
    try:
        moment = datetime.fromisoformat(written)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise _wrong("at", "must be a time such as 2026-01-31T08:00:00Z") from None


def _text(spec: JsonObject, name: str) -> str:
    value: Any = spec.get(name) or ""
    if not isinstance(value, str) or len(value) > 253 or not value.isprintable():
        raise _wrong(name, "must be a short text")
    return value


def _checked(value: Any, kind: Any, name: str, rule: str) -> str:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise _wrong(name, rule) from None


def _wrong(name: str, rule: str) -> Failure:
    return Failure(422, "DRTP-1010", f"spec.{name}: Invalid value: {rule}")


async def _path(store: Store, service: DRTPService, policies: Sequence[DRTPAccessPolicy], asked: str) -> _Path:
    """The first connection over the server that is asked about, else over one that its policies let carry anything.

    Raises: NotFound for a server that is not there.
    """
    servers = {one.metadata.name: one for one in await _all(store, DRTPServer, None)}
    if asked and asked not in servers:
        raise NotFound(Key(kind_key(DRTPServer), "", asked))
    attached = access.attached(policies, service)
    path = _Path(attached)
    for connection in await _all(store, DRTPConnection, service.metadata.namespace):
        if connection.spec.service_ref.name != service.metadata.name:
            continue
        path = _of_connection(connection, attached, policies)
        carriage = access.carriage(path.policies)
        for name in (one.server_ref.name for one in connection.spec.servers):
            place = access.place_of(servers[name]) if name in servers else None
            if place is not None and (name == asked if asked else asking.may_carry(carriage, place)):
                return path._replace(place=place, server=name)
    return path._replace(place=access.place_of(servers[asked]), server=asked) if asked else path


def _of_connection(
    connection: DRTPConnection, attached: Sequence[DRTPAccessPolicy], policies: Sequence[DRTPAccessPolicy]
) -> _Path:
    """With the policy that the connection itself names."""
    own = connection.spec.access_policy_ref
    named = [one for one in policies if own is not None and one.metadata.name == own.name]
    missing = (own.name,) if own is not None and not named else ()
    return _Path([*attached, *(one for one in named if one not in attached)], missing)


async def _quotas(store: Store, namespace: str) -> list[LimitTrace]:
    """Of the project, and of its organisation, as POPs hold them."""
    project = _typed(Namespace, (await store.get(Key(kind_key(Namespace), "", namespace))).object)
    organization, projects = organization_of(project), {namespace: project}
    if organization not in {"", namespace}:
        with contextlib.suppress(NotFound):
            held = await store.get(Key(kind_key(Namespace), "", organization))
            projects[organization] = _typed(Namespace, held.object)
    places = dict.fromkeys(filter(None, (namespace, home_of(project, projects.get))))
    found = [
        explaining.quota_limits(place, quota.metadata.name, quotas.counts(quota.spec.hard))
        for place in places
        for quota in await _all(store, ResourceQuota, place)
    ]
    return [one for one in found if one is not None]


async def _all(store: Store, model: type[T], namespace: str | None) -> list[T]:
    """Every object of a kind that can be read."""
    listing = await store.list(kind_key(model), namespace)
    return [_typed(model, stored.object) for stored in listing.items]


def _typed(model: type[T], found: Any) -> T:
    try:
        return msgspec.convert(found, model)
    except msgspec.ValidationError as error:
        raise Failure(422, "DRTP-6031", f"a stored {model.__name__} cannot be read, so it denies: {error}") from None
