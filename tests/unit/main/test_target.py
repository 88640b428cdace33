"""What `serve` understands as a target."""

from __future__ import annotations

import pytest

from drtp.api.drtp import AppProtocol, Protocol
from drtp.kit.errors import Invalid
from drtp.main.datum.target import parse_target


@pytest.mark.parametrize(
    ("written", "canonical", "protocol"),
    [
        ("8080", "http://localhost:8080", Protocol.HTTP),
        ("localhost:8080", "http://localhost:8080", Protocol.HTTP),
        ("http://intranet", "http://intranet:80", Protocol.HTTP),
        ("http://intranet/", "http://intranet:80", Protocol.HTTP),
        ("HTTP://Intranet:81", "http://intranet:81", Protocol.HTTP),
        ("https://intranet", "https://intranet:443", Protocol.HTTPS),
        ("h2c://localhost:50051", "h2c://localhost:50051", Protocol.HTTP),
        ("tcp://sqlserver.corp.com:5432", "tcp://sqlserver.corp.com:5432", Protocol.TCP),
        ("tls://vault:8200", "tls://vault:8200", Protocol.TLS),
        ("tcp://[::1]:22", "tcp://[::1]:22", Protocol.TCP),
        ("tcp://10.0.0.1:22", "tcp://10.0.0.1:22", Protocol.TCP),
    ],
)
def test_target_is_understood(written: str, canonical: str, protocol: Protocol) -> None:
    target = parse_target(written)
    assert target.written == canonical
    assert target.protocol is protocol
    assert (target.local.tls is not None) == (protocol is Protocol.HTTPS)


def test_canonical_form_means_the_same_target() -> None:
    assert parse_target("h2c://localhost:50051").local.app_protocol is AppProtocol.H2C
    assert parse_target(parse_target("8080").written) == parse_target("8080")


@pytest.mark.parametrize(
    "written",
    [
        "",
        "tcp://localhost",
        "0",
        "localhost:70000",
        "ftp://host:21",
        "http://user:secret@host",
        "http://host/path",
        "http://host:80?x=1",
        "tcp://:22",
        "http://ho st:80",
        "http://[::1:80",
        "10.0.0.300:80",
        "tcp://10.0.0:22",
    ],
)
def test_what_cannot_be_served_is_refused_with_its_fault(written: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_target(written)
    assert refused.value.code == "DRTP-7004"
    assert "secret" not in refused.value.what.replace(written, "")


def test_udp_needs_its_port_named() -> None:
    target = parse_target("udp://localhost:53")
    assert (target.protocol, target.local.port, target.written) == (Protocol.UDP, 53, "udp://localhost:53")
    with pytest.raises(Invalid) as refused:
        parse_target("udp://localhost")
    assert refused.value.code == "DRTP-7004"
