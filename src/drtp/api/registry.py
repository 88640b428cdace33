"""Every kind DRTP knows, found by key, by model, or by (group, plural).

Ours come from the typed models, Gateway API's from the unmodified upstream files, Kubernetes' own from `core`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

from drtp.api import catalogue_kinds, core_kinds, drtp_kinds, rbac
from drtp.api.crds import gateway_kinds
from drtp.api.kinds import KindInfo, PrinterColumn, kind_key
from drtp.api.meta import Model

__all__ = ["REGISTRY", "KindInfo", "PrinterColumn", "Registry", "kind_key"]


class Registry:
    """Look-ups over one fixed set of kinds; upstream files are read at the first look-up."""

    def __init__(self, fixed: Iterable[KindInfo]) -> None:
        self._fixed = tuple(fixed)

    @cached_property
    def _all(self) -> tuple[KindInfo, ...]:
        return (*self._fixed, *gateway_kinds())

    @cached_property
    def _by_key(self) -> dict[str, KindInfo]:
        return {info.key: info for info in self._all}

    @cached_property
    def _by_resource(self) -> dict[tuple[str, str], KindInfo]:
        return {(info.group, info.plural): info for info in self._all}

    @cached_property
    def _by_model(self) -> dict[type[Model], KindInfo]:
        return {info.model: info for info in self._all if info.model is not None}

    def __iter__(self) -> Iterator[KindInfo]:
        """Every kind, internal ones included."""
        return iter(self._all)

    def __getitem__(self, key: str) -> KindInfo:
        """The kind with this `api.meta.Key.kind`. Raises KeyError."""
        return self._by_key[key]

    def find(self, key: str) -> KindInfo | None:
        """The kind with this `api.meta.Key.kind`, or None."""
        return self._by_key.get(key)

    def resource(self, group: str, plural: str) -> KindInfo | None:
        """The kind that the API serves at this path, or None."""
        return self._by_resource.get((group, plural))

    def of(self, model: type[Model]) -> KindInfo:
        """The kind that this model types. Raises KeyError."""
        return self._by_model[model]


REGISTRY = Registry(
    (*drtp_kinds.KINDS, catalogue_kinds.ENTRY, *core_kinds.KINDS, *rbac.KINDS, *core_kinds.INTERNAL),
)
"""The one registry of this process."""
