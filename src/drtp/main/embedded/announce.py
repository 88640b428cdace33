"""What `drtp up` says when everything is ready: one JSON line for scripts, or what to type next for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drtp.main.embedded.layout import Layout


@dataclass(frozen=True)
class PopLine:
    """One POP; `address` is where agents dial."""

    name: str
    pid: int
    address: str


@dataclass(frozen=True)
class Announcement:
    """A ready instance. Addresses are `host:port`, `api` and `hello` are URLs."""

    layout: Layout
    api: str
    hello: str
    address: str
    http: str
    https: str
    gateway_pid: int
    envoy_pid: int
    controlplane_pid: int
    pops: tuple[PopLine, ...]
    seconds: float

    def event(self) -> dict[str, Any]:
        """The line that scripts rely on; members are added, never renamed."""
        return {
            "event": "ready",
            "api": self.api,
            "kubeconfig": str(self.layout.kubeconfig),
            "ca": str(self.layout.ca),
            "context": str(self.layout.context),
            "gateway": {
                "http": self.http,
                "https": self.https,
                "address": self.address,
                "pid": self.gateway_pid,
                "envoyPid": self.envoy_pid,
            },
            "pops": [{"name": pop.name, "pid": pop.pid, "address": pop.address} for pop in self.pops],
            "controlplane": {"pid": self.controlplane_pid},
            "hello": self.hello,
            "seconds": round(self.seconds, 3),
        }

    def words(self) -> str:
        """For people, on stderr; the address itself goes to stdout."""
        layout = self.layout
        secure = self.hello.replace("http://", "https://").replace(
            self.http.rpartition(":")[2], self.https.rpartition(":")[2]
        )
        return f"""\
Ready in {self.seconds:.1f} s: control plane, {len(self.pops)} POPs, gateway, hello service.

Look at it, through the tunnel:
  curl {self.hello}

Serve your own, with something on port 8080:
  datumctl --context {layout.context} serve localhost:8080

See what is there:
  kubectl --kubeconfig {layout.kubeconfig} get drtpservers,drtpservices -A
  datumctl --context {layout.context} servers

HTTPS works beside HTTP; this instance's CA is {layout.ca}:
  curl --cacert {layout.ca} {secure}
  To trust it in a browser, import that file as an authority, for web sites only.

Logs: {layout.logs}. Stop: Ctrl-C.
"""
