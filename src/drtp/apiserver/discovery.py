"""What the API serves: aggregated discovery for present clients, the older per-group lists for the rest."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from drtp.api.jsonvalue import JsonObject
from drtp.api.kinds import KindInfo
from drtp.api.registry import REGISTRY

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""The content type that makes kubectl read an answer as aggregated discovery; without it, it falls back."""

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
COMPUTED_VERBS = ("get", "list")
STATUS_VERBS = ("get", "patch", "update")


class Review(NamedTuple):
    """A question one posts; nothing is kept."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = False

    @property
    def scope(self) -> str:
        """As discovery says it."""
        return "Namespaced" if self.namespaced else "Cluster"


REVIEWS = (
    Review("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews"),
    Review("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", namespaced=True),
    Review("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
    Review("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
    Review("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews"),
    Review("identity.datumapis.com", "v1alpha", "AuditQuery", "auditqueries", namespaced=True),
    Review("identity.datumapis.com", "v1alpha", "ClusterAuditQuery", "clusterauditqueries"),
    Review("identity.datumapis.com", "v1alpha", "ClientCertificate", "clientcertificates"),
    Review("identity.datumapis.com", "v1alpha", "ClusterRevocation", "clusterrevocations"),
    Review("identity.datumapis.com", "v1alpha", "Invitation", "invitations", namespaced=True),
    Review("identity.datumapis.com", "v1alpha", "InvitationAcceptance", "invitationacceptances"),
    Review("identity.datumapis.com", "v1alpha", "ProjectRequest", "projectrequests", namespaced=True),
    Review("identity.datumapis.com", "v1alpha", "Revocation", "revocations", namespaced=True),
    Review("identity.datumapis.com", "v1alpha", "SelfToken", "selftokens"),
    Review("identity.datumapis.com", "v1alpha", "SelfTokenReview", "selftokenreviews"),
    Review("identity.datumapis.com", "v1alpha", "SelfTokenRevocation", "selftokenrevocations"),
    Review("identity.datumapis.com", "v1alpha", "ServiceCredentials", "servicecredentials", namespaced=True),
    Review("identity.datumapis.com", "v1alpha", "UserPassword", "userpasswords"),
    Review("identity.datumapis.com", "v1alpha", "UserToken", "usertokens"),
    Review("policy.datumapis.com", "v1alpha", "PolicyReview", "policyreviews", namespaced=True),
)


def verbs_of(info: KindInfo) -> list[str]:
    """What may be done with objects of a kind."""
    return list(COMPUTED_VERBS if info.computed else VERBS)


@cache
def served() -> dict[str, dict[str, list[KindInfo]]]:
    """Group to version to kinds, preferred versions first."""
    groups: dict[str, dict[str, list[KindInfo]]] = {}
    for info in REGISTRY:
        if not info.internal:
            for version in (info.version, *info.also_versions):
                groups.setdefault(info.group, {}).setdefault(version, []).append(info)
    for review in REVIEWS:
        groups.setdefault(review.group, {}).setdefault(review.version, [])
    return groups


def review_at(group: str, version: str, plural: str, *, namespaced: bool) -> Review | None:
    """The review that is posted there."""
    wanted = (group, version, plural, namespaced)
    return next((one for one in REVIEWS if (one.group, one.version, one.plural, one.namespaced) == wanted), None)


def reviews_of(group: str, version: str) -> list[Review]:
    """What is posted to a group and kept nowhere."""
    return [review for review in REVIEWS if (review.group, review.version) == (group, version)]


def aggregated(*, core: bool) -> JsonObject:
    """APIGroupDiscoveryList for `/api` (core) or `/apis`."""
    groups = {group: versions for group, versions in served().items() if (group == "") == core}
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": group} if group else {},
                "versions": [
                    {"version": version, "freshness": "Current", "resources": _discovered(group, version, kinds)}
                    for version, kinds in versions.items()
                ],
            }
            for group, versions in groups.items()
        ],
    }


def _discovered(group: str, version: str, kinds: list[KindInfo]) -> list[JsonObject]:
    resources: list[JsonObject] = []
    for info in kinds:
        response = {"group": group, "version": version, "kind": info.kind}
        resource: JsonObject = {
            "resource": info.plural,
            "responseKind": response,
            "scope": "Namespaced" if info.namespaced else "Cluster",
            "singularResource": info.singular,
            "verbs": verbs_of(info),
        }
        if info.short_names:
            resource["shortNames"] = list(info.short_names)
        if info.categories:
            resource["categories"] = list(info.categories)
        if info.status_subresource:
            resource["subresources"] = [
                {"subresource": "status", "responseKind": response, "verbs": list(STATUS_VERBS)}
            ]
        if info.key == "ServiceAccount":
            asked = {"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest"}
            resource["subresources"] = [{"subresource": "token", "responseKind": asked, "verbs": ["create"]}]
        resources.append(resource)
    resources.extend(
        {
            "resource": review.plural,
            "responseKind": {"group": group, "version": version, "kind": review.kind},
            "scope": review.scope,
            "singularResource": review.kind.lower(),
            "verbs": ["create"],
        }
        for review in reviews_of(group, version)
    )
    return resources


def legacy(path: str) -> JsonObject | None:
    """The older documents: `/api`, `/apis`, `/apis/<group>`, `/api/v1`, `/apis/<group>/<version>`."""
    parts = path.strip("/").split("/")
    groups = served()
    match parts:
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            listed = [_group(group) for group in groups if group]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
        case ["apis", group] if group in groups:
            return {"kind": "APIGroup", "apiVersion": "v1"} | _group(group)
        case ["api", "v1"]:
            return _resources("", "v1")
        case ["apis", group, version] if version in groups.get(group, {}):
            return _resources(group, version)
        case _:
            return None


def _group(group: str) -> JsonObject:
    versions = [{"groupVersion": f"{group}/{version}", "version": version} for version in served()[group]]
    return {"name": group, "versions": versions, "preferredVersion": versions[0]}


def _resources(group: str, version: str) -> JsonObject:
    resources: list[JsonObject] = []
    for info in served()[group][version]:
        resource: JsonObject = {
            "name": info.plural,
            "singularName": info.singular,
            "namespaced": info.namespaced,
            "kind": info.kind,
            "verbs": verbs_of(info),
        }
        if info.short_names:
            resource["shortNames"] = list(info.short_names)
        if info.categories:
            resource["categories"] = list(info.categories)
        resources.append(resource)
        if info.status_subresource:
            resources.append(
                {
                    "name": f"{info.plural}/status",
                    "singularName": "",
                    "namespaced": info.namespaced,
                    "kind": info.kind,
                    "verbs": list(STATUS_VERBS),
                }
            )
        if info.key == "ServiceAccount":
            resources.append(
                {
                    "name": "serviceaccounts/token",
                    "singularName": "",
                    "namespaced": True,
                    "group": "authentication.k8s.io",
                    "version": "v1",
                    "kind": "TokenRequest",
                    "verbs": ["create"],
                }
            )
    resources.extend(
        {
            "name": review.plural,
            "singularName": review.kind.lower(),
            "namespaced": review.namespaced,
            "kind": review.kind,
            "verbs": ["create"],
        }
        for review in reviews_of(group, version)
    )
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": resources,
    }
