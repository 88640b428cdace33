"""A Store that forgets everything with its process: for tests, and for trying things out."""

from __future__ import annotations

from drtp.kit.clock import Clock
from drtp.store.engine import Batch, Engine, Settle
from drtp.store.eventlog import LOG_BYTES_MAX


class _Nowhere:
    """A journal that keeps nothing: a batch is as durable at once as it will ever be."""

    def submit(self, batch: Batch, settle: Settle) -> None:
        """Settle at once."""
        settle((batch,), None)


class MemoryStore(Engine):
    """The whole contract of a Store, but durability."""

    def __init__(self, clock: Clock | None = None, log_bytes_max: int = LOG_BYTES_MAX) -> None:
        super().__init__(_Nowhere(), clock=clock, log_bytes_max=log_bytes_max)
