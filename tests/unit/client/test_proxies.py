"""Which proxy leads where: the variables as curl and Go read them, and one's own before them."""

from __future__ import annotations

import pytest

from drtp.client.network import default_gateway, present_network
from drtp.client.proxies import Proxies, ProxyKind, has_credentials, parse_proxy, proxies
from drtp.kit.errors import Invalid

POP = "pop.example.com"


def to(host: str, port: int = 443, **environment: str) -> str:
    return str(proxies(environment).to(host, port))


def test_without_variables_the_way_is_straight():
    assert proxies({}) == Proxies()
    assert to(POP) == "None"


def test_lower_case_goes_before_upper_case_and_https_before_all():
    assert to(POP, ALL_PROXY="socks5://a", all_proxy="socks5://b") == "socks5://b:1080"
    assert to(POP, HTTPS_PROXY="http://c", all_proxy="socks5://b") == "http://c:80"
    assert to(POP, HTTPS_PROXY="http://c", https_proxy="d:3128") == "http://d:3128"
    assert to(POP, HTTP_PROXY="http://c") == "None"
    assert to(POP, https_proxy="", ALL_PROXY="socks5h://b:9") == "socks5://b:9"


def test_ones_own_variable_goes_before_all_and_knows_no_exemption():
    assert to("127.0.0.1", DRTP_PROXY="socks5://own", HTTPS_PROXY="http://c", NO_PROXY="*") == "socks5://own:1080"
    assert to(POP, DRTP_PROXY="direct", HTTPS_PROXY="http://c") == "None"
    assert proxies({"DRTP_PROXY": "own"}).chosen
    assert not proxies({"HTTPS_PROXY": "own"}).chosen


@pytest.mark.parametrize(
    ("exempt", "host", "port", "is_exempt"),
    [
        ("example.com", POP, 443, True),
        (".example.com", POP, 443, True),
        ("*.example.com", POP, 443, True),
        ("example.com", "notexample.com", 443, False),
        ("EXAMPLE.com", "Pop.Example.COM.", 443, True),
        ("other.com, example.com:8443", POP, 8443, True),
        ("example.com:8443", POP, 443, False),
        ("*", "192.0.2.1", 443, True),
        ("192.0.2.0/24", "192.0.2.9", 443, True),
        ("192.0.2.0/24", "192.0.3.9", 443, False),
        ("192.0.2.9:443", "192.0.2.9", 443, True),
        ("2001:db8::/32", "2001:db8::9", 443, True),
        ("[2001:db8::9]:443", "2001:db8::9", 443, True),
        ("2", "192.0.2.2", 443, False),
        (".", POP, 443, False),
        ("", POP, 443, False),
    ],
)
def test_no_proxy_exempts_by_name_domain_network_and_port(exempt: str, host: str, port: int, is_exempt: bool):
    found = to(host, port, HTTPS_PROXY="http://c", no_proxy=exempt)
    assert (found == "None") is is_exempt


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_is_never_behind_a_proxy_of_a_variable(host: str):
    assert to(host, HTTPS_PROXY="http://c") == "None"
    assert to(host, DRTP_PROXY="http://c") == "http://c:80"


def test_credentials_are_read_whole_and_never_shown():
    proxy = parse_proxy("http://sam%40corp:p%3Aw%2Fd@proxy:3128", "HTTPS_PROXY")
    assert (proxy.user, proxy.password and proxy.password.reveal()) == ("sam@corp", "p:w/d")
    assert str(proxy) == "http://****@proxy:3128"
    assert "sam" not in repr(proxy) and "p:w/d" not in f"{proxy!r} {proxies({'HTTPS_PROXY': 'http://a:s3cret@b'})}"
    assert has_credentials("http://a:b@c") and not has_credentials("socks5://c:1")


@pytest.mark.parametrize(
    "wrong", ["https://u:s3cret@proxy", "socks4://proxy", "http://", "http://h:99999", "http://h:0", "http://[::1"]
)
def test_what_is_no_proxy_is_refused_without_repeating_it(wrong: str):
    with pytest.raises(Invalid) as refusal:
        proxies({"HTTPS_PROXY": wrong})
    assert refusal.value.code == "DRTP-3013"
    assert "HTTPS_PROXY" in str(refusal.value) and "s3cret" not in str(refusal.value)


def test_kinds():
    assert parse_proxy("h", "x").kind is ProxyKind.CONNECT
    assert parse_proxy("SOCKS5H://[2001:db8::1]:9", "x").kind is ProxyKind.SOCKS5


ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
"""


def test_the_default_gateway_with_the_least_metric_names_the_network():
    assert default_gateway(ROUTES) == "10.0.0.1"
    assert default_gateway(ROUTES.splitlines()[0]) is None
    assert present_network() == present_network() != ""
