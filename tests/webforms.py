"""A browser by plain HTTP for sign-in tests, and a control plane with an account that has a password."""

from __future__ import annotations

import html
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import aiohttp

PASSWORD = "correct horse battery staple"


@dataclass
class Page:
    """What a browser sees."""

    url: str
    status: int
    headers: Any
    text: str

    def refresh(self) -> str:
        """Where the page sends its reader by itself; "" for nowhere."""
        found = re.search(r'<meta http-equiv="refresh" content="0;url=([^"]*)"', self.text)
        return html.unescape(found[1]) if found else ""

    def form(self) -> tuple[str, dict[str, str]]:
        """Action and fields of the page's form."""
        action = re.search(r'<form[^>]*action="([^"]*)"', self.text)
        assert action is not None, self.text
        inputs = re.findall(r"<input([^>]*)>", self.text)
        fields: dict[str, str] = {}
        for one in inputs:
            name, value = re.search(r'name="([^"]*)"', one), re.search(r'value="([^"]*)"', one)
            if name:
                fields[html.unescape(name[1])] = html.unescape(value[1]) if value else ""
        return urljoin(self.url, html.unescape(action[1])), fields


class Browser:
    """Keeps cookies of one host, sends Origin with forms, follows nothing by itself."""

    def __init__(self, session: aiohttp.ClientSession, tls: ssl.SSLContext | None) -> None:
        self.session = session
        self.tls = tls
        self.cookies: dict[str, str] = {}

    async def get(self, url: str) -> Page:
        return await self._send("GET", url)

    async def submit(self, page: Page, *, origin: str | None = None, **values: str) -> Page:
        action, fields = page.form()
        parts = urlsplit(page.url)
        headers = {"Origin": f"{parts.scheme}://{parts.netloc}" if origin is None else origin}
        return await self._send("POST", action, data={**fields, "do": "grant", **values}, headers=headers)

    async def _send(self, method: str, url: str, **more: Any) -> Page:
        headers = more.pop("headers", {})
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        tls = self.tls if url.startswith("https") and self.tls is not None else True
        async with self.session.request(
            method, url, headers=headers, allow_redirects=False, ssl=tls, **more
        ) as response:
            for name, morsel in response.cookies.items():
                self.cookies[name] = morsel.value
            return Page(url, response.status, response.headers, await response.text())


@asynccontextmanager
async def browser(ca_pem: bytes = b"") -> AsyncGenerator[Browser]:
    tls = ssl.create_default_context(cadata=ca_pem.decode()) if ca_pem else None
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Browser(session, tls)


def authorize_url(issuer: str, challenge: str, **more: str) -> str:
    query = {
        "response_type": "code",
        "client_id": f"datumctl@{issuer.removesuffix('/oidc')}",
        "redirect_uri": "http://127.0.0.1:1234/callback",
        "scope": "openid offline_access",
        "state": "the-state",
        "nonce": "the-nonce",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        **more,
    }
    return f"{issuer}/authorize?{urlencode(query)}"


def answer_of(page: Page) -> dict[str, str]:
    """The query of where a page leads."""
    to = page.refresh() or page.headers["Location"]
    return {name: values[0] for name, values in parse_qs(urlsplit(to).query).items()}


async def walk(person: Browser, url: str, name: str, password: str) -> Page:
    """Open a page, fill in whatever form comes, go wherever it leads, until there is neither form nor redirect."""
    page = await person.get(url)
    for _ in range(20):
        if "Location" in page.headers:
            page = await person.get(urljoin(page.url, page.headers["Location"]))
        elif "<form" in page.text:
            fields = page.form()[1]
            known = {"login": name, "name": name, "password": password}
            page = await person.submit(page, **{field: known[field] for field in fields if field in known})
        else:
            return page
    raise AssertionError(f"still at {page.url}")
