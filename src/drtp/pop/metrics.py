"""The POP's numbers for Prometheus, from the newest stats. Tenants are no labels: their number has no bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from drtp.client.roundtrips import Path
from drtp.pop.vitals import Vitals
from drtp.tunnel import Stats


class PopCollector(Collector):
    """Reads when somebody asks."""

    def __init__(
        self, stats: Callable[[], Stats], vitals: Callable[[], Vitals], peers: Callable[[], Mapping[str, Path]]
    ) -> None:
        """`peers`: how other POPs are reached, by name."""
        self._stats = stats
        self._peers = peers
        self._vitals = vitals

    def collect(self) -> Iterator[Metric]:
        """One family for each number."""
        stats, vitals = self._stats(), self._vitals()
        gauges: dict[str, tuple[str, float]] = {
            "drtp_pop_health": ("0 to 100.", vitals.health),
            "drtp_pop_sessions": ("Live agents' sessions.", sum(session.live for session in stats.sessions)),
            "drtp_pop_connections": ("Routes.", len(stats.connections)),
            "drtp_pop_connections_live": ("Routes that accept visitors.", sum(one.live for one in stats.connections)),
            "drtp_pop_streams": ("Open visitors.", stats.streams),
            "drtp_pop_pre_auth": ("Connections that have not shown who they are.", stats.pre_auth),
            "drtp_pop_parked_bytes": ("Bytes waiting for slow receivers, or for their turn.", stats.parked_bytes),
            "drtp_pop_descriptors_ratio": ("Share of descriptors in use.", vitals.descriptors_share),
        }
        counters: dict[str, tuple[str, float]] = {
            "drtp_pop_driver_ticks": ("Turns of the driver.", stats.ticks),
            "drtp_pop_streams_opened": ("Visitors since start.", sum(one.streams_total for one in stats.connections)),
            "drtp_pop_streams_denied": ("Visitors refused or cut.", sum(one.denied_total for one in stats.connections)),
            "drtp_pop_streams_would_refuse": (
                "Visitors let in whom a policy of mode DryRun would have refused.",
                sum(one.would_refuse_total for one in stats.connections),
            ),
            "drtp_pop_streams_held_seconds": (
                "Time that visitors have waited because of limits in bytes per second, all together.",
                sum(one.held_ms_total for one in stats.connections) / 1000,
            ),
            "drtp_pop_datagrams_over_limit": (
                "Datagrams dropped because of limits in bytes per second.",
                sum(one.datagrams_over_limit_total for one in stats.connections),
            ),
            "drtp_pop_bytes_in": ("Visitor to service.", sum(one.bytes_in for one in stats.connections)),
            "drtp_pop_bytes_out": ("Service to visitor.", sum(one.bytes_out for one in stats.connections)),
            "drtp_pop_accept_paused": ("Times that descriptors ran out.", stats.accept_paused_total),
            "drtp_pop_events_dropped": ("Events that the host did not read in time.", stats.events_dropped),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=float(value))
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value=float(value))
        yield from _paths(stats)
        yield from _peers(self._peers())


_QUANTILES = (0.5, 0.9, 0.99)


def _paths(stats: Stats) -> Iterator[Metric]:
    """How agents' paths are, as a crowd: an agent is no label."""
    measured = [session for session in stats.sessions if session.live and session.round_trip_ms is not None]
    families: dict[str, tuple[str, list[float]]] = {
        "drtp_pop_session_round_trip_seconds": (
            "Smoothed round trips to agents.",
            [(session.round_trip_ms or 0.0) / 1000 for session in measured],
        ),
        "drtp_pop_session_jitter_seconds": (
            "Mean deviations of them.",
            [session.jitter_ms / 1000 for session in measured],
        ),
        "drtp_pop_session_loss_ratio": (
            "Pings late or lost, 0 to 1.",
            [session.loss for session in measured],
        ),
    }
    for name, (text, values) in families.items():
        family = GaugeMetricFamily(name, text, labels=["quantile"])
        for quantile in _QUANTILES if values else ():
            family.add_metric([str(quantile)], _quantile(sorted(values), quantile))
        yield family


def _peers(paths: Mapping[str, Path]) -> Iterator[Metric]:
    """Other POPs are few, so they may be labels."""
    round_trip = GaugeMetricFamily("drtp_pop_peer_round_trip_seconds", "Handshakes with it, median.", labels=["pop"])
    jitter = GaugeMetricFamily("drtp_pop_peer_jitter_seconds", "Mean deviation of them.", labels=["pop"])
    loss = GaugeMetricFamily("drtp_pop_peer_loss_ratio", "Handshakes lost or begun again, 0 to 1.", labels=["pop"])
    for name, path in paths.items():
        round_trip.add_metric([name], path.round_trip_ms / 1000)
        jitter.add_metric([name], path.jitter_ms / 1000)
        loss.add_metric([name], path.loss)
    yield from (round_trip, jitter, loss)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
