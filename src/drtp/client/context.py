"""Where a user's commands go: the context file (private, it may hold a token), and kubeconfigs for kubectl."""

from __future__ import annotations

import base64
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import yaml

from drtp.kit.errors import Invalid, Terminal
from drtp.kit.files import read_private, write_atomic
from drtp.kit.secret import Secret


@dataclass(frozen=True, slots=True)
class Context:
    """One API, and who the user is there. A client certificate is the pair `cert_pem`, `key_pem`."""

    api: str
    ca_pem: bytes
    namespace: str = "default"
    token: Secret[str] | None = None
    cert_pem: bytes | None = None
    key_pem: Secret[bytes] | None = None
    founding_pem: bytes = b""
    """The first root of all, where `ca_pem` has others by now: it names the installation."""
    path: Path | None = field(default=None, compare=False)
    """The file of ours that it is from: roots that follow are kept there."""
    sign_in: Path | None = None
    """The context file beside which a sign-in is kept (`client/signin.py`): the token comes from it, and is renewed."""

    @property
    def installation(self) -> str:
        """The same for as long as the installation lives, whatever becomes of its roots."""
        return (self.founding_pem or self.ca_pem).decode()


class _File(msgspec.Struct, frozen=True, omit_defaults=True):
    """On disk, JSON or YAML. `ca` is PEM or a path beside this file."""

    api: str
    ca: str
    namespace: str = "default"
    token: str = ""
    certificate: str = ""
    key: str = ""
    founding: str = ""
    signed_in: bool = msgspec.field(name="signedIn", default=False)


_PLUGIN = ("auth", "get-token", "--output", "exec-credential")
"""What kubectl is told to ask of `datumctl`."""


def save_context(path: Path, context: Context) -> None:
    """Write `context` (0600), durable and whole."""
    content = _File(
        api=context.api,
        ca=context.ca_pem.decode(),
        namespace=context.namespace,
        token=context.token.reveal() if context.token and context.sign_in is None else "",
        signed_in=context.sign_in is not None,
        certificate=context.cert_pem.decode() if context.cert_pem else "",
        key=context.key_pem.reveal().decode() if context.key_pem else "",
        founding=context.founding_pem.decode(),
    )
    write_atomic(path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def load_context(path: Path) -> Context:
    """Read a context file, or a kubeconfig in its place.

    Raises: Terminal (absent, or others may use it), Invalid DRTP-3011.
    """
    try:
        raw = read_private(path)
    except FileNotFoundError:
        raise Terminal("DRTP-3011", f"There is no context file at {path}.") from None
    try:
        document = yaml.safe_load(raw)
        if isinstance(document, dict) and cast("dict[str, Any]", document).get("kind") == "Config":
            return load_kubeconfig(path)
        content = msgspec.convert(document, type=_File)
        ca = content.ca if content.ca.startswith("-----BEGIN") else (path.parent / content.ca).read_text()
    except (yaml.YAMLError, msgspec.ValidationError, OSError, ValueError) as error:
        raise Invalid("DRTP-3011", f"The context file {path} cannot be read: {error}") from None
    context = Context(
        api=content.api.rstrip("/"),
        ca_pem=ca.encode(),
        namespace=content.namespace,
        token=Secret(content.token) if content.token else None,
        cert_pem=content.certificate.encode() if content.certificate else None,
        key_pem=Secret(content.key.encode()) if content.key else None,
        founding_pem=content.founding.encode(),
        path=path if content.ca.startswith("-----BEGIN") else None,
        sign_in=path if content.signed_in else None,
    )
    return _usable(context, path)


def save_kubeconfig(path: Path, context: Context, name: str = "drtp") -> None:
    """Write a kubeconfig (0600) that kubectl uses as it is; where one signed in, `datumctl` gives it each token."""
    user: dict[str, Any] = {}
    if context.sign_in is not None:
        user["exec"] = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": shutil.which("datumctl") or "datumctl",
            "args": ["--context", str(context.sign_in.absolute()), *_PLUGIN],
            "interactiveMode": "Never",
            "installHint": "pip install drtp",
        }
    elif context.token:
        user["token"] = context.token.reveal()
    if context.cert_pem and context.key_pem:
        user["client-certificate-data"] = _b64(context.cert_pem)
        user["client-key-data"] = _b64(context.key_pem.reveal())
    cluster = {"server": context.api, "certificate-authority-data": _b64(context.ca_pem)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": context.namespace}}],
        "current-context": name,
    }
    write_atomic(path, yaml.safe_dump(document, sort_keys=False).encode())


def load_kubeconfig(path: Path) -> Context:
    """The current context of a kubeconfig with inline or file credentials. Of plugins, only our own: it is not run, but
    the sign-in it would read is read. Raises: Invalid DRTP-3011.
    """
    try:
        document = cast("dict[str, Any]", yaml.safe_load(read_private(path)))
        chosen = _named(document, "contexts", document["current-context"])["context"]
        cluster = _named(document, "clusters", chosen["cluster"])["cluster"]
        user = _named(document, "users", chosen["user"])["user"]
        ca = _data(path, cluster, "certificate-authority")
        server = str(cluster["server"])
        certificate, key = _data(path, user, "client-certificate"), _data(path, user, "client-key")
    except (yaml.YAMLError, LookupError, TypeError, ValueError, OSError) as error:
        raise Invalid("DRTP-3011", f"The kubeconfig {path} cannot be read: {error!r}") from None
    token: str | None = user.get("token")
    plugin: dict[str, Any] = user.get("exec") or {}
    arguments: list[Any] = plugin.get("args") or []
    context = Context(
        api=server.rstrip("/"),
        ca_pem=ca or b"",
        namespace=chosen.get("namespace") or "default",
        token=Secret(token) if token else None,
        cert_pem=certificate,
        key_pem=Secret(key) if key else None,
        sign_in=_signed_in_by(arguments, server),
    )
    return _usable(context, path)


def _signed_in_by(arguments: list[Any], server: str) -> Path | None:
    """The context file that our own plugin is told to use, if the sign-in beside it is for this very API.

    A kubeconfig from elsewhere must not have a token of this user sent to an address of its choice.
    """
    if arguments[:1] != ["--context"] or tuple(arguments[2:]) != _PLUGIN:
        return None
    path = Path(str(arguments[1]))
    return path if path.exists() and load_context(path).api == server.rstrip("/") else None


def _usable(context: Context, path: Path) -> Context:
    """`context`, if its address can be one. Raises: Invalid DRTP-3011."""
    try:
        parts = urlsplit(context.api)
        wrong = parts.scheme != "https" or not parts.hostname or parts.port == 0
    except ValueError:
        wrong = True
    if wrong:
        raise Invalid("DRTP-3011", f"In {path}, {context.api!r} is not the https:// address of an API.")
    return context


def _named(document: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    for entry in document[section]:
        if entry["name"] == name:
            return entry
    raise KeyError(f"{section}: {name}")


def _data(path: Path, section: dict[str, Any], name: str) -> bytes | None:
    if (inline := section.get(f"{name}-data")) is not None:
        return base64.b64decode(inline)
    file = section.get(name)
    return (path.parent / file).read_bytes() if file else None


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
