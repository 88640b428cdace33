"""The API client against a small real TLS server, and context files."""

from __future__ import annotations

import asyncio
import json
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from drtp.client.api import ApiClient, PatchType, error_of, resource_path
from drtp.client.context import Context, load_context, load_kubeconfig, save_context, save_kubeconfig
from drtp.client.dialling import CONNECTIONS_MAX
from drtp.issuers.authority import Authority
from drtp.issuers.serving import ControlplaneTls
from drtp.kit.clock import SystemClock
from drtp.kit.errors import Conflict, DrtpError, Invalid, NotFound, Refused, Retryable, Terminal
from drtp.kit.secret import Secret

SERVICES = "/apis/datumapis.com/v1alpha/namespaces/joe/drtpservices"


async def service(request: web.Request) -> web.Response:
    if request.headers.get("Authorization") != "Bearer drtp_pat_x":
        return web.json_response({"kind": "Status", "message": "no", "code": 401}, status=401)
    if request.method == "PATCH":
        return web.json_response({"contentType": request.content_type, "body": await request.json()})
    if request.match_info.get("name") == "missing":
        status = {"kind": "Status", "reason": "NotFound", "message": 'drtpservices "missing" not found', "code": 404}
        return web.json_response(status, status=404)
    assert request.transport is not None
    return web.json_response(
        {"metadata": {"name": request.match_info["name"]}, "caller": request.transport.get_extra_info("peername")}
    )


async def watch(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}\n{"type":"MODI')
    await response.write(b'FIED","object":{"metadata":{"name":"b"}}}\n')
    await response.write(b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n')
    return response


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[Context]:
    authority = Authority(tmp_path / "authority", "drtp.test", "prism.test", SystemClock())
    tls: ssl.SSLContext = ControlplaneTls(authority, tmp_path / "tls", ("127.0.0.1",), SystemClock()).context()
    app = web.Application()
    app.router.add_get(SERVICES, watch)
    app.router.add_route("*", SERVICES + "/{name}", service)
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    yield Context(f"https://127.0.0.1:{port}", authority.bundle_pem, "joe", Secret("drtp_pat_x"))
    await runner.cleanup()


async def test_objects_are_read_and_patched_with_the_token(context: Context):
    async with ApiClient(context) as api:
        got = await api.get("datumapis.com/v1alpha", "drtpservices", "web", namespace="joe")
        assert got["metadata"]["name"] == "web"
        patched = await api.patch(
            "datumapis.com/v1alpha", "drtpservices", "web", [], namespace="joe", kind=PatchType.JSON
        )
        assert patched == {"contentType": "application/json-patch+json", "body": []}
        with pytest.raises(NotFound) as missing:
            await api.get("datumapis.com/v1alpha", "drtpservices", "missing", namespace="joe")
        assert 'drtpservices "missing" not found' in str(missing.value)


async def test_many_requests_at_once_are_no_crowd_of_strangers(context: Context):
    """A door resets those of one address that are more than 16 in the worst case."""
    async with ApiClient(context) as api, asyncio.TaskGroup() as together:
        asked = [
            together.create_task(api.get("datumapis.com/v1alpha", "drtpservices", f"s{number}", namespace="joe"))
            for number in range(100)
        ]
    callers = {tuple(one.result()["caller"]) for one in asked}
    assert len(callers) <= CONNECTIONS_MAX < 16


async def test_watch_gives_whole_events_and_ends_with_the_servers_error(context: Context):
    seen: list[str] = []

    async def follow() -> None:
        async with ApiClient(context) as api:
            async for event in api.watch("datumapis.com/v1alpha", "drtpservices", namespace="joe"):
                seen.append(f"{event.type} {event.object['metadata']['name']}")

    with pytest.raises(Retryable) as expired:
        await follow()
    assert seen == ["ADDED a", "MODIFIED b"]
    assert expired.value.code == "DRTP-1004"


async def test_another_authoritys_server_is_never_talked_to(context: Context, tmp_path: Path):
    other = Authority(tmp_path / "other", "drtp.test", "prism.test", SystemClock())
    async with ApiClient(Context(context.api, other.bundle_pem, token=context.token)) as api:
        with pytest.raises(Terminal) as refused:
            await api.get("v1", "namespaces", "x")
    assert refused.value.code == "DRTP-2014"


async def test_absent_server_is_retryable(context: Context):
    async with ApiClient(Context("https://127.0.0.1:1", context.ca_pem)) as api:
        with pytest.raises(Retryable) as absent:
            await api.get("v1", "namespaces", "x")
    assert absent.value.code == "DRTP-3001"


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (401, b"{}", Refused, "DRTP-2004"),
        (403, b'{"message":"forbidden"}', Refused, "DRTP-3010"),
        (409, b'{"reason":"AlreadyExists","message":"x"}', Conflict, "DRTP-1002"),
        (409, b'{"reason":"Conflict","message":"x"}', Conflict, "DRTP-1003"),
        (
            422,
            b'{"message":"bad","details":{"causes":[{"field":"spec.port","message":"too big"}]}}',
            Invalid,
            "DRTP-3010",
        ),
        (503, b"not json", Retryable, "DRTP-3001"),
        (418, b"", Terminal, "DRTP-3010"),
    ],
)
def test_status_becomes_the_error_that_says_what_to_do(status: int, body: bytes, kind: type[DrtpError], code: str):
    error = error_of(status, body)
    assert type(error) is kind
    assert error.code == code
    if isinstance(error, Invalid):
        assert error.faults == ("spec.port: too big",)


@pytest.mark.parametrize(
    ("message", "whom"),
    [
        ('namespaces is forbidden: User "local" cannot create resource "namespaces" at the cluster scope', "operator"),
        ('namespaces "x" is forbidden: the label is the operator\'s to write', "operator"),
        ('drtpservices is forbidden: User "eve" cannot list resource "drtpservices" in the namespace "joe"', "owner"),
    ],
)
def test_a_refusal_names_who_could_allow_it(message: str, whom: str):
    remedy = error_of(403, json.dumps({"message": message}).encode()).remedy
    assert ("operator's kubeconfig" in remedy) == (whom == "operator")
    assert ("an owner of the namespace" in remedy) == (whom == "owner")


def test_paths_of_core_and_groups():
    assert resource_path("v1", "secrets", "joe", "x") == "/api/v1/namespaces/joe/secrets/x"
    assert resource_path("datumapis.com/v1alpha", "drtpservers") == "/apis/datumapis.com/v1alpha/drtpservers"


def test_context_files_are_private_and_come_back_as_written(tmp_path: Path):
    context = Context("https://h:1", b"-----BEGIN CERTIFICATE-----\nx\n", "joe", Secret("drtp_pat_x"))
    save_context(tmp_path / "context.json", context)
    save_kubeconfig(tmp_path / "kubeconfig", context)
    assert load_context(tmp_path / "context.json") == context
    assert load_kubeconfig(tmp_path / "kubeconfig") == context
    assert yaml.safe_load((tmp_path / "kubeconfig").read_text())["current-context"] == "drtp"
    for name, load in (("context.json", load_context), ("kubeconfig", load_kubeconfig)):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        (tmp_path / name).chmod(0o644)
        with pytest.raises(Terminal):
            load(tmp_path / name)
    assert "drtp_pat_x" not in repr(context)


def test_context_may_name_its_ca_by_a_path_beside_it(tmp_path: Path):
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "context.yaml").write_text("api: https://h:1/\nca: ca.pem\n")
    (tmp_path / "context.yaml").chmod(0o600)
    context = load_context(tmp_path / "context.yaml")
    assert (context.api, context.ca_pem) == ("https://h:1", b"-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "context.yaml").write_text("api: [")
    with pytest.raises(Invalid):
        load_context(tmp_path / "context.yaml")
    with pytest.raises(Terminal):
        load_context(tmp_path / "absent")
