"""The agent host: keeps tunnels to its POPs, and tells what it sees. `datumctl serve` is a face over `AgentHost`."""

from drtp.agent.host import AgentHost
from drtp.agent.settings import AgentSettings
from drtp.agent.view import (
    AgentPhase,
    AgentView,
    CertificateView,
    Failure,
    FeedView,
    Flow,
    LocalView,
    PathView,
    PopView,
    Rates,
    ServiceView,
)

__all__ = [
    "AgentHost",
    "AgentPhase",
    "AgentSettings",
    "AgentView",
    "CertificateView",
    "Failure",
    "FeedView",
    "Flow",
    "LocalView",
    "PathView",
    "PopView",
    "Rates",
    "ServiceView",
]
