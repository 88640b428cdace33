"""Two tenants who send whatever the API's OpenAPI documents allow, and what they do not; by schemathesis.

Each tenant's objects carry a marker that nobody else may ever be told. What the documents leave open (names, projects,
selectors) is narrowed to what is there, so that most requests get past the first door.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import re
import secrets
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from drtp.api.people import AUTHENTICATED, User
from drtp.api.registry import REGISTRY
from drtp.apiserver import discovery, openapi
from drtp.kit.errors import Conflict
from drtp.kit.observe import configure_logs
from drtp.main.roles import project_binding
from drtp.store.protocol import NotFound, key_of
from drtp.store.sqlite import SqliteStore
from unit.apiserver.serving import ADMIN, Served, serving

HELD = "held"
"""What each tenant's objects are called."""
LABEL = "note"
OPERATORS = ("Gateway",)
"""Kinds that everybody may read, wherever they are."""
ANSWER_BYTES_MAX = 1 << 20
WATCH_READ_S = 0.05
"""A watch is looked at for so long; what it has to tell of the beginning is there by then."""
CONNECT_S = 10.0
READY_S = 30.0
REPLANTED_EVERY = 40
"""Cases, after which what a tenant's own requests deleted is there again."""


@dataclass(frozen=True)
class Tenant:
    """A project, who runs it, and the words that only its people may read."""

    name: str
    marker: str = field(default_factory=lambda: f"m{secrets.token_hex(12)}")

    @property
    def token(self) -> str:
        return ADMIN if self.name == "operator" else f"{self.name}-admin"

    @property
    def sought(self) -> tuple[bytes, ...]:
        """The marker as it may show: itself, and as a Secret's bytes are told."""
        return self.marker.encode(), base64.b64encode(self.marker.encode())


TENANTS = (Tenant("joe"), Tenant("eve"))
OPERATOR = Tenant("operator")
"""Who is refused nothing gets deepest, and may read every marker."""


@dataclass
class Found:
    """What came of a run: answers by status, and each fault with the request that brought it."""

    statuses: Counter[int] = field(default_factory=Counter[int])
    operations: set[str] = field(default_factory=set[str])
    faults: list[str] = field(default_factory=list[str])

    @property
    def cases(self) -> int:
        return self.statuses.total()

    def __str__(self) -> str:
        told = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        return f"{self.cases} cases of {len(self.operations)} operations: {told}; {len(self.faults)} faults"


# ---- what is asked ---------------------------------------------------------------------------------------------------


def operations() -> Iterator[APIOperation[Any, Any, Any, Any]]:
    """Every operation of every group's document."""
    for group, versions in discovery.served().items():
        for version in versions:
            document = narrowed(msgspec.json.decode(openapi.document(group, version)))
            for result in schemathesis.openapi.from_dict(document).get_all_operations():
                assert isinstance(result, Ok), result
                yield result.ok()


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """The document, with what there is in the places that it leaves open, and no more than some of anything."""
    for item in document["paths"].values():
        for parameter in (p for one in item.values() if isinstance(one, dict) for p in one["parameters"]):
            parameter["schema"] = _OPEN.get(parameter["name"], parameter["schema"])
    for path, item in document["paths"].items():
        for content in (one["requestBody"]["content"] for one in item.values() if "requestBody" in one):
            if "*/*" in content:
                schema = content.pop("*/*")
                content["application/json"] = {"schema": {"type": "object"}} if path.endswith("/status") else schema
    for schema in document["components"]["schemas"].values():
        for gvk in schema.get("x-kubernetes-group-version-kind", ()):
            version = f"{gvk['group']}/{gvk['version']}" if gvk["group"] else gvk["version"]
            schema["properties"] |= {"apiVersion": {"enum": [version]}, "kind": {"enum": [gvk["kind"]]}}
            schema["properties"].pop("status", None)
            schema["required"] = sorted({*schema.get("required", ()), "apiVersion", "kind", "metadata"} - {"status"})
        _some(schema)
    return document


def _some(node: Any) -> None:
    """Lists and maps of a few members: what matters is which, and long ones take minutes to make up."""
    if isinstance(node, dict):
        if node.get("type") == "array":
            node["maxItems"] = max(1, node.get("minItems", 0))
        if node.get("type") == "object" and "additionalProperties" in node:
            node["maxProperties"] = max(1, node.get("minProperties", 0))
    for member in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _some(member)


_SELECTOR = {"anyOf": [{"enum": [LABEL, f"!{LABEL}", f"{LABEL} in (a,b)", f"{LABEL}!=a"]}, {"type": "string"}]}
_FIELDS = {"enum": [f"metadata.name={HELD}", "metadata.namespace=eve", "metadata.namespace=joe", "spec.a=b", "a", "="]}
_OPEN: dict[str, dict[str, Any]] = {
    "labelSelector": _SELECTOR,
    "fieldSelector": {"anyOf": [_FIELDS, {"type": "string"}]},
    "dryRun": {"enum": ["All", "", "Some"]},
    "fieldValidation": {"enum": ["Strict", "Warn", "Ignore", "odd"]},
    "propagationPolicy": {"enum": ["Background", "Foreground", "Orphan", "odd"]},
    "resourceVersion": {"anyOf": [{"enum": ["0", "1", ""]}, {"type": "string"}]},
}


class Place(NamedTuple):
    """Who asks, for which project and what name; "" leaves what was made up."""

    tenant: Tenant
    project: str
    name: str

    def put_into(self, case: Case) -> None:
        """The same in path and body."""
        for part, word in (("namespace", self.project), ("name", self.name)):
            if word and part in case.path_parameters:
                case.path_parameters[part] = word
        metadata = case.body.get("metadata") if isinstance(case.body, dict) else None
        if isinstance(metadata, dict) and self.name:
            metadata |= {"name": self.name, "namespace": self.project}
            for given in ("uid", "resourceVersion"):
                metadata.pop(given, None)


def _places(*, operator: bool) -> st.SearchStrategy[Place]:
    joe, eve = TENANTS
    names = st.sampled_from([HELD, HELD, HELD, "joe", "eve", "fresh", ""])
    found = st.nothing()
    for own, other in ((joe, eve), (eve, joe)):
        projects = st.sampled_from([own.name] * 6 + [other.name] * 2 + ["datum-system", ""])
        found |= st.builds(Place, st.just(own), projects, names)
    return (
        found | st.builds(Place, st.just(OPERATOR), st.sampled_from(["joe", "eve", ""]), names) if operator else found
    )


# ---- who asks --------------------------------------------------------------------------------------------------------


class Explorer:
    """Sends cases as both tenants and as the operator, and looks at every answer."""

    def __init__(self, api: Planted, log: Path) -> None:
        self._api = api
        self._log = log
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(api.served.ca)
        self.found = Found()

    def explore(self, operation: APIOperation[Any, Any, Any, Any], cases: int, start: int) -> None:
        """`cases` of one operation: right ones and, every third, wrong ones."""
        self.found.operations.add(operation.label)
        before = self.found.cases
        if operation.definition.raw["parameters"] or "requestBody" in operation.definition.raw:
            with contextlib.suppress(Unsatisfiable):  # where nothing can be wrong, all are right
                self._try(operation, GenerationMode.NEGATIVE, cases // 3, start)
        self._try(operation, GenerationMode.POSITIVE, cases - (self.found.cases - before), start)

    def _try(self, operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, cases: int, start: int) -> None:
        def one(case: Case, place: Place) -> None:
            place.put_into(case)
            self._send(case, place.tenant)

        # The operator could take the projects and roles away that everybody else is here by.
        harmless = operation.method == "get" or not re.search(
            r"/(namespaces|clusterrole\w*)(/\{name\}.*)?$", operation.path
        )
        places = _places(operator=harmless)
        if cases > 0:
            _settings(cases)(seed(start)(given(case=operation.as_strategy(mode), place=places)(one)))()

    def _send(self, case: Case, tenant: Tenant) -> None:
        if self.found.cases % REPLANTED_EVERY == 0:
            self._api.plant()
        asked = case.as_transport_kwargs(base_url=self._api.served.url)
        asked["headers"] = {**asked.get("headers", {}), "Authorization": f"Bearer {tenant.token}"}
        try:
            status, said = self._answer(asked)
        except (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL, UnicodeError):
            return  # no client can send it
        self.found.statuses[status] += 1
        for fault in self._faults(tenant, status, said):
            self.found.faults.append(f"{fault}: {tenant.name} {case.as_curl_command()}\n  {status} {said[:600]!r}")

    def _answer(self, asked: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body; of a watch its beginning."""
        said = bytearray()
        with contextlib.closing(
            self._session.request(**asked, stream=True, timeout=(CONNECT_S, CONNECT_S), allow_redirects=False)
        ) as response:
            if "chunked" in response.headers.get("Transfer-Encoding", ""):
                _patience(response, WATCH_READ_S)
            with contextlib.suppress(requests.exceptions.ConnectionError):
                for part in response.iter_content(1 << 16):
                    said += part
                    if len(said) > ANSWER_BYTES_MAX:
                        break
            return response.status_code, bytes(said)

    def _faults(self, tenant: Tenant, status: int, said: bytes) -> Iterator[str]:
        if status >= 500:
            yield "a failure inside"
        if b"Traceback" in said:
            yield "a traceback in an answer"
        if self._log.stat().st_size:
            yield f"a line of the log: {self._log.read_text()}"
            self._log.write_text("")
        for other in TENANTS:
            if tenant not in (other, OPERATOR) and any(word in said for word in other.sought):
                yield f"{other.name}'s marker"


def _settings(cases: int) -> settings:
    return settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )


def _patience(response: requests.Response, seconds: float) -> None:
    """What follows is waited for no longer than this."""
    connection: Any = response.raw
    connection.connection.sock.settimeout(seconds)


# ---- what is there ---------------------------------------------------------------------------------------------------


class Planted:
    """A served API whose tenants have one object of each kind, all of them with the tenant's marker."""

    def __init__(self, served: Served, loop: asyncio.AbstractEventLoop) -> None:
        self.served = served
        self.ended = asyncio.Event()
        self._loop = loop

    def end(self) -> None:
        """Serve no longer."""
        self._loop.call_soon_threadsafe(self.ended.set)

    def plant(self) -> None:
        """Bring back whatever is not there."""
        asyncio.run_coroutine_threadsafe(self._plant(), self._loop).result(READY_S)

    async def people(self) -> None:
        """An admin for each tenant; and words of theirs in the audit log."""
        for tenant in TENANTS:
            self.served.tokens.users[tenant.token] = User(tenant.token, f"u-{tenant.token}", (AUTHENTICATED,))
            self.served.audit.write("object", project=tenant.name, object=tenant.marker, decision="allowed")
        await self._bound()

    async def _bound(self) -> None:
        """Who runs a project may lock themselves out of it."""
        for tenant in TENANTS:
            wanted = project_binding(f"u-{tenant.token}", tenant.token, tenant.name, "admin")
            with contextlib.suppress(NotFound):
                await self.served.store.delete(key_of(wanted))
            with contextlib.suppress(Conflict):  # a finalizer keeps the former one
                await self.served.store.create(wanted)
        await self.served.rbac.reached(self.served.store.revision)

    async def _plant(self) -> None:
        await self._bound()
        for tenant in TENANTS:
            for info in REGISTRY:
                if info.internal or info.computed or not info.namespaced or info.kind in OPERATORS:
                    continue
                version = f"{info.group}/{info.version}" if info.group else info.version
                head = {"apiVersion": version, "kind": info.kind}
                for name in (HELD, tenant.marker):
                    await self._present(head | _contents(info.kind, name, tenant))

    async def _present(self, wanted: dict[str, Any]) -> None:
        with contextlib.suppress(Conflict):
            await self.served.store.create(wanted)
            if "status" in wanted:
                await self.served.store.update_status(wanted)


def _contents(kind: str, name: str, tenant: Tenant) -> dict[str, Any]:
    words = {LABEL: tenant.marker}
    metadata = {"name": name, "namespace": tenant.name, "annotations": words, "labels": words}
    return {"metadata": metadata, **_BODIES.get(kind, lambda _: {})(tenant.marker)}


_DRTP_REF = {"group": "datumapis.com", "kind": "DRTPService", "name": HELD}
_BODIES: dict[str, Any] = {
    "Secret": lambda marker: {"data": {"a": base64.b64encode(marker.encode()).decode()}},
    "ConfigMap": lambda marker: {"data": {"a": marker}},
    "Event": lambda marker: {"message": marker, "reason": marker, "involvedObject": {"name": marker}},
    "Role": lambda marker: {"rules": [{"verbs": ["get"], "apiGroups": [marker], "resources": ["secrets"]}]},
    "RoleBinding": lambda marker: {
        "subjects": [{"kind": "User", "name": marker, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": HELD, "apiGroup": "rbac.authorization.k8s.io"},
    },
    "DRTPService": lambda marker: {
        "spec": {"protocol": "TCP", "local": {"host": f"{marker}.example", "port": 5432}},
        "status": {"conditions": [{"type": "Ready", "status": "False", "message": marker}]},
    },
    "DRTPAccessPolicy": lambda marker: {
        "spec": {"targetRefs": [_DRTP_REF], "rules": [{"name": marker, "action": "Allow", "clientCIDRs": ["::/0"]}]}
    },
    "HTTPRoute": lambda marker: {"spec": {"hostnames": [f"{marker}.example"], "rules": [{"backendRefs": [_DRTP_REF]}]}},
}


@contextlib.contextmanager
def planted(folder: Path, log: TextIO) -> Generator[Planted]:
    """The API over a store on disk, in a thread of its own; errors and worse go to `log`."""
    configure_logs(stream=log, level=logging.ERROR)
    ready: Future[Planted] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_live(folder, ready)))
    thread.start()
    try:
        api = ready.result(READY_S)
        try:
            yield api
        finally:
            api.end()
    finally:
        thread.join(READY_S)
        configure_logs()


async def _live(folder: Path, ready: Future[Planted]) -> None:
    try:
        store = await SqliteStore.open(folder / "store")
        async with serving(folder, store) as served:
            api = Planted(served, asyncio.get_running_loop())
            await api.people()
            ready.set_result(api)
            await api.ended.wait()
        await store.close()
    except Exception as error:
        if ready.done():
            raise
        ready.set_exception(error)
