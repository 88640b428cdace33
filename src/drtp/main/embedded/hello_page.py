"""The page behind the hello service: which way a visitor came. Standard library only, so that it starts at once."""

from __future__ import annotations

import argparse
import html
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any

from drtp.main.lifeline import hold_lifeline

_REQUEST_TIMEOUT_S = 15.0
"""A silent connection is closed; the agent opens a new one for the next visitor."""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hello through the tunnel</title>
<style>
:root {{ color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent) }}
body {{ font: 17px/1.55 system-ui, sans-serif; max-width: 42rem; margin: 9vh auto; padding: 0 1.25rem }}
h1 {{ font-size: 1.9rem; font-weight: 600; letter-spacing: -.02em; margin: 0 0 .4rem }}
p {{ margin: .6rem 0 }}
ol {{ list-style: none; margin: 2rem 0; padding: 0; border-left: 2px solid var(--line) }}
li {{ padding: .45rem 0 .45rem 1.25rem; position: relative }}
li::before {{ content: ""; position: absolute; left: -6px; top: 1.05rem; width: 10px; height: 10px; border-radius: 50%;
  background: #2f9e6e }}
b {{ font-weight: 600 }}
code, pre {{ font: 14px/1.5 ui-monospace, monospace }}
pre {{ border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto }}
small {{ opacity: .7 }}
</style></head><body>
<h1>Hello through the tunnel</h1>
<p>This page is served by a small process that listens on loopback only. Nobody dialled in: its agent dialled out.</p>
<ol>
<li><b>You</b>, seen as <code>{visitor}</code></li>
<li><b>Gateway</b>: Envoy took <code>{host}</code> and checked who may pass</li>
<li><b>POP</b>: one of two tunnel servers in different places checked again</li>
<li><b>Agent</b>: <code>datumctl serve</code>, over its own outbound TLS connection</li>
<li><b>This page</b>, which saw trace <code>{trace}</code></li>
</ol>
<p>Now your own. With something on port 8080:</p>
<pre>datumctl --context {context} serve localhost:8080</pre>
<p><small>Stop either POP, or the control plane: this page stays.</small></p>
</body></html>
"""

_TEXT = """Hello through the tunnel

  you      {visitor}
  gateway  {host}
  trace    {trace}

Now your own:  datumctl --context {context} serve localhost:8080
"""


class HelloHandler(BaseHTTPRequestHandler):
    """Answers any GET with the page, as text for those who ask for text."""

    protocol_version = "HTTP/1.1"
    server_version = "drtp-hello"
    sys_version = ""
    timeout = _REQUEST_TIMEOUT_S
    context = ""

    def do_GET(self) -> None:
        """The page, or its text."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Headers alone."""
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's signature
        """The gateway keeps the access log."""

    def _answer(self, *, with_body: bool) -> None:
        accept = self.headers.get("Accept", "")
        wants_html = "text/plain" not in accept or "text/html" in accept
        seen = {
            "visitor": self.headers.get("X-Forwarded-For", self.client_address[0])[:200],
            "host": self.headers.get("Host", "")[:200],
            "trace": self.headers.get("traceparent", "-")[:100],
            "context": self.context,
        }
        if wants_html:
            body = _PAGE.format_map({name: html.escape(value) for name, value in seen.items()}).encode()
        else:
            body = _TEXT.format_map(seen).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8" if wants_html else "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Visitors and probes that hang up are no news; anything else is."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def serve(port: int, context: str) -> _Server:
    """Bind on loopback; the caller runs `serve_forever`."""
    handler = type("ContextHelloHandler", (HelloHandler,), {"context": context})
    return _Server(("127.0.0.1", port), handler)


def main() -> int:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description="the page behind the hello service")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context", default="CONTEXT")
    options = parser.parse_args()
    hold_lifeline()
    server = serve(options.port, options.context)

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    with server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
