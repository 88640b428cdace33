"""A name of the operator's own for browsers: its certificate, what leads there, and what is no such name."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from pathlib import Path

import aiohttp
import aiohttp.abc
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from drtp.api.internal import SignInRecord
from drtp.api.meta import Key
from drtp.client.api import ApiClient
from drtp.issuers import passwords, serving
from drtp.issuers.serving import BrowserTls
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Terminal
from drtp.kit.secret import Secret
from drtp.main.controlplane import running_controlplane
from drtp.main.datum.passwords import set_password
from drtp.main.settings import ControlPlaneSettings
from drtp.main.signin import browser_tls
from unit.gateway.gatewaykit import free_port
from unit.main.controlplane_bed import context_of, settings
from unit.main.test_visiting import MARK, serve
from webforms import PASSWORD, Browser

LOGIN = "https://login.test"


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A chain and a key for a name, as somebody else's authority would make them."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    leaf = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, pem = folder / "login.pem", folder / "login.key"
    chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    pem.touch(mode=0o600)
    form = serialization.PrivateFormat.PKCS8
    pem.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return chain, pem


async def shown(port: int, name: str) -> tuple[str, ...]:
    """The names in the certificate that whoever asks for `name` gets."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    found: ssl.SSLObject = writer.get_extra_info("ssl_object")
    leaf = x509.load_der_x509_certificate(found.getpeercert(binary_form=True) or b"")
    writer.close()
    return tuple(
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    )


async def test_browsers_are_led_to_a_name_of_its_own_certificate_and_others_to_the_old_one(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "login.test")
    asked = settings(tmp_path, sign_in_url=LOGIN, sign_in_certificate=chain, sign_in_key=key)
    async with running_controlplane(asked, SystemClock()) as tower:
        port = tower.settings.api_port
        assert await shown(port, "login.test") == await shown(port, "LOGIN.test") == ("login.test",)
        assert "localhost" in await shown(port, "localhost")
        admin = await context_of(tower.settings, "system:masters")
        assert admin.api == tower.settings.api_url, "what people and programs dial is what it was"
        assert tower.local.issuer == f"{tower.settings.api_url}/oidc"
        assert (tower.local.pages, tower.local.visits_uri) == (f"{LOGIN}/oidc", f"{LOGIN}/oidc/visit/callback")
        async with asyncio.timeout(10):
            while not (held := (await tower.store.list("SignIn.internal.datumapis.com")).items):
                await asyncio.sleep(0.02)
        assert msgspec.json.decode(held[0].raw, type=SignInRecord).spec.url == f"{LOGIN}/oidc/visit"
        assert held[0].key == Key("SignIn.internal.datumapis.com", "", "visitors")


class Here(aiohttp.abc.AbstractResolver):
    """Every name is this machine's."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        found = aiohttp.abc.ResolveResult(
            hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=socket.AI_NUMERICHOST
        )
        return [found]

    async def close(self) -> None:
        """Nothing is held."""


async def test_a_visitor_signs_in_there_and_nowhere_else_is_gone_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "MEMORY_KIB", 64)
    chain, key = certificate(tmp_path, "login.test")
    port = free_port()
    address = f"{LOGIN}:{port}"
    asked = settings(tmp_path, api_port=port, sign_in_url=address, sign_in_certificate=chain, sign_in_key=key)
    async with running_controlplane(asked, SystemClock()) as tower:
        async with ApiClient(await context_of(tower.settings, "system:masters")) as api:
            await set_password(api, "joe", Secret(PASSWORD))
            await serve(tower, api)
        tls = ssl.create_default_context(cafile=str(chain))
        jar, connector = aiohttp.DummyCookieJar(), aiohttp.TCPConnector(resolver=Here())
        async with aiohttp.ClientSession(cookie_jar=jar, connector=connector) as session:
            person = Browser(session, tls)
            site = f"https://site.{tower.settings.suffix}:7443/"
            page = await person.get(f"{address}/oidc/visit?browser={MARK}&to={site}")
            assert page.headers["Location"].startswith(f"{address}/oidc/authorize?")
            answer = await person.submit(await person.get(page.headers["Location"]), name="joe", password=PASSWORD)
            assert answer.headers["Location"].startswith(f"{address}/oidc/visit/callback?")
            back = await person.get(answer.headers["Location"])
            assert back.refresh().startswith(f"{site}.drtp/signed-in?token=")


def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "login.test")
    held = BrowserTls("login.test", chain, key)
    first = held.context
    held.refresh()
    assert held.context is first
    good = chain.read_bytes()
    chain.write_text("half a certificate")
    held.refresh()
    assert held.context is first
    chain.write_bytes(good)
    certificate(tmp_path, "login.test")
    held.refresh()
    assert held.context is not first


@pytest.mark.parametrize(
    "url", ["http://login.test", "login.test", "https://login.test/", "https://u@login.test", "https://x:y", "https://"]
)
def test_what_is_no_address_for_browsers_is_refused_at_the_start(tmp_path: Path, url: str) -> None:
    with pytest.raises(Terminal, match="DRTP-7093"):
        browser_tls(ControlPlaneSettings(tmp_path, sign_in_url=url))


def test_a_certificate_needs_its_key_its_name_and_to_be_private(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "login.test")
    for wrong in (
        ControlPlaneSettings(tmp_path, sign_in_url=LOGIN, sign_in_certificate=chain),
        ControlPlaneSettings(tmp_path, sign_in_url=LOGIN, sign_in_key=key),
        ControlPlaneSettings(tmp_path, sign_in_certificate=chain, sign_in_key=key),
        ControlPlaneSettings(tmp_path, sign_in_url="https://other.test", sign_in_certificate=chain, sign_in_key=key),
        ControlPlaneSettings(tmp_path, sign_in_url=LOGIN, sign_in_certificate=key, sign_in_key=chain),
    ):
        with pytest.raises(Terminal, match="DRTP-"):
            browser_tls(wrong)
    assert browser_tls(ControlPlaneSettings(tmp_path, sign_in_url=LOGIN)) is None, "something before it has one"
    key.chmod(0o644)
    with pytest.raises(Terminal):
        BrowserTls("login.test", chain, key)
    assert serving.RECHECK_S <= 60
