"""The API server as a caller sees it: Kubernetes conventions over TLS, raw objects in and out.

async with ApiClient(context) as api:
    service = await api.get("datumapis.com/v1alpha", "drtpservices", "web", namespace="sam")
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, cast

import aiohttp
import msgspec
from yarl import URL

from drtp.api.meta import Model
from drtp.client.context import Context, save_context
from drtp.client.dialling import ProxyFailure, web_session
from drtp.client.tls import trusting, untrusted
from drtp.client.vouching import offered, pem_of, read_roots, successors
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Conflict, DrtpError, Invalid, NotFound, Refused, Retryable, Terminal

Object = dict[str, Any]
M = TypeVar("M", bound=Model)

REQUEST_TIMEOUT_S = 30.0
WATCH_LINE_BYTES_MAX = 8 << 20


class PatchType(Enum):
    """How a patch is to be read."""

    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"


class WatchEvent(NamedTuple):
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Object


class ApiClient:
    """One connection pool to one API. Errors are of `drtp.kit.errors` and carry the server's own sentence."""

    def __init__(self, context: Context) -> None:
        """Nothing is dialled before the first request. Raises: Invalid for a certificate that cannot be read."""
        self._base = context.api
        self.namespace = context.namespace
        self.context = context
        """With the roots that hold by now."""
        self._learnt = False
        self._headers = {"Authorization": f"Bearer {context.token.reveal()}"} if context.token else {}
        self._tls = _tls(context)
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Ready to ask."""
        self._http = web_session(self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        if self._http is not None:
            await self._http.close()

    async def get(self, api_version: str, plural: str, name: str, *, namespace: str | None = None) -> Object:
        """One object. Raises: NotFound, Refused, Retryable."""
        return await self.request("GET", resource_path(api_version, plural, namespace, name))

    async def list(
        self, api_version: str, plural: str, *, namespace: str | None = None, params: Mapping[str, str] | None = None
    ) -> Object:
        """The list object: `items`, and `metadata.resourceVersion` to watch from."""
        return await self.request("GET", resource_path(api_version, plural, namespace), params=params)

    async def create(
        self,
        obj: Mapping[str, Any],
        plural: str,
        *,
        namespace: str | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Object:
        """Make an object. Raises: Conflict if it exists, Invalid, Refused."""
        path = resource_path(obj["apiVersion"], plural, namespace)
        return await self.request("POST", path, body=obj, params=params)

    async def update(self, obj: Mapping[str, Any], plural: str, *, namespace: str | None = None) -> Object:
        """Replace an object; its `resourceVersion` is a precondition. Raises: Conflict, NotFound, Invalid."""
        path = resource_path(obj["apiVersion"], plural, namespace, obj["metadata"]["name"])
        return await self.request("PUT", path, body=obj)

    async def patch(
        self,
        api_version: str,
        plural: str,
        name: str,
        patch: object,
        *,
        namespace: str | None = None,
        kind: PatchType = PatchType.MERGE,
        params: Mapping[str, str] | None = None,
    ) -> Object:
        """Change part of an object."""
        path = resource_path(api_version, plural, namespace, name)
        return await self.request("PATCH", path, body=patch, params=params, content_type=kind.value)

    async def delete(self, api_version: str, plural: str, name: str, *, namespace: str | None = None) -> Object:
        """Remove an object."""
        return await self.request("DELETE", resource_path(api_version, plural, namespace, name))

    async def watch(
        self,
        api_version: str,
        plural: str,
        *,
        namespace: str | None = None,
        name: str | None = None,
        since: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """Changes after `since`, until the server ends the watch: list again then. Raises: Retryable (410 among it)."""
        params = {"watch": "true", "allowWatchBookmarks": "true"}
        if since:
            params["resourceVersion"] = since
        if name:
            params["fieldSelector"] = f"metadata.name={name}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        url = self._base + resource_path(api_version, plural, namespace)
        try:
            async with self._session.get(url, params=params, headers=self._headers, timeout=timeout) as response:
                if response.status != 200:
                    raise error_of(response.status, await response.read())
                async for line in _lines(response.content):
                    event = msgspec.json.decode(line, type=dict[str, Any])
                    if event["type"] == "ERROR":
                        status: Object = event["object"]
                        raise error_of(int(status.get("code") or 500), msgspec.json.encode(status))
                    yield WatchEvent(event["type"], event["object"])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self._base, error) from error

    async def read(self, model: type[M], api_version: str, plural: str, name: str, namespace: str | None = None) -> M:
        """`get`, typed."""
        return msgspec.convert(await self.get(api_version, plural, name, namespace=namespace), type=model)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Object:
        """Any request; `path` begins with a slash. Gives the decoded JSON answer."""
        headers = {**self._headers, "Accept": accept}
        data = None
        if body is not None:
            data = msgspec.json.encode(body)
            headers["Content-Type"] = content_type
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        try:
            async with self._session.request(
                method, self._base + path, data=data, params=params, headers=headers, timeout=timeout
            ) as response:
                answer = await response.read()
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if isinstance(error, aiohttp.ClientConnectorCertificateError) and await self._learn_roots():
                # Nothing was sent: the handshake had failed.
                return await self.request(
                    method, path, body=body, params=params, content_type=content_type, accept=accept
                )
            raise _unreachable(self._base, error) from error
        if status >= 400:
            raise error_of(status, answer)
        return cast("Object", msgspec.json.decode(answer)) if answer else {}

    async def _learn_roots(self) -> bool:
        """Whether the control plane has another root by now, and the one we know vouches for it. Asked for once."""
        if self._learnt:
            return False
        self._learnt = True
        try:
            offer = await offered(URL(f"{self._base}/.well-known/drtp/bundle"))
            found = successors(read_roots(self.context.ca_pem), offer, SystemClock().now())
        except (DrtpError, aiohttp.ClientError, OSError, TimeoutError):
            return False
        if not found:
            return False
        self.context = replace(self.context, ca_pem=pem_of(found), founding_pem=self.context.installation.encode())
        self._tls = _tls(self.context)
        await self._session.close()
        self._http = web_session(self._tls)
        if self.context.path is not None:
            with contextlib.suppress(OSError):  # not ours to write: then it is learnt each time
                await asyncio.to_thread(save_context, self.context.path, self.context)
        return True

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("ApiClient is used with `async with`")
        return self._http


def resource_path(api_version: str, plural: str, namespace: str | None = None, name: str = "") -> str:
    """`/apis/<group>/<version>/namespaces/<ns>/<plural>/<name>`, or below `/api/v1` in core."""
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{plural}" + (f"/{name}" if name else "")


_OF_THE_CLUSTER = ("at the cluster scope", "the operator's to")
"""How the API says that what was refused is no owner's to allow."""

_THE_OPERATORS = (
    "That is the operator's to do. If you are the operator, say so: --context FILE with the operator's kubeconfig, "
    "such as the one that `drtp up` writes into its data directory."
)
_NARROW = ": the token allows less than its user may"
_AN_OWNERS = "Ask an owner of the namespace, or choose another namespace."


def error_of(status: int, body: bytes) -> DrtpError:
    """A Kubernetes `Status` as the error that says what to do next; its message is kept word by word."""
    try:
        answer = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        answer = {}
    what = str(answer.get("message") or f"The API server answered {status}.")
    details: Object = answer.get("details") or {}
    causes: list[Object] = details.get("causes") or []
    faults = tuple(f"{cause.get('field', '')}: {cause.get('message', '')}" for cause in causes)
    if status in (400, 415, 422):
        return Invalid("DRTP-3010", what, faults=faults)
    if status == 403 and _NARROW in what:
        return Refused("DRTP-2035", what, "Use a sign-in or a token of yours that is not narrowed.")
    if status == 403:
        return Refused("DRTP-3010", what, _THE_OPERATORS if any(one in what for one in _OF_THE_CLUSTER) else _AN_OWNERS)
    kind, code = _KINDS.get(status, (Retryable, "DRTP-3001") if status >= 500 else (Terminal, "DRTP-3010"))
    return kind("DRTP-1002" if answer.get("reason") == "AlreadyExists" else code, what)


_KINDS: dict[int, tuple[type[DrtpError], str]] = {
    401: (Refused, "DRTP-2004"),
    404: (NotFound, "DRTP-1001"),
    409: (Conflict, "DRTP-1003"),
    410: (Retryable, "DRTP-1004"),
    429: (Retryable, "DRTP-2003"),
}


def _unreachable(base: str, error: BaseException) -> DrtpError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return untrusted(base, error, SystemClock())
    if isinstance(error, ProxyFailure):
        return error.error
    if isinstance(error, aiohttp.ClientConnectorError) and (error.os_error.errno or 0) > 0:
        # asyncio's own sentence names the address again, as a Python tuple.
        return Retryable("DRTP-3001", f"{base} cannot be reached: {os.strerror(error.os_error.errno or 0)}.")
    return Retryable("DRTP-3001", f"{base} cannot be reached: {str(error) or 'no answer in time'}.")


def _tls(context: Context) -> ssl.SSLContext:
    try:
        tls = trusting(context.ca_pem)
        if context.cert_pem and context.key_pem:
            with _as_file(context.cert_pem) as certificate, _as_file(context.key_pem.reveal()) as key:
                tls.load_cert_chain(certificate, key)
    except (ssl.SSLError, ValueError) as error:
        what = "The context's authority, certificate or key is no PEM that can be used"
        raise Invalid("DRTP-3011", f"{what}: {getattr(error, 'reason', None) or error}.") from error
    return tls


@contextlib.contextmanager
def _as_file(data: bytes) -> Any:
    """`ssl` loads certificates from files only: one that has a name for this moment, readable by its owner."""
    descriptor, path = tempfile.mkstemp(prefix="drtp-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        yield path
    finally:
        Path(path).unlink()


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in content.iter_any():
        rest += chunk
        *whole, rest = rest.split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(rest) > WATCH_LINE_BYTES_MAX:
            raise Retryable("DRTP-3004", "A watch event is larger than anything sane.")
