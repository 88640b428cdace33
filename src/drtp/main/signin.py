"""Where browsers sign in, as the operator says it, parsed once."""

from __future__ import annotations

from urllib.parse import urlsplit

from drtp.issuers.serving import BrowserTls
from drtp.kit.errors import Terminal
from drtp.main.settings import ControlPlaneSettings


def browser_tls(settings: ControlPlaneSettings) -> BrowserTls | None:
    """The certificate for `sign_in_url`; None where the operator gives none. Raises: Terminal DRTP-7093."""
    chain, key = settings.sign_in_certificate, settings.sign_in_key
    host = _host(settings.sign_in_url) if settings.sign_in_url else ""
    if (chain is None) != (key is None) or (chain is not None and not host):
        raise Terminal("DRTP-7093", "A certificate for sign-in needs its key, and --sign-in-url.")
    return BrowserTls(host, chain, key) if chain is not None and key is not None else None


def _host(url: str) -> str:
    """Of `https://NAME[:PORT]`, in lower case. Raises: Terminal DRTP-7093."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme == "https" and parts.hostname and (parts.port is None or parts.port > 0)
        plain = url == f"https://{parts.netloc}" and "@" not in parts.netloc
    except ValueError:
        whole = plain = False
    if not (whole and plain):
        raise Terminal("DRTP-7093", f"{url} is not https://NAME or https://NAME:PORT.")
    return str(urlsplit(url).hostname)
