"""The door itself: documents, limits, and ends of connections."""

from __future__ import annotations

import asyncio
import io
import ssl
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from drtp.apiserver import watches
from drtp.apiserver.calls import BODY_BYTES_MAX
from drtp.kit.observe import configure_logs
from drtp.store.memory import MemoryStore
from unit.apiserver.serving import ADMIN, JOE, Served, serving
from unit.apiserver.test_objects import SERVICES, service
from unit.apiserver.test_reading import watching


async def test_discovery_is_aggregated_for_those_who_ask(api: Served) -> None:
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    for path in ("/api", "/apis"):
        _, said = await api.call("GET", path, Accept=accept)
        assert said["kind"] == "APIGroupDiscoveryList"
    _, said = await api.call("GET", "/apis")
    assert said["kind"] == "APIGroupList"
    for path in ("/api/v1", "/apis/datumapis.com/v1alpha"):
        assert (await api.call("GET", path))[1]["kind"] == "APIResourceList"


async def test_openapi_tells_of_dry_run_and_field_validation(api: Served) -> None:
    _, index = await api.call("GET", "/openapi/v3")
    for path in index["paths"].values():
        status, document = await api.call("GET", path["serverRelativeURL"])
        assert status == 200
        for item in document["paths"].values():
            if "patch" in item:
                named = {parameter["name"] for parameter in item["patch"]["parameters"]}
                assert {"dryRun", "fieldValidation"} <= named
                assert item["patch"]["x-kubernetes-group-version-kind"]
    assert (await api.call("GET", "/openapi/v2"))[0] == 404
    assert (await api.call("GET", "/openapi/v3/apis/no/v1"))[0] == 404


async def test_well_known_tells_where_edges_go(api: Served) -> None:
    _, said = await api.call("GET", "/.well-known/drtp", token="")
    assert said == {
        "edge": "https://127.0.0.1:1",
        "suffix": "example.localhost",
        "trustDomain": "drtp.test",
        "version": "0.1.0",
    }


async def test_large_bodies_are_refused(api: Served) -> None:
    status, said = await api.call("POST", SERVICES, io.BytesIO(b"[" * (BODY_BYTES_MAX + 1)))
    assert (status, said["reason"]) == (413, "RequestEntityTooLarge")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b"k8s\x00\xff", b"k8s\x00\n\x7f", b'"\xff"'])
async def test_bodies_that_cannot_be_read_are_refused(api: Served, body: bytes) -> None:
    status, said = await api.call("POST", SERVICES, body)
    assert status in {400, 415}
    assert said["kind"] == "Status"


async def test_foreign_content_types_are_refused(api: Served) -> None:
    assert (await api.call("POST", SERVICES, b"a: 1", Content_Type="application/yaml"))[0] == 415


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=x",
        "resourceVersion=1e9",
        "watch=1&timeoutSeconds=%D9%A1",
        "watch=1&labelSelector=a%20b",
        "continue=x",
    ],
)
async def test_wrong_parameters_are_said(api: Served, query: str) -> None:
    status, said = await api.call("GET", f"{SERVICES}?{query}")
    assert 400 <= status < 500
    assert said["kind"] == "Status"


async def test_unknown_verbs_and_paths_have_their_answers(api: Served) -> None:
    assert (await api.call("PUT", SERVICES, {}))[0] == 405
    assert (await api.call("GET", f"{SERVICES}/a/b/c"))[0] == 404
    assert (await api.call("GET", f"{SERVICES}/a/scale"))[0] == 404
    assert (await api.call("POST", "/api", {}))[0] == 405


async def test_watch_of_lost_history_ends_with_410(tmp_path: Path) -> None:
    store = MemoryStore(log_bytes_max=4000)
    async with serving(tmp_path, store) as api:
        for number in range(40):
            await api.call("POST", SERVICES, service(f"s{number}"))
        status, said = await api.call("GET", f"{SERVICES}?watch=1&resourceVersion=5")
        assert (status, said["reason"]) == (410, "Expired")


async def test_watches_of_one_user_are_bounded(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "WATCHES_PER_USER_MAX", 2)
    async with watching(api), watching(api):
        status, said = await api.call("GET", f"{SERVICES}?watch=1")
        assert (status, said["reason"]) == (429, "TooManyRequests")
        async with watching(api, token=JOE):
            pass
    async with watching(api):
        pass


async def test_a_watcher_that_takes_nothing_is_dropped(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "WRITE_DEADLINE_S", 0.2)
    for number in range(100):
        metadata = {"name": f"c{number}", "namespace": "joe", "annotations": {"a": "x" * 250_000}}
        await api.store.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    url = urlsplit(api.url)
    trust = ssl.create_default_context(cafile=str(api.ca))
    _reader, writer = await asyncio.open_connection(url.hostname, url.port, ssl=trust)
    cast("asyncio.Transport", writer.transport).pause_reading()
    path = "/api/v1/namespaces/joe/configmaps?watch=1"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ADMIN}\r\n\r\n".encode())
    running = api.server._watches._by_user
    async with asyncio.timeout(20):
        while not running:
            await asyncio.sleep(0.01)
        while running:
            await asyncio.sleep(0.01)
    writer.transport.abort()


async def test_shutdown_ends_watches(api: Served) -> None:
    async with watching(api) as frames:
        await api.server._watches.close()
        assert await frames.rest() == []
    assert (await api.call("GET", f"{SERVICES}?watch=1"))[0] == 503


async def silent(api: Served, sent: bytes) -> bytes:
    """Open TLS, send `sent`, and wait for the server to close."""
    url = urlsplit(api.url)
    trust = ssl.create_default_context(cafile=str(api.ca))
    reader, writer = await asyncio.open_connection(url.hostname, url.port, ssl=trust)
    try:
        writer.write(sent)
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_who_does_not_say_who_they_are_keeps_no_connection(api: Served) -> None:
    for path, status in (("/healthz", b"200"), ("/api", b"401")):
        said = await silent(api, f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert said.startswith(b"HTTP/1.1 " + status)
        assert b"Connection: close" in said


async def test_secrets_are_in_no_log_and_no_refusal(api: Served) -> None:
    lines = io.StringIO()
    configure_logs(stream=lines)
    path = "/api/v1/namespaces/joe/secrets"
    canary = "hunter2-canary"
    said: list[Any] = []
    for data in ({"stringData": {"a": canary}}, {"data": {"a": canary}}, {"data": canary}):
        obj = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}} | data
        status, answer = await api.call("POST", path, obj)
        if status != 201:
            said.append(answer)
    await api.call("POST", path, f'{{"data": "{canary}'.encode())
    _, table = await api.call("GET", path, Accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    said.append(table)
    assert "object written" in lines.getvalue()
    assert canary not in lines.getvalue() + str(said)
    assert ADMIN not in lines.getvalue()


FORGED = [
    {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"},
    {"X-Forwarded-User": "admin", "X-Forwarded-Email": "admin@drtp.test", "Remote-User": "admin"},
    {"Impersonate-User": "admin", "Impersonate-Group": "system:masters"},
    {"X-Forwarded-Client-Cert": "Hash=0;URI=spiffe://drtp.test/controlplane", "X-SSL-Client-Verify": "SUCCESS"},
    {"X-DRTP-User": "admin", "X-Datum-User": "admin", "X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer null"},
    {"Authorization": "Basic YWRtaW46YWRtaW4tdG9rZW4="},
    {"Authorization": ADMIN},
    {"Proxy-Authorization": f"Bearer {ADMIN}"},
    {"Cookie": f"token={ADMIN}; Authorization=Bearer%20{ADMIN}"},
    {"Authorization": "Bearer no-token\tBearer " + ADMIN},
]


@pytest.mark.parametrize("headers", FORGED, ids="-".join)
async def test_no_header_stands_in_for_a_token_ghsa_cc5m_7mhm_xh9f_ghsa_4h58_w989_xgg4(
    api: Served, headers: dict[str, str]
) -> None:
    for path in (SERVICES, "/api/v1/namespaces", "/api"):
        sent = {name.replace("-", "_"): value for name, value in headers.items()}
        assert (await api.call("GET", path, token="", **sent))[0] == 401


async def test_of_two_authorizations_neither_opens_ghsa_cc5m_7mhm_xh9f(api: Served) -> None:
    """Who reads the first and who reads the last would see two different callers."""
    for first, second in (("no-token", ADMIN), (ADMIN, "no-token")):
        lines = f"Authorization: Bearer {first}\r\nAuthorization: Bearer {second}\r\n"
        said = await silent(api, f"GET {SERVICES} HTTP/1.1\r\nHost: a\r\n{lines}Connection: close\r\n\r\n".encode())
        assert said.split(b" ", 2)[1] in {b"400", b"401"}, said


SCRIPT = "<script>alert(1)</script>"


@pytest.mark.parametrize(
    "request_line",
    [
        f"GET /{SCRIPT} HTTP/1.1",
        f"GET {SERVICES}/{SCRIPT} HTTP/1.1",
        f"GET {SERVICES}?labelSelector={SCRIPT} HTTP/1.1",
        f"GET {SERVICES}?limit={SCRIPT} HTTP/1.1",
        f"{SCRIPT.replace('/', '')} / HTTP/1.1",
        f"GET / {SCRIPT}",
        f"GET http://{SCRIPT}/ HTTP/1.1",
    ],
)
@pytest.mark.parametrize("token", ["", ADMIN], ids=["stranger", "admin"])
async def test_no_answer_is_a_page_of_its_askers_words_cve_2026_40302(
    api: Served, request_line: str, token: str
) -> None:
    """A Status may name what was asked for, but no browser may take it for a page."""
    said_by = f"Authorization: Bearer {token}\r\n" if token else ""
    headers = f"Host: a\r\nAccept: text/html\r\nReferer: {SCRIPT}\r\n{said_by}Connection: close\r\n\r\n"
    answer = await silent(api, f"{request_line}\r\n{headers}".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head, "no answer at all"
    assert b"text/html" not in head.lower()
    assert SCRIPT.encode() not in body or b"x-content-type-options: nosniff" in head.lower()
    assert SCRIPT.encode() not in head


async def test_cookies_take_no_memory_cve_2026_40303(api: Served) -> None:
    """No cookie is ever read, and a head beyond the parser's bounds is refused before anything is made of it."""
    for line in (f"Cookie: {'a=1; ' * 300_000}", "\r\n".join(f"Cookie: c{n}=1" for n in range(60_000))):
        answer = await silent(api, f"GET {SERVICES} HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n".encode())
        assert answer == b"" or answer.split(b" ", 2)[1] in {b"400", b"431"}, answer[:200]
    assert (await api.call("GET", SERVICES))[0] == 200


async def test_a_forwarded_host_chooses_nothing_cve_2026_55430(api: Served) -> None:
    _, plain = await api.call("GET", "/.well-known/drtp", token="")
    forged = {"X_Forwarded_Host": "evil.test", "X_Forwarded_Proto": "http", "Forwarded": "host=evil.test"}
    assert await api.call("GET", "/.well-known/drtp", token="", Host="evil.test", **forged) == (200, plain)
    for path in (SERVICES, "/api", "/openapi/v3"):
        status, said = await api.call("GET", path, Host="evil.test", **forged)
        assert (status, "evil" in str(said)) == (200, False)
