"""Where everything lies in the data directory of `drtp up`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drtp.kit.sockets import operator_socket, socket_path


@dataclass(frozen=True)
class Layout:
    """Paths below one data directory. Directories are 0700, files with keys or tokens 0600."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held by the running supervisor."""
        return self.root / "up.lock"

    @property
    def socket(self) -> Path:
        """Where the running supervisor answers its operator; mode 0600."""
        return socket_path(self.root, "up.sock", "up")

    @property
    def ports(self) -> Path:
        """Ports chosen at the first start; the next start has the same."""
        return self.root / "ports.json"

    @property
    def controlplane(self) -> Path:
        """The control plane's own directory: store, authority, operator socket."""
        return self.root / "controlplane"

    @property
    def operator_socket(self) -> Path:
        """Where the control plane answers the operator; mode 0600."""
        return operator_socket(self.controlplane)

    def pop(self, name: str) -> Path:
        """One POP's own directory: identity, snapshot, port assignments."""
        return self.pops / name

    @property
    def pops(self) -> Path:
        """Every POP's directory is in here."""
        return self.root / "pops"

    @property
    def gateway(self) -> Path:
        """The gateway's own directory: identity, snapshot, Envoy's sockets."""
        return self.root / "gateway"

    @property
    def agents(self) -> Path:
        """States of agents that run with this directory's context, the hello service's among them."""
        return self.root / "agents"

    @property
    def run(self) -> Path:
        """One file for each child: process id and start time."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """One file for each child."""
        return self.root / "logs"

    @property
    def kubeconfig(self) -> Path:
        """For kubectl, as administrator."""
        return self.root / "kubeconfig"

    @property
    def context(self) -> Path:
        """For datumctl."""
        return self.root / "context.json"

    @property
    def ca(self) -> Path:
        """What to trust: the roots of this control plane, PEM."""
        return self.root / "ca.pem"


def operator_socket_of(data_dir: Path) -> Path:
    """Of the control plane below `drtp up`, which has a directory of its own, or of one by itself."""
    layout = Layout(data_dir.absolute())
    below = layout.operator_socket
    return below if below.exists() else operator_socket(layout.root)
