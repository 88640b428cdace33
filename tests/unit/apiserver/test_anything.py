"""Whatever is sent, the API answers as Kubernetes does: never a failure inside, and every refusal is a Status."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from unit.apiserver.serving import ADMIN, JOE, Served, serving
from unit.apiserver.test_objects import service

EXAMPLES = 400
"""A few seconds of them, the same in every run."""


_SETTINGS = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


class Sent(NamedTuple):
    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    content_type: str
    accept: str
    token: str
    body: bytes


def secret() -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "data": {"a": "YQ=="}}


def http_route() -> dict[str, Any]:
    backend = {"group": "datumapis.com", "kind": "DRTPService", "name": "db"}
    rule = {"matches": [{"path": {"type": "Exact", "value": "/"}}], "backendRefs": [backend]}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "db"},
        "spec": {"parentRefs": [{"name": "global"}], "hostnames": ["a.example"], "rules": [rule]},
    }


def policy() -> dict[str, Any]:
    rule = {"name": "office", "action": "Allow", "clientCIDRs": ["192.0.2.0/24"]}
    spec = {"targetRefs": [{"group": "datumapis.com", "kind": "DRTPService", "name": "db"}], "rules": [rule]}
    return {"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPAccessPolicy", "metadata": {"name": "db"}, "spec": spec}


def role() -> dict[str, Any]:
    rule = {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role"}
    return {**head, "metadata": {"name": "db"}, "rules": [rule]}


DRTP = "/apis/datumapis.com/v1alpha/namespaces/joe"
OBJECTS = {
    f"{DRTP}/drtpservices": service(),
    f"{DRTP}/drtpaccesspolicies": policy(),
    "/apis/gateway.networking.k8s.io/v1/namespaces/joe/httproutes": http_route(),
    "/apis/rbac.authorization.k8s.io/v1/namespaces/joe/roles": role(),
    "/api/v1/namespaces/joe/secrets": secret(),
}
"""Where each good object lives; all of them are called `db`."""

PRESENT = "the present one"
VERSIONS = dict.fromkeys(OBJECTS, "")
"""What `PRESENT` stands for, by collection: an update says which version it was made from."""

GOOD = list(OBJECTS.values())
ATTRIBUTES = {"verb": "get", "group": "", "resource": "secrets", "namespace": "joe", "name": "db"}
ASKED = {"spec": {"user": "joe", "groups": ["a"], "namespace": "joe", "resourceAttributes": ATTRIBUTES}}
OPTIONS = {"propagationPolicy": "Background", "preconditions": {"uid": "u"}, "gracePeriodSeconds": 0, "dryRun": ["All"]}
COLLECTIONS = (
    "/apis/datumapis.com/v1alpha/namespaces/joe/drtpservices",
    "/apis/datumapis.com/v1alpha/namespaces/joe/drtpaccesspolicies",
    "/apis/datumapis.com/v1alpha/drtpservers",
    "/apis/gateway.networking.k8s.io/v1/namespaces/joe/httproutes",
    "/apis/rbac.authorization.k8s.io/v1/namespaces/joe/roles",
    "/apis/coordination.k8s.io/v1/namespaces/joe/leases",
    "/api/v1/namespaces/joe/secrets",
    "/api/v1/namespaces/joe/events",
    "/api/v1/namespaces",
)
REVIEWS = (
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
    "/apis/authorization.k8s.io/v1/subjectaccessreviews",
    "/apis/authorization.k8s.io/v1/namespaces/joe/localsubjectaccessreviews",
    "/apis/authentication.k8s.io/v1/selfsubjectreviews",
    "/apis/identity.datumapis.com/v1alpha/usertokens",
)
DOCUMENTS = ("/", "/api", "/apis", "/apis/datumapis.com", "/openapi/v3", "/openapi/v3/apis/datumapis.com/v1alpha")

words = st.text(max_size=12)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), words, st.just(2**64)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)


@st.composite
def bent(draw: st.DrawFn, good: Any) -> Any:
    """`good` with some of its members replaced, removed or added."""
    made: Any = copy.deepcopy(good)
    for _ in range(draw(st.integers(0, 3))):
        node = made
        while True:
            keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], (dict, list)) and draw(st.booleans()):
                node = node[key]
                continue
            if draw(st.integers(0, 4)) == 0:
                del node[key]
            else:
                node[key] = draw(values)
            break
    if draw(st.booleans()):
        names = ("annotations", "labels", "finalizers", "ownerReferences", "managedFields", "generateName", "uid")
        if isinstance(made.get("metadata"), dict):
            made["metadata"][draw(st.sampled_from(names))] = draw(values)
    return made


pointers = st.one_of(
    words, st.sampled_from(["", "/", "/spec", "/spec/local/port", "/metadata/name", "/metadata/labels/a~1b", "/spec/-"])
)
operations = st.lists(
    st.fixed_dictionaries(
        {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "odd"]), "path": pointers},
        optional={"value": values, "from": pointers},
    ),
    max_size=4,
)
ODD_BODIES = [
    b"",
    b"null",
    b"[" * 20_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b'{"metadata":{"name":"\\ud800"}}',
    b'{"metadata":{"name":1e999}}',
    b'{"metadata":NaN}',
    b'{"kind":"DRTPService","kind":"Secret"}',
    b"\xff\xfe{\x00}\x00",
    b"a: &a [1]\nb: [*a, *a]\n",
    b"a: !!python/object:os.system {}\n",
    b"? {a: b}\n: c\n",
    b"2020-01-01: 1\n",
    b"k8s\x00",
    b"k8s\x00\x0a\x10\x0a\x02v1\x12\x06Secret\x12\xff\xff\xff\xff\x0f",
    b"\x1f\x8b\x08\x00",
]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return draw(st.binary(max_size=64))
    if kind == 1:
        return draw(st.sampled_from(ODD_BODIES))
    if kind == 2:
        return b"k8s\x00" + draw(st.binary(max_size=64))
    made = (
        draw(st.sampled_from(GOOD).flatmap(bent)) if kind in {3, 4} else draw(operations) if kind == 5 else draw(values)
    )
    if draw(st.integers(0, 4)) == 0:
        return yaml.safe_dump(made).encode()
    return json.dumps(made).encode()


segments = st.one_of(
    st.sampled_from(["db", "status", "joe", "..", ".", "namespaces", "%", "a b", "\n", "é", "x" * 300]), words
)


@st.composite
def paths(draw: st.DrawFn) -> str:
    found = draw(st.sampled_from([*COLLECTIONS * 2, *REVIEWS, *DOCUMENTS]))
    for segment in draw(st.lists(segments, max_size=3)):
        found += "/" + quote(segment, safe="")
    return found


PARAMETERS = [
    "limit",
    "continue",
    "fieldSelector",
    "labelSelector",
    "resourceVersion",
    "resourceVersionMatch",
    "force",
    "fieldManager",
    "dryRun",
    "fieldValidation",
    "propagationPolicy",
    "gracePeriodSeconds",
    "pretty",
    "orphanDependents",
    "timeoutSeconds",
    "sendInitialEvents",
    "includeObject",
    "allowWatchBookmarks",
]
SAID = ("", "0", "-1", "1", "All", "true", "Strict", "Background", "a=b", "a in (b", "metadata.name=db", "!", "Exact")
JSON, YAML = "application/json", "application/yaml"
WRITES = (
    ("POST", "", JSON),
    ("POST", "", YAML),
    ("PUT", "/db", JSON),
    ("PATCH", "/db", "application/merge-patch+json"),
    ("PATCH", "/db", "application/strategic-merge-patch+json"),
    ("PATCH", "/db", "application/apply-patch+yaml"),
    ("PATCH", "/new", "application/apply-patch+yaml"),
    ("PUT", "/db/status", JSON),
    ("PATCH", "/db/status", "application/merge-patch+json"),
)
parameters = st.lists(st.tuples(st.sampled_from(PARAMETERS), st.sampled_from(SAID) | words), max_size=2).map(tuple)


@st.composite
def near(draw: st.DrawFn) -> Sent:
    """A request that is nearly right: the way that goes deepest."""
    path, good = draw(st.sampled_from(list(OBJECTS.items())))
    query = draw(parameters)
    match draw(st.integers(0, 7)):
        case 0:
            kind = "application/json-patch+json"
            return Sent("PATCH", f"{path}/db", query, kind, JSON, ADMIN, json.dumps(draw(operations)).encode())
        case 1:
            options = json.dumps(draw(bent(OPTIONS))).encode()
            return Sent("DELETE", path + draw(st.sampled_from(["", "/db"])), query, JSON, JSON, ADMIN, options)
        case 2:
            accept = draw(st.sampled_from([JSON, "application/json;as=Table;g=meta.k8s.io;v=v1"]))
            return Sent("GET", path + draw(st.sampled_from(["", "/db"])), query, "", accept, ADMIN, b"")
        case 3:
            asked = json.dumps(draw(bent(ASKED))).encode()
            return Sent("POST", draw(st.sampled_from(REVIEWS)), query, JSON, JSON, ADMIN, asked)
        case _:
            method, name, kind = draw(st.sampled_from(WRITES))
            made = draw(bent(good))
            if method == "PUT" and isinstance(made, dict) and isinstance(made.get("metadata"), dict):
                made["metadata"]["resourceVersion"] = PRESENT
            body = yaml.safe_dump(made) if "yaml" in kind else json.dumps(made)
            query = (*query, ("fieldManager", "me")) if "apply" in kind else query
            return Sent(method, path + name, query, kind, JSON, draw(st.sampled_from([ADMIN, JOE])), body.encode())


far = st.builds(
    Sent,
    method=st.sampled_from(
        ["GET", "POST", "POST", "PUT", "PUT", "PATCH", "PATCH", "PATCH", "DELETE", "HEAD", "OPTIONS"]
    ),
    path=paths(),
    query=parameters,
    content_type=st.sampled_from(
        [
            "application/json",
            "application/json; charset=utf-16",
            "application/json; charset=nonsense",
            "application/yaml",
            "application/merge-patch+json",
            "application/json-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
            "application/apply-patch+cbor",
            "application/vnd.kubernetes.protobuf",
            "text/plain",
            "nonsense",
            "",
        ]
    ),
    accept=st.sampled_from(
        ["application/json", "*/*", "application/json;as=Table;g=meta.k8s.io;v=v1", "application/yaml", "odd", ";;q=x,"]
    ),
    token=st.sampled_from([ADMIN, ADMIN, JOE, "nobody"]),
    body=bodies(),
)


async def answered(api: Served, one: Sent) -> None:
    headers = {"Authorization": f"Bearer {one.token}", "Accept": one.accept, "Content-Type": one.content_type}
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in one.query)
    url = URL(f"{api.url}{one.path}{'?' + query if query else ''}", encoded=True)
    version = next((known for path, known in VERSIONS.items() if one.path.startswith(path)), "")
    sent = one.body.replace(PRESENT.encode(), version.encode())
    async with api.session.request(one.method, url, data=sent, headers=headers) as response:
        body = await response.read()
    assert response.status < 500, body
    assert b"Traceback" not in body
    if response.status >= 400 and one.method != "HEAD":
        said = msgspec.json.decode(body)
        assert (said["kind"], said["status"], said["code"]) == ("Status", "Failure", response.status)
        assert said["message"]
        assert said["reason"]


async def restored(api: Served, touched: str) -> None:
    """What an example may have changed is good again, so that the next one has something to change."""
    for path, good in OBJECTS.items():
        if touched.startswith(path):
            kind = "application/merge-patch+json"
            await api.call("PATCH", f"{path}/db", {"metadata": {"finalizers": None}}, Content_Type=kind)
            await api.call("DELETE", f"{path}/db")
            status, made = await api.call("POST", path, good)
            assert status == 201, made
            VERSIONS[path] = made["metadata"]["resourceVersion"]


def test_anything_at_all_is_answered_as_kubernetes_answers(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        context = serving(tmp_path)
        api = runner.run(context.__aenter__())

        @_SETTINGS
        @given(one=near() | near() | near() | far)
        def holds(one: Sent) -> None:
            runner.run(answered(api, one))
            if one.method not in {"GET", "HEAD", "OPTIONS"}:
                runner.run(restored(api, one.path))

        try:
            for path in OBJECTS:
                runner.run(restored(api, path))
            holds()
            for body in ODD_BODIES:
                for kind in (JSON, YAML, "application/apply-patch+yaml"):
                    for method, name in (("POST", ""), ("PATCH", "/db")):
                        sent = Sent(method, f"{DRTP}/drtpservices{name}", (), kind, "*/*", ADMIN, body)
                        runner.run(answered(api, sent))
        finally:
            runner.run(context.__aexit__(None, None, None))
