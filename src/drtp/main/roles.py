"""The roles and bindings that every control plane has, kept up to date at each start, and who works in which project.

As on Kubernetes, an object whose annotation `rbac.authorization.kubernetes.io/autoupdate` is not `true` is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from drtp.api import catalogue, drtp, gatewayapi, rbac
from drtp.api.internal import ACCOUNT
from drtp.api.jsonvalue import JsonObject
from drtp.api.meta import Key
from drtp.api.people import AUTHENTICATED, SYSTEM_MASTERS
from drtp.kit.errors import NotFound
from drtp.kit.observe import logger
from drtp.store.protocol import Create, Delete, Store, Stored, Update, Write, key_of

AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
ACCOUNT_LABEL = "datumapis.com/account"
"""On a RoleBinding that was made with an account: the account's uid."""

TENANT_ROLE = "edit"
"""What a user has in a project, unless more or less is said."""

READ = ["get", "list", "watch"]
WRITE = ["create", "delete", "deletecollection", "patch", "update"]

_DRTP = [
    *("drtpservices", "drtpconnections", "drtpaccesspolicies"),
    *("drtppublications", "drtpsubscriptions", "drtpapprovals"),
]
_ROUTES = ["httproutes", "tcproutes", "tlsroutes", "udproutes", "grpcroutes"]
_GATEWAY = [*_ROUTES, "listenersets", "referencegrants", "backendtlspolicies"]
_WITH_STATUS = [*_ROUTES, "listenersets", "backendtlspolicies"]

_log = logger("roles")


def _rule(verbs: list[str], group: str, *resources: str) -> JsonObject:
    return {"verbs": verbs, "apiGroups": [group], "resources": list(resources)}


def _status(*plurals: str) -> list[str]:
    return [f"{plural}/status" for plural in plurals]


_VIEW = [
    _rule(READ, "", "configmaps", "events", "namespaces", "namespaces/status", "services", "services/status"),
    _rule(READ, "", "resourcequotas", "resourcequotas/status", "serviceaccounts"),
    _rule(READ, drtp.GROUP, *_DRTP, *_status(*_DRTP)),
    _rule(READ, gatewayapi.GROUP, *_GATEWAY, *_status(*_WITH_STATUS)),
    _rule(READ, catalogue.CATALOG_GROUP, "catalogentries"),
    _rule(["create"], "policy.datumapis.com", "policyreviews"),
]
# EndpointSlices are in no role (CVE-2021-25740), and status is for controllers to write.
_EDIT = [
    *_VIEW,
    _rule(["connect"], drtp.GROUP, "drtpsubscriptions/connect"),
    _rule(READ, "", "secrets"),
    _rule(WRITE, "", "configmaps", "secrets", "serviceaccounts", "services"),
    _rule(WRITE, drtp.GROUP, *_DRTP),
    _rule(["serve"], drtp.GROUP, "drtpservices"),
    _rule(WRITE, gatewayapi.GROUP, *_GATEWAY),
    _rule(["create"], "identity.datumapis.com", "revocations", "servicecredentials"),
    _rule(["connect"], drtp.GROUP, "drtpservices/connect"),
    _rule(["create"], "", "serviceaccounts/token"),
]
_ADMIN = [
    *_EDIT,
    _rule([*READ, *WRITE], rbac.GROUP, "roles", "rolebindings"),
    _rule(["create"], "authorization.k8s.io", "localsubjectaccessreviews"),
    _rule(["create"], "identity.datumapis.com", "auditqueries"),
]
# What an organisation's members have in each of its projects; the first two also make projects and invite, and the
# owner alone ends projects, so that no admin can make an owner.
_ORGANIZATION_ADMIN = [*_ADMIN, _rule(["create"], "identity.datumapis.com", "projectrequests", "invitations")]
_ORGANIZATION_OWNER = [*_ORGANIZATION_ADMIN, _rule(["delete"], "", "namespaces")]
_SHARED = [
    _rule(READ, drtp.GROUP, "drtpservers", "drtpservers/status"),
    _rule(READ, gatewayapi.GROUP, "gatewayclasses", "gateways", *_status("gatewayclasses", "gateways")),
]
_OWN = ["clientcertificates", "selftokens", "selftokenreviews", "selftokenrevocations"]
_BASIC = [
    _rule(["create"], "authentication.k8s.io", "selfsubjectreviews"),
    _rule(["create"], "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
    _rule(["create"], "identity.datumapis.com", "invitationacceptances", *_OWN),
]
_DOCUMENTS = ["/", "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz"]
_DISCOVERY: list[JsonObject] = [{"verbs": ["get"], "nonResourceURLs": [*_DOCUMENTS, "/version", "/version/"]}]
_EVERYTHING: list[JsonObject] = [_rule(["*"], "*", "*"), {"verbs": ["*"], "nonResourceURLs": ["*"]}]

CLUSTER_ROLES: dict[str, list[JsonObject]] = {
    "cluster-admin": _EVERYTHING,
    "admin": _ADMIN,
    "edit": _EDIT,
    "view": _VIEW,
    "organization-owner": _ORGANIZATION_OWNER,
    "organization-admin": _ORGANIZATION_ADMIN,
    "organization-editor": _EDIT,
    "organization-viewer": _VIEW,
    "system:basic-user": _BASIC,
    "system:discovery": _DISCOVERY,
    "datum:shared-view": _SHARED,
}
EVERYWHERE = {
    "cluster-admin": SYSTEM_MASTERS,
    "system:basic-user": AUTHENTICATED,
    "system:discovery": AUTHENTICATED,
    "datum:shared-view": AUTHENTICATED,
}
"""Cluster role to the group that has it everywhere, by a binding of the same name."""


def bootstrap_objects() -> list[JsonObject]:
    """Every role and binding of the above."""
    roles: list[JsonObject] = [_object("ClusterRole", name, rules=rules) for name, rules in CLUSTER_ROLES.items()]
    bindings = [
        _object(
            "ClusterRoleBinding",
            role,
            roleRef={"apiGroup": rbac.GROUP, "kind": "ClusterRole", "name": role},
            subjects=[{"apiGroup": rbac.GROUP, "kind": "Group", "name": group}],
        )
        for role, group in EVERYWHERE.items()
    ]
    return roles + bindings


def _object(kind: str, name: str, **content: Any) -> JsonObject:
    labels = {"kubernetes.io/bootstrapping": "rbac-defaults"}
    metadata = {"name": name, "annotations": {AUTOUPDATE: "true"}, "labels": labels}
    return {"apiVersion": rbac.API_VERSION, "kind": kind, "metadata": metadata, **content}


async def ensure_roles(store: Store) -> None:
    """Make what is missing, and bring to this version what says that it may be."""
    for wanted in bootstrap_objects():
        held = await _find(store, key_of(wanted))
        if held is None:
            await store.create(wanted)
            continue
        content = {name: wanted[name] for name in ("rules", "subjects") if name in wanted}
        changed = any(held.object.get(name) != value for name, value in content.items())
        if changed and held.metadata.get("annotations", {}).get(AUTOUPDATE) == "true":
            await store.update(held.object | content)
            _log.info("role brought up to date", object=str(held.key))


async def _find(store: Store, key: Key) -> Stored | None:
    try:
        return await store.get(key)
    except NotFound:
        return None


# ---- who works where -----------------------------------------------------------------------------------------------


async def set_projects(store: Store, uid: str, user: str, namespaces: Iterable[str], role: str = TENANT_ROLE) -> None:
    """Give `user` this cluster role in exactly these projects, by bindings of its own. Raises: NotFound."""
    wanted = set(namespaces)
    for namespace in sorted(wanted):
        if await _find(store, Key("Namespace", "", namespace)) is None:
            raise NotFound("DRTP-1001", f"There is no project {namespace}.")
    listing = await store.list("RoleBinding.rbac.authorization.k8s.io")
    held = {one.key.namespace: one for one in listing.items if one.labels.get(ACCOUNT_LABEL) == uid}
    writes: list[Write] = []
    for namespace, binding in held.items():
        if namespace not in wanted or binding.object["roleRef"]["name"] != role:
            writes.append(Delete(binding.key))
    for namespace in wanted:
        if namespace not in held or held[namespace].object["roleRef"]["name"] != role:
            writes.append(Create(project_binding(uid, user, namespace, role)))
    if writes:
        await store.apply(writes)


def project_binding(uid: str, user: str, namespace: str, role: str) -> JsonObject:
    """The binding that gives a user a cluster role in a project."""
    return {
        "apiVersion": rbac.API_VERSION,
        "kind": "RoleBinding",
        "metadata": {"name": f"{role}-{uid}", "namespace": namespace, "labels": {ACCOUNT_LABEL: uid}},
        "roleRef": {"apiGroup": rbac.GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": rbac.GROUP, "kind": "User", "name": user}],
    }


async def bind_former_members(store: Store) -> None:
    """Accounts of a data directory from before roles name their projects themselves: bind them, once."""
    listing = await store.list(ACCOUNT)
    for account in listing.items:
        spec: JsonObject = account.object["spec"]
        if "namespaces" not in spec:
            continue
        writes = await _bindings_of(store, account.key.name, spec["name"], spec["namespaces"])
        kept = {name: value for name, value in spec.items() if name != "namespaces"}
        await store.apply([*writes, Update(account.object | {"spec": kept})])
        _log.info("account bound to its projects", account=account.key.name, projects=len(writes))


async def _bindings_of(store: Store, uid: str, user: str, namespaces: Sequence[str]) -> list[Write]:
    """Bindings in those of the projects that still are there."""
    bindings = [project_binding(uid, user, namespace, TENANT_ROLE) for namespace in namespaces]
    return [
        Create(binding)
        for binding in bindings
        if await _find(store, Key("Namespace", "", binding["metadata"]["namespace"])) is not None
        and await _find(store, key_of(binding)) is None
    ]
