"""CustomResourceDefinitions: ours written from the models, Gateway API's read from the unmodified upstream files.

`python -m drtp.api.crds [FOLDER]` writes ours, to `deploy/crds` by default.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from drtp.api import drtp_kinds, gatewayapi
from drtp.api.kinds import KindInfo, PrinterColumn
from drtp.api.meta import Model
from drtp.api.schema import Schema

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml reads the upstream megabyte in 0.12 s where pure Python needs seconds."""

PREFERRED = ("v1", "v1beta1")
"""Upstream keeps one shape over these versions, so one is stored and the others are the same object renamed."""


def definition(info: KindInfo) -> dict[str, Any]:
    """The CustomResourceDefinition of one of our kinds."""
    names: dict[str, Any] = {
        "kind": info.kind,
        "listKind": f"{info.kind}List",
        "plural": info.plural,
        "singular": info.singular,
        "shortNames": list(info.short_names),
        "categories": list(info.categories),
    }
    version: dict[str, Any] = {"name": info.version, "served": True, "storage": True}
    if info.status_subresource:
        version["subresources"] = {"status": {}}
    version["additionalPrinterColumns"] = [_column(column) for column in info.printer_columns]
    if info.selectable_fields:
        version["selectableFields"] = [{"jsonPath": path} for path in info.selectable_fields]
    version["schema"] = {"openAPIV3Schema": info.schema}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{info.plural}.{info.group}"},
        "spec": {
            "group": info.group,
            "scope": "Namespaced" if info.namespaced else "Cluster",
            "names": names,
            "versions": [version],
        },
    }


def _column(column: PrinterColumn) -> dict[str, Any]:
    said: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.json_path}
    if column.priority:
        said["priority"] = column.priority
    if column.description:
        said["description"] = column.description
    return said


class _Plain(yaml.SafeDumper):
    """No anchors: a schema node that is used twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def rendered() -> dict[str, str]:
    """File name to YAML text, for every kind of ours."""
    return {
        f"{info.group}_{info.plural}.yaml": yaml.dump(definition(info), Dumper=_Plain, sort_keys=False, width=120)
        for info in drtp_kinds.KINDS
    }


@cache
def gateway_kinds() -> tuple[KindInfo, ...]:
    """The kinds of Gateway API, as the upstream files define them."""
    return tuple(info for text in _upstream() for info in (_kind(yaml.load(text, Loader=_Loader)),) if info)  # noqa: S506 - a safe loader


def _upstream() -> Iterator[str]:
    folder = files("drtp.api") / "gateway_crds"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            yield entry.read_text(encoding="utf-8")


def _kind(crd: dict[str, Any]) -> KindInfo | None:
    spec = crd["spec"]
    names = spec["names"]
    served = {version["name"]: version for version in spec["versions"] if version["served"]}
    versions = [name for name in PREFERRED if name in served]
    if not versions:
        return None
    stored = served[versions[0]]
    schema: Schema = stored["schema"]["openAPIV3Schema"]
    return KindInfo(
        kind=names["kind"],
        group=spec["group"],
        version=versions[0],
        plural=names["plural"],
        singular=names["singular"],
        namespaced=spec["scope"] == "Namespaced",
        short_names=tuple(names.get("shortNames", ())),
        categories=tuple(names.get("categories", ())),
        model=_model(names["kind"]),
        status_subresource="status" in (stored.get("subresources") or {}),
        printer_columns=tuple(
            PrinterColumn(c["name"], c["type"], c["jsonPath"], c.get("priority", 0), c.get("description", ""))
            for c in stored.get("additionalPrinterColumns", ())
        ),
        selectable_fields=tuple(f["jsonPath"] for f in stored.get("selectableFields", ())),
        also_versions=tuple(versions[1:]),
        load_schema=lambda: schema,
    )


def _model(kind: str) -> type[Model] | None:
    return getattr(gatewayapi, kind, None)


def main() -> None:
    """Write our definitions into the folder named by the first argument."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "deploy/crds")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in rendered().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
