"""The table of every metric, made from the code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import Metric

_OF_EDGES = ("drtp_feed_snapshot_", "drtp_certificate_")
_OF_ALL = ("drtp_log_",)

_HEAD = """# Metrics

In Prometheus' text format. No tenant, service or object of a tenant is a label: their number has no bound. (An
agent's own few services are labels of that agent's metrics.)

| part | where |
|---|---|
| control plane | `curl --unix-socket DATA_DIR/operator.sock http://operator/metrics` |
| POP, gateway | `--metrics-port`, on loopback; a gateway adds Envoy's own |
| agent | `/metrics` of its status pages, whose address it prints |

This page is made from the code by `python -m drtp.main.commands.metrics_page docs/operations/metrics.md`.
"""


def page() -> str:
    """The page as it should be on disk."""
    shared = dict(_registered())
    edges = {name: row for name, row in shared.items() if name.startswith(_OF_EDGES)}
    everyone = {name: row for name, row in shared.items() if name.startswith(_OF_ALL)}
    tower = {name: row for name, row in shared.items() if name not in edges and name not in everyone}
    parts = {
        "Every part": everyone,
        "Control plane": tower,
        "POP, gateway and agent": edges,
        "POP": dict(_collected(_pop())),
        "Gateway": dict(_collected(_gateway())),
        "Agent": dict(_collected(_agent())),
    }
    lines = [_HEAD]
    for title, rows in parts.items():
        lines += [f"## {title}", "", "| metric | type | by | |", "|---|---|---|---|"]
        lines += [rows[name] for name in sorted(rows)]
        lines.append("")
    return "\n".join(lines)


def _registered() -> Iterator[tuple[str, str]]:
    """Metrics that modules declare; importing the composition imports them all."""
    for module in ("drtp.client.feed", "drtp.main.controlplane"):
        importlib.import_module(module)
    from drtp.kit.observe import REGISTRY

    collectors: Iterable[Any] = getattr(REGISTRY, "_collector_to_names")  # noqa: B009 - the library has no other way
    for collector in collectors:
        labels: tuple[str, ...] = getattr(collector, "_labelnames", ())
        for metric in cast("Iterable[Metric]", collector.collect()):
            yield metric.name, _row(metric, labels)


def _collected(metrics: Iterable[Metric]) -> Iterator[tuple[str, str]]:
    for metric in metrics:
        yield metric.name, _row(metric, getattr(metric, "_labelnames", ()))


def _row(metric: Metric, labels: Iterable[str]) -> str:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    return f"| `{name}` | {metric.type} | {', '.join(labels)} | {metric.documentation} |"


def _pop() -> Iterable[Metric]:
    from drtp.pop.metrics import PopCollector
    from drtp.pop.vitals import Pulse
    from drtp.tunnel import Stats

    vitals = Pulse().vitals(0.0, Stats(), draining=False, descriptors_share=0.0)
    return PopCollector(Stats, lambda: vitals, dict).collect()


def _gateway() -> Iterable[Metric]:
    from drtp.gateway.host import GatewayHost
    from drtp.gateway.metrics import GatewayCollector
    from drtp.kit.latest import Latest

    idle = SimpleNamespace(reports=Latest({}), flows=SimpleNamespace(counts={}, refused_at_accept=0))
    return GatewayCollector(cast("GatewayHost", idle)).collect()


def _agent() -> Iterable[Metric]:
    from drtp.agent.metrics import AgentCollector
    from drtp.agent.view import AgentView
    from drtp.kit.latest import Latest

    return AgentCollector(Latest(AgentView())).collect()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
