"""A person with a browser, and a site that says what it was told."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from scenario.bed import Bed, require
from webforms import Page

HTML = ("-H", "Accept: text/html")


class _Mirror(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is overridden
        """Quiet."""


def mirror() -> tuple[ThreadingHTTPServer, int]:
    """A local site whose answers are the headers of their requests, and its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, server.server_port


@dataclass
class Person:
    """A browser: curl with a jar of cookies, one step at a time."""

    ca: Path
    jar: Path

    @classmethod
    def of(cls, bed: Bed, folder: Path, name: str) -> Person:
        """One who trusts the control plane and the gateways."""
        context = json.loads(Path(bed.ready["context"]).read_text())
        ca = folder / "visitors-ca.pem"
        ca.write_text(context["ca"] + Path(bed.ready["ca"]).read_text())
        jar = folder / f"{name}.jar"
        jar.touch()
        return cls(ca, jar)

    def get(self, url: str, *options: str) -> Page:
        written = self.jar.with_suffix(".head")
        argv = ("--silent", "--show-error", "--max-time", "20", "--cacert", self.ca, "-b", self.jar, "-c", self.jar)
        done = subprocess.run(
            [require("curl"), *argv, "-D", written, *options, url], capture_output=True, check=False, timeout=30
        )
        assert done.returncode == 0, done.stderr.decode()
        lines = written.read_text().splitlines()
        headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in lines[1:])}
        return Page(url, int(lines[0].split()[1]), headers, done.stdout.decode())

    def submit(self, page: Page, **values: str) -> Page:
        action, fields = page.form()
        parts = urlsplit(page.url)
        return self.get(
            action, "-H", f"Origin: {parts.scheme}://{parts.netloc}", "--data", urlencode({**fields, **values})
        )

    def follow(self, page: Page) -> Page:
        """Wherever redirects lead."""
        for _ in range(10):
            to = page.headers.get("location") or page.refresh()
            if not to:
                return page
            page = self.get(urljoin(page.url, to), *HTML)
        raise AssertionError(f"still at {page.url}")
