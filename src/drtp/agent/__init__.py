"""The hosts on private sides: an agent's (`datumctl serve` is a face over `AgentHost`) and a connector's.

An agent keeps tunnels to its POPs for visitors to come through, a connector for its own machine's programs to go out
by: `datumctl connect`, over `ConnectorHost` in `connector.py`. That is imported by itself: neither costs the other's
start.
"""

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
