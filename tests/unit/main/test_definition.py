"""The service definition behind a `serve`."""

from __future__ import annotations

from typing import Any

import pytest

from drtp.api.drtp import ProxyProtocol
from drtp.kit.errors import Invalid
from drtp.main.datum.definition import change, new_service
from drtp.main.datum.serve_request import ServeRequest, check, networks
from drtp.main.datum.target import parse_target


def request(target: str = "8080", **said: Any) -> ServeRequest:
    return ServeRequest(name="web", namespace=None, target=parse_target(target), **said)


def test_plain_serve_is_exposed_to_anyone() -> None:
    spec = new_service(request())["spec"]
    assert spec == {"protocol": "HTTP", "local": {"host": "localhost", "port": 8080}, "expose": {}}


def test_every_option_reaches_the_definition() -> None:
    made = new_service(
        request(
            "tcp://db:5432",
            port=15432,
            address="192.0.2.1",
            allow=("203.0.113.0/24",),
            proxy_protocol=ProxyProtocol.V2,
            wait_for_enable=True,
        )
    )
    assert made["spec"] == {
        "protocol": "TCP",
        "local": {"host": "db", "port": 5432},
        "enabled": False,
        "edgeAllowlist": ["203.0.113.0/24"],
        "proxyProtocol": "V2",
        "expose": {"port": 15432, "address": "192.0.2.1"},
    }


def test_no_expose_leaves_no_public_listener() -> None:
    assert "expose" not in new_service(request(expose=False))["spec"]


def test_same_command_again_changes_nothing() -> None:
    for asked in (request(), request("https://intranet", hostname="a.example", allow=("10.0.0.0/8",))):
        assert change(asked, new_service(asked)) == {}


def test_what_is_not_said_stays() -> None:
    present = new_service(request())
    present["spec"] |= {"edgeAllowlist": ["10.0.0.0/8"], "enabled": False, "proxyProtocol": "V1"}
    assert change(request(), present) == {}


def test_what_is_said_is_changed_alone() -> None:
    present = new_service(request(hostname="a.example"))
    patch = change(request(hostname="b.example", allow=("10.0.0.0/8",)), present)
    assert patch == {"spec": {"edgeAllowlist": ["10.0.0.0/8"], "expose": {"hostname": "b.example"}}}


def test_former_tls_does_not_survive_another_target() -> None:
    present = new_service(request())
    present["spec"]["local"] = {"host": "localhost", "port": 8080, "tls": {}}
    assert change(request(), present)["spec"]["local"] == {"tls": None, "host": "localhost", "port": 8080}


def test_no_expose_takes_an_exposed_service_back() -> None:
    assert change(request(expose=False), new_service(request())) == {"spec": {"expose": None}}


def test_another_protocol_is_refused() -> None:
    with pytest.raises(Invalid) as refused:
        change(request("tcp://localhost:8080"), new_service(request()))
    assert refused.value.code == "DRTP-7015"


@pytest.mark.parametrize(
    "said",
    [
        {"expose": False, "port": 80},
        {"target": "tcp://localhost:1", "hostname": "a.example"},
        {"target": "tcp://localhost:1", "host_header": "a"},
        {"target": "localhost:1", "port": 12345},
        {"target": "tls://localhost:1", "address": "192.0.2.1"},
    ],
)
def test_options_that_cannot_mean_anything_together_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        check(request(**said))


def test_networks_are_canonical_and_named_when_wrong() -> None:
    assert networks(("10.0.0.1", "10.0.0.0/8,::1")) == ("10.0.0.1/32", "10.0.0.0/8", "::1/128")
    with pytest.raises(Invalid, match=r"10\.0\.0\.0/33"):
        networks(("10.0.0.0/33",))


def test_a_network_with_host_bits_is_asked_about_and_not_widened() -> None:
    with pytest.raises(Invalid) as caught:
        networks(("10.0.0.7/8",))
    assert "10.0.0.0/8" in caught.value.remedy
    assert "10.0.0.7 for the one machine" in caught.value.remedy
