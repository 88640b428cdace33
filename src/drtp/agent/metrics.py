"""The agent's numbers for Prometheus, read from the view when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from drtp.agent.view import AgentView
from drtp.api.drtp import ClientStatus, Protocol
from drtp.kit.latest import Latest


class AgentCollector(Collector):
    """Services and POPs of one agent are few, so they may be labels."""

    def __init__(self, view: Latest[AgentView]) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """One family for each number."""
        view = self._view.value or AgentView()
        yield GaugeMetricFamily("drtp_agent_ready", "1: every enabled service is ready.", value=float(view.ready))
        yield from _services(view)
        yield from _pops(view)
        if view.certificate is not None:
            yield GaugeMetricFamily(
                "drtp_agent_certificate_not_after_seconds",
                "When the certificate expires, unix time.",
                value=view.certificate.not_after_unix_ms / 1000,
            )


def _services(view: AgentView) -> Iterator[Metric]:
    ready = GaugeMetricFamily("drtp_agent_service_ready", "1: proven end to end on some path.", labels=["service"])
    streams = GaugeMetricFamily("drtp_agent_streams", "Open visitors.", labels=["service"])
    opened = CounterMetricFamily("drtp_agent_streams_opened", "Visitors since start.", labels=["service"])
    failures = CounterMetricFamily("drtp_agent_local_failures", "Failed connects to it.", labels=["service"])
    connect = GaugeMetricFamily("drtp_agent_local_connect_seconds", "Its last successful connect.", labels=["service"])
    jitter = GaugeMetricFamily("drtp_agent_local_jitter_seconds", "Mean deviation of connects.", labels=["service"])
    moved = CounterMetricFamily(
        "drtp_agent_bytes", "Payload; in is visitor to service.", labels=["service", "direction"]
    )
    datagrams = CounterMetricFamily(
        "drtp_agent_datagrams", "Of UDP; in is visitor to service.", labels=["service", "direction"]
    )
    dropped = CounterMetricFamily("drtp_agent_datagrams_dropped", "Of UDP, at this end.", labels=["service"])
    for service in view.services:
        ready.add_metric([service.key], float(service.ready))
        streams.add_metric([service.key], service.streams)
        opened.add_metric([service.key], service.streams_total)
        failures.add_metric([service.key], service.local.failures_total)
        if service.local.connect_ms is not None:
            connect.add_metric([service.key], service.local.connect_ms / 1000)
            jitter.add_metric([service.key], service.local.jitter_ms / 1000)
        moved.add_metric([service.key, "in"], service.bytes_in)
        moved.add_metric([service.key, "out"], service.bytes_out)
        if service.protocol is Protocol.UDP:
            datagrams.add_metric([service.key, "in"], service.datagrams_in)
            datagrams.add_metric([service.key, "out"], service.datagrams_out)
            dropped.add_metric([service.key], service.datagrams_dropped)
    yield from (ready, streams, opened, failures, connect, jitter, moved, datagrams, dropped)


def _pops(view: AgentView) -> Iterator[Metric]:
    connected = GaugeMetricFamily("drtp_agent_pop_connected", "1: a session is live.", labels=["pop"])
    round_trip = GaugeMetricFamily("drtp_agent_pop_round_trip_seconds", "Smoothed.", labels=["pop"])
    floor = GaugeMetricFamily("drtp_agent_pop_round_trip_floor_seconds", "The shortest of late.", labels=["pop"])
    jitter = GaugeMetricFamily("drtp_agent_pop_jitter_seconds", "Mean deviation of round trips.", labels=["pop"])
    loss = GaugeMetricFamily("drtp_agent_pop_loss_ratio", "Pings late or lost, 0 to 1.", labels=["pop"])
    for pop in view.pops:
        connected.add_metric([pop.name], float(pop.state is ClientStatus.CONNECTED))
        if pop.round_trip_ms is not None:
            round_trip.add_metric([pop.name], pop.round_trip_ms / 1000)
            jitter.add_metric([pop.name], pop.jitter_ms / 1000)
        if pop.round_trip_floor_ms is not None:
            floor.add_metric([pop.name], pop.round_trip_floor_ms / 1000)
        loss.add_metric([pop.name], pop.loss)
    yield from (connected, round_trip, floor, jitter, loss)
