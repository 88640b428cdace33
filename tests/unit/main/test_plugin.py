"""The contract with a host CLI, by a real helper program; and files with several services."""

from __future__ import annotations

from pathlib import Path

import pytest

from drtp.api.drtp import ProxyProtocol
from drtp.kit.errors import Invalid, Retryable
from drtp.main.datum.plugin import host_context
from drtp.main.datum.serve_file import requests_in
from drtp.main.shell import Exit, Misconfigured, exit_status


def helper(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o700)
    return str(path)


def test_host_gives_api_project_and_a_fresh_token(tmp_path: Path) -> None:
    program = helper(tmp_path / "host", 'test "$1 $2 $3 $4" = "auth get-token --session dev" && echo tok-123')
    host = host_context(
        {
            "DATUM_API_HOST": "api.example",
            "DATUM_ORG": "acme",
            "DATUM_PROJECT": "web",
            "DATUM_CREDENTIALS_HELPER": program,
            "DATUM_SESSION": "dev",
        }
    )
    assert host is not None
    assert (host.api, host.project, host.organisation) == ("https://api.example", "web", "acme")
    assert host.token().reveal() == "tok-123"
    assert "tok-123" not in repr(host.token())


def test_no_host_is_no_host() -> None:
    assert host_context({}) is None


@pytest.mark.parametrize("body", ["exit 3", "true", "echo not signed in >&2; exit 1"])
def test_a_helper_without_a_token_is_worth_another_try(tmp_path: Path, body: str) -> None:
    host = host_context({"DATUM_API_HOST": "a", "DATUM_CREDENTIALS_HELPER": helper(tmp_path / "host", body)})
    assert host is not None
    with pytest.raises(Retryable) as refused:
        host.token()
    assert refused.value.code == "DRTP-7011"


def test_a_file_holds_several_services_with_the_options_names(tmp_path: Path) -> None:
    file = tmp_path / "services.yaml"
    file.write_text(
        "services:\n"
        "- {target: 8080, name: web, hostname: web.example}\n"
        "- {target: tcp://db:5432, name: db, allow: [10.0.0.0/8], proxy-protocol: v2, no-expose: true}\n"
    )
    web, database = requests_in(file)
    assert (web.name, web.hostname, web.expose) == ("web", "web.example", True)
    assert (database.allow, database.proxy_protocol, database.expose) == (("10.0.0.0/8",), ProxyProtocol.V2, False)


def test_a_file_may_be_the_list_alone(tmp_path: Path) -> None:
    file = tmp_path / "services.yaml"
    file.write_text("- {target: 8080, name: web}\n- {target: 8081, name: api}\n")
    assert [request.name for request in requests_in(file)] == ["web", "api"]


@pytest.mark.parametrize(
    "text",
    [
        "services: []",
        "services: [{target: '1', nmae: x}]",
        "services: [{target: '1', name: a}, {target: '2', name: a}]",
        "services: [{target: '1', proxy-protocol: v3}]",
        "services: [{target: '1', port: 70000}]",
        "services: [{target: 'ftp://x'}]",
        "services: [{target: '1', allow: [everyone]}]",
        "services: [{target: 'tcp://db:1', hostname: db.example}]",
        "- x",
        "a: [",
    ],
)
def test_a_wrong_file_is_a_configuration_fault(tmp_path: Path, text: str) -> None:
    file = tmp_path / "services.yaml"
    file.write_text(text)
    with pytest.raises((Misconfigured, Invalid)) as refused:
        requests_in(file)
    assert refused.value.code == "DRTP-7013"
    assert exit_status(refused.value) is Exit.CONFIGURATION


def test_every_fault_of_a_file_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "services.yaml"
    file.write_text(
        "services:\n"
        "- {target: 8080, nmae: web, port: 70000}\n"
        "- {target: 'ftp://x', allow: [everyone], name: files}\n"
        "- 8080\n"
        "- {name: nothing}\n"
        "colour: blue\n"
    )
    with pytest.raises(Invalid) as refused:
        requests_in(file)
    places = [fault.partition(": ")[0] for fault in refused.value.faults]
    assert places == [
        "colour",
        "services[0].nmae",
        "services[0].port",
        "services[1].target",
        "services[1].allow",
        "services[2]",
        "services[3].target",
    ]
    assert "holds 7 faults" in refused.value.what
