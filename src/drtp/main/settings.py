"""What an operator decides about a control plane, parsed once."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom

import msgspec

from drtp.api.snapshots import EndpointMode
from drtp.kit.errors import Terminal
from drtp.kit.files import write_atomic
from drtp.kit.sockets import operator_socket

SETTLED_FILE = "settled.json"
_ANY = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not bound


@dataclass(frozen=True, slots=True)
class ControlPlaneSettings:
    """One control plane.

    What is left empty or 0 keeps the earlier choice, or takes the default at the first start (`settle`).

    `directory`: its own data directory (0700): store, authority, operator socket.
    `suffix`: of vended hostnames and of tunnel names.
    `host`: the address both doors listen on; `names`: host names and addresses in their certificate, the first of which
    is what edges and people are told to dial.
    `http_port` and `https_port` are the public listeners of the operator's Gateway, bound by gateways, not here.
    `metrics_port`: `/metrics` on loopback; None for none.
    `ready_fd`: where the ready line goes; None is standard output.
    """

    directory: Path
    suffix: str = ""
    trust_domain: str = ""
    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    api_port: int = 0
    edge_port: int = 0
    http_port: int = 0
    https_port: int = 0
    endpoint_mode: EndpointMode | None = None
    plain_from: tuple[str, ...] = ()
    metrics_port: int | None = None
    ready_fd: int | None = None
    issuers: Path | None = None
    """The file of trusted issuers; None: `issuers.yaml` in the directory, if it is there."""
    sign_in_url: str = ""
    """Where browsers find the pages to sign in on: `https://NAME[:PORT]`; "": at `api_url`."""
    sign_in_certificate: Path | None = None
    sign_in_key: Path | None = None
    """Chain and key, PEM, that whoever asks the doors for the name in `sign_in_url` is shown."""

    @property
    def operator_socket(self) -> Path:
        """Where the operator's tools ask; 0600."""
        return operator_socket(self.directory)

    @property
    def api_url(self) -> str:
        """Where people and kubectl connect."""
        return f"https://{_bracketed(self.names[0])}:{self.api_port}"

    @property
    def edge_url(self) -> str:
        """Where edges connect."""
        return f"https://{_bracketed(self.names[0])}:{self.edge_port}"


class _Settled(msgspec.Struct, frozen=True):
    """What is kept from one start to the next."""

    suffix: str = "prism.localhost"
    trust_domain: str = "drtp.local"
    names: tuple[str, ...] = ()
    api: int = 0
    edge: int = 0
    http: int = 0
    https: int = 0
    endpoint_mode: EndpointMode = EndpointMode.MTLS


def settle(settings: ControlPlaneSettings) -> ControlPlaneSettings:
    """Settings with every choice made, and written down before it is used, so that a restart has the same.

    Raises: Terminal (DRTP-7007) if no port is free, (DRTP-7030) for another trust domain than that of the authority.
    """
    path = settings.directory / SETTLED_FILE
    earlier = msgspec.json.decode(path.read_bytes(), type=_Settled) if path.exists() else _Settled()
    if path.exists() and settings.trust_domain not in ("", earlier.trust_domain):
        raise Terminal("DRTP-7030", f"The trust domain here is {earlier.trust_domain}.")
    free = _free_ports(settings.host)
    chosen = _Settled(
        suffix=settings.suffix or earlier.suffix,
        trust_domain=settings.trust_domain or earlier.trust_domain,
        names=_names(settings, earlier),
        api=settings.api_port or earlier.api or free.pop(),
        edge=settings.edge_port or earlier.edge or free.pop(),
        http=settings.http_port or earlier.http or free.pop(),
        https=settings.https_port or earlier.https or free.pop(),
        endpoint_mode=settings.endpoint_mode or earlier.endpoint_mode,
    )
    if chosen != earlier:
        write_atomic(path, msgspec.json.encode(chosen))
    return replace(
        settings,
        suffix=chosen.suffix,
        trust_domain=chosen.trust_domain,
        names=chosen.names,
        api_port=chosen.api,
        edge_port=chosen.edge,
        http_port=chosen.http,
        https_port=chosen.https,
        endpoint_mode=chosen.endpoint_mode,
    )


def _names(settings: ControlPlaneSettings, earlier: _Settled) -> tuple[str, ...]:
    """Advertised names first; this machine's own names always, for the operator beside it."""
    advertised = settings.names or earlier.names or (() if settings.host in _ANY else (settings.host,))
    return tuple(dict.fromkeys((*advertised, "localhost", "127.0.0.1", "::1")))


def _free_ports(host: str) -> list[int]:
    """Four ports nobody listens on now, all different.

    Below the vended pool (10000-32767) and the kernel's ephemeral range, from which an outgoing connection could take a
    port between two starts. In random order, so that instances started together do not want the same ones.
    """
    found: list[int] = []
    for port in SystemRandom().sample(range(2000, 10000), 8000):
        if _is_free(host, port):
            found.append(port)
        if len(found) == 4:
            return found
    raise Terminal("DRTP-7007", f"No port between 2000 and 9999 is free on {host}.")


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
