"""From what a person types (`svc`, `drtpservices`, `DRTPService`) to a resource, by the API's own discovery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drtp.client.api import ApiClient
from drtp.kit.errors import NotFound

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


@dataclass(frozen=True)
class Resource:
    """One kind as the API serves it; `api_version` is `group/version`, or `v1` in core."""

    api_version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    namespaced: bool

    def is_called(self, written: str) -> bool:
        """Whether `written` (lower case, perhaps with `.group`) means this resource."""
        group = self.api_version.rpartition("/")[0]
        names = {self.plural, self.singular, self.kind.lower(), *self.short_names}
        return written in names or written in {f"{name}.{group}" for name in names}


async def discover(api: ApiClient) -> list[Resource]:
    """Everything the API serves, ours first, so that a short name means our kind."""
    found: list[Resource] = []
    for root in ("/apis", "/api"):
        answer = await api.request("GET", root, accept=_AGGREGATED)
        for group in answer.get("items", []):
            metadata: dict[str, str] = group.get("metadata", {})
            name = metadata.get("name", "")
            for version in group.get("versions", []):
                api_version = f"{name}/{version['version']}" if name else version["version"]
                found += [_resource(api_version, entry) for entry in version.get("resources", [])]
    return sorted(found, key=lambda resource: not resource.api_version.startswith("datumapis.com/"))


async def find_kind(api: ApiClient, written: str) -> Resource:
    """The resource a person means. Raises: NotFound (DRTP-7014)."""
    resources = await discover(api)
    for resource in resources:
        if resource.is_called(written.lower()):
            return resource
    raise NotFound("DRTP-7014", f"The control plane serves no resource called {written!r}.")


def _resource(api_version: str, entry: dict[str, Any]) -> Resource:
    return Resource(
        api_version=api_version,
        kind=entry["responseKind"]["kind"],
        plural=entry["resource"],
        singular=entry.get("singularResource") or entry["resource"],
        short_names=tuple(entry.get("shortNames") or ()),
        namespaced=entry.get("scope") != "Cluster",
    )
