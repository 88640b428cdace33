"""The contract with a host CLI: a manifest for it to list, variables from it, tokens by its helper."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from drtp import __version__
from drtp.kit.errors import Retryable
from drtp.kit.secret import Secret

_API_VERSION = 1
_TOKEN_WITHIN_S = 30.0
"""A helper may have to refresh a token over the network; it never asks the user."""


_PLUGINS = {
    "serve": "Make a local service reachable at a public address",
    "connect": "Present a remote service on this machine, without a public listener",
}


def manifest(name: str = "serve") -> str:
    """What `--plugin-manifest` of the plugin prints; the member names are the host's."""
    return (
        msgspec.json.format(
            msgspec.json.encode(
                {
                    "name": name,
                    "version": __version__,
                    "description": _PLUGINS[name],
                    "api_version": _API_VERSION,
                    "min_api_version": _API_VERSION,
                }
            ),
            indent=2,
        ).decode()
        + "\n"
    )


@dataclass(frozen=True)
class HostContext:
    """What the host says: whose account, which API, and the program that gives tokens."""

    organisation: str
    project: str
    api_host: str
    helper: str
    session: str

    @property
    def api(self) -> str:
        """The API's URL; hosts give a bare host name or a URL."""
        return self.api_host if "://" in self.api_host else f"https://{self.api_host}"

    def token(self) -> Secret[str]:
        """A fresh token. Raises: Retryable (DRTP-7011) if the helper gives none."""
        session = ("--session", self.session) if self.session else ()
        try:
            done = subprocess.run(
                [self.helper, "auth", "get-token", *session],
                capture_output=True,
                text=True,
                timeout=_TOKEN_WITHIN_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as fault:
            raise Retryable("DRTP-7011", f"The credentials helper {self.helper} gave no token ({fault}).") from fault
        if done.returncode != 0 or not done.stdout.strip():
            words = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            raise Retryable("DRTP-7011", f"The credentials helper {self.helper} gave no token ({words[0]}).")
        return Secret(done.stdout.strip())


def host_context(environment: Mapping[str, str] = os.environ) -> HostContext | None:
    """What a host put into the environment; None where none started us."""
    api_host = environment.get("DATUM_API_HOST", "")
    if not api_host:
        return None
    return HostContext(
        organisation=environment.get("DATUM_ORG", ""),
        project=environment.get("DATUM_PROJECT", ""),
        api_host=api_host,
        helper=environment.get("DATUM_CREDENTIALS_HELPER", "") or "datumctl",
        session=environment.get("DATUM_SESSION", ""),
    )
