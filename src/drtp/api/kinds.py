"""What the API knows of a kind: names, scope, schema, and the columns in which `kubectl get` tells its story."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from drtp.api.meta import Model
from drtp.api.schema import Schema, object_schema


@dataclass(frozen=True, slots=True)
class PrinterColumn:
    """One column of a Table. `type` string, integer, boolean or date; `priority` above 0 shows with `-o wide` only."""

    name: str
    type: str
    json_path: str
    priority: int = 0
    description: str = ""


AGE = PrinterColumn("Age", "date", ".metadata.creationTimestamp")


def condition_column(name: str) -> PrinterColumn:
    """A column with one condition's status."""
    return PrinterColumn(name, "string", f'.status.conditions[?(@.type=="{name}")].status')


@dataclass(frozen=True)
class KindInfo:
    """One kind, as discovery, validation, tables and stores see it.

    `model` is None where DRTP never reads the kind itself. `also_versions` are served too, with the same shape;
    `version` is the one stored. `internal` kinds live in the store and are never served; `computed` ones are made for
    each reader, get and list only, and never stored.
    """

    kind: str
    group: str
    version: str
    plural: str
    singular: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    model: type[Model] | None = None
    status_subresource: bool = False
    printer_columns: tuple[PrinterColumn, ...] = (AGE,)
    selectable_fields: tuple[str, ...] = ()
    also_versions: tuple[str, ...] = ()
    internal: bool = False
    computed: bool = False
    load_schema: Callable[[], Schema] | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> str:
        """The kind as `api.meta.Key` holds it: `<Kind>.<group>`, or `<Kind>` in core."""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @property
    def api_version(self) -> str:
        """`group/version` of stored objects, or `v1` in core."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @cached_property
    def schema(self) -> Schema:
        """The structural schema. Raises TypeError for a kind with neither a model nor a schema."""
        if self.load_schema is not None:
            return self.load_schema()
        if self.model is None:
            raise TypeError(f"{self.key} has no schema")
        return object_schema(self.model)


def kind_key(api_version: str, kind: str) -> str:
    """`api.meta.Key.kind` of an object's own `apiVersion` and `kind`."""
    group, slash, _version = api_version.partition("/")
    return f"{kind}.{group}" if slash else kind
