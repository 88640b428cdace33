"""Logs and metrics: one event per decision, past tense, fields not prose. Edges of the program log; rules never do."""

from __future__ import annotations

import logging
import sys
from enum import Enum
from typing import Any, TextIO, cast

from prometheus_client import CollectorRegistry

from drtp.kit.absent import absent
from drtp.kit.logfile import LINES_LOST

# Its console renderer, which is not used here, would load rich: 5 MB and 15 ms in every process.
with absent("rich"):
    import structlog

REGISTRY = CollectorRegistry()
"""Every metric of this process. Tenants are log fields, never labels: their number has no bound."""
REGISTRY.register(LINES_LOST)

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127, *range(128, 160))}


class LogFormat(Enum):
    """How log lines look."""

    LOGFMT = "logfmt"
    JSON = "json"


def printable(text: str) -> str:
    """`text` with control characters escaped, so that a stranger's name cannot move the cursor or forge a line."""
    return text.translate(_CONTROL)


def _escape(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = printable(value)
    return event


def configure_logs(form: LogFormat = LogFormat.LOGFMT, stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Set up structlog for this process. Lines go to `stream` (stderr)."""
    render: Any = (
        structlog.processors.JSONRenderer()
        if form is LogFormat.JSON
        else structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event"), bool_as_flag=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _escape,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """The logger of one part; `name` becomes the field `part`."""
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(part=name))
