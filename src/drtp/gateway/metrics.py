"""`/metrics` on loopback: the host's own figures and Envoy's, in one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from drtp.api.reports import GatewayReport
from drtp.gateway.host import GatewayHost
from drtp.kit.clock import Clock
from drtp.kit.door import NEIGHBOURS, listen, serving
from drtp.kit.observe import REGISTRY, logger

_log = logger("gateway")


_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Other names are a browser's DNS being rebound to us."""


class GatewayCollector(Collector):
    """Totals over all services: their number has no bound, so none is a label."""

    def __init__(self, host: GatewayHost) -> None:
        self._host = host
        self._flows = 0

    async def look(self) -> None:
        """Ask for what only another thread can tell; before each scrape."""
        self._flows = await self._host.udp.flows()

    def collect(self) -> Iterator[Metric]:
        """Read at each scrape."""
        reports = self._host.reports.value or {}
        own = reports.get("self")
        ready = isinstance(own, GatewayReport) and own.envoy_ready
        yield GaugeMetricFamily("drtp_gateway_envoy_ready", "Envoy serves.", value=float(ready))
        connections = own.connections if isinstance(own, GatewayReport) else 0
        yield GaugeMetricFamily("drtp_gateway_connections", "Visitors' connections now.", value=connections)
        yield GaugeMetricFamily("drtp_gateway_udp_flows", "UDP visitors' flows now.", value=self._flows)
        yield GaugeMetricFamily("drtp_gateway_entries", "Entries that Envoy has answered for.", value=len(reports) - 1)
        counts = list(self._host.flows.counts.values())
        totals = {
            "drtp_gateway_visitors": sum(count.visitors for count in counts),
            "drtp_gateway_received_bytes": sum(count.received_bytes for count in counts),
            "drtp_gateway_sent_bytes": sum(count.sent_bytes for count in counts),
            "drtp_gateway_refused_at_accept": self._host.flows.refused_at_accept,
        }
        for name, value in totals.items():
            yield CounterMetricFamily(name, "Since this host started.", value=value)


async def serve_metrics(host: GatewayHost, port: int | None, clock: Clock) -> None:
    """Until cancelled. Port None: not at all."""
    if port is None:
        return
    registry = CollectorRegistry()
    collector = GatewayCollector(host)
    registry.register(collector)

    async def answer(request: web.Request) -> web.Response:
        if request.url.host not in _HOSTS:
            raise web.HTTPForbidden(text="Ask for this by a loopback name.\n")
        await collector.look()
        own = generate_latest(registry) + generate_latest(REGISTRY)
        text = own.decode() + await host.envoy.admin.metrics()
        return web.Response(text=text, content_type="text/plain")

    application = web.Application()
    application.router.add_get("/metrics", answer)
    try:
        listener = listen("127.0.0.1", port)
    except OSError as error:
        _log.error("metrics not served", port=port, reason=str(error))
        return
    async with serving("metrics", application, listener, NEIGHBOURS, clock):
        _log.info("metrics served", port=listener.getsockname()[1])
        await asyncio.Event().wait()
