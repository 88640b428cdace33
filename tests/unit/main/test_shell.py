"""What the shell sees: exit statuses, sentences, codes; nothing secret."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from drtp.client.context import Context, save_context
from drtp.kit.errors import Conflict, DrtpError, Invalid, NotFound, Refused, Retryable, Terminal
from drtp.kit.secret import Secret
from drtp.main.datumctl import cli as datumctl_cli
from drtp.main.operator import cli as operator_cli
from drtp.main.shell import Exit, Misconfigured, Misused, exit_status, expected_error, explain, run, until

BIN = Path(sys.executable).parent


def program(*argv: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DRTP_", "DATUM_", "XDG_"))}
    return subprocess.run(
        [str(BIN / argv[0]), *argv[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**kept, "HOME": str(home), **more},
    )


def test_the_page_is_that_of_the_code_that_the_api_gave() -> None:
    lines = click.unstyle(explain(Refused("DRTP-3010", "Not yours (DRTP-1012)", "Ask."))).splitlines()
    assert lines == ["error: Not yours", "   do: Ask.", "  see: DRTP-1012, docs/errors/DRTP-1012.md"]


def test_words_of_several_lines_stay_so_and_begin_none() -> None:
    lines = click.unstyle(
        explain(Terminal("DRTP-7008", "It ended:\n  \x07 here\nerror: not ours", "Look."))
    ).splitlines()
    assert lines[:3] == ["error: It ended:", "         \\x07 here", "       error: not ours"]


@pytest.mark.parametrize("argv", [("datumctl",), ("datumctl", "policy"), ("drtp",)])
def test_a_bare_group_shows_its_help_as_help(tmp_path: Path, argv: tuple[str, ...]) -> None:
    done = program(*argv, home=tmp_path)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert done.stderr.startswith(f"Usage: {' '.join(argv)} ")
    assert "\nCommands:\n" in done.stderr
    assert "x0a" not in done.stderr


def _groups(group: click.Group, path: str) -> Iterator[tuple[str, click.Group]]:
    """It and every group in it, by what one types."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _groups(command, f"{path} {name}")


@pytest.mark.parametrize(("program", "cli"), [("drtp", operator_cli), ("datumctl", datumctl_cli)])
def test_no_summary_in_the_help_is_cut(program: str, cli: click.Group) -> None:
    cut = {
        path: line
        for path, group in _groups(cli, program)
        for line in group.get_help(click.Context(group, info_name=path, terminal_width=80)).splitlines()
        if line.endswith("...") and not line.startswith("Usage")
    }
    assert cut == {}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ("serve", "--nme", "x"),
            "error: No such option '--nme'. (Did you mean one of: '--moved', '--name', '--once'?)",
        ),
        (("serve", "8080", "--port"), "error: Option '--port' requires an argument."),
        (("srve",), "error: No such command 'srve'. Did you mean 'serve'?"),
    ],
)
def test_a_sentence_ends_once(tmp_path: Path, argv: tuple[str, ...], said: str) -> None:
    done = program("datumctl", *argv, home=tmp_path)
    assert done.stderr.splitlines()[0] == said


def test_instants_are_told_to_the_second() -> None:
    assert until("2026-12-27T03:40:00.917943+00:00") == until("2026-12-27T03:40:00Z") == "2026-12-27 03:40:00 UTC"


def test_a_mistyped_command_is_told_its_neighbour(tmp_path: Path) -> None:
    done = program("datumctl", "srve", home=tmp_path)
    assert done.returncode == Exit.USAGE
    assert "Did you mean 'serve'?" in done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Misused("DRTP-7002"), Exit.USAGE),
        (Invalid("DRTP-7004"), Exit.USAGE),
        (Misconfigured("DRTP-7003"), Exit.CONFIGURATION),
        (Invalid("DRTP-7015"), Exit.CONFIGURATION),
        (Refused("DRTP-2001"), Exit.DENIED),
        (Conflict("DRTP-2001"), Exit.DENIED),
        (Conflict("DRTP-1003"), Exit.TERMINAL),
        (Retryable("DRTP-3001"), Exit.UNAVAILABLE),
        (Terminal("DRTP-7008"), Exit.TERMINAL),
        (Terminal("DRTP-2006"), Exit.DENIED),
        (Terminal("DRTP-2017"), Exit.DENIED),
        (NotFound("DRTP-1001"), Exit.TERMINAL),
    ],
)
def test_exit_status_says_what_to_do_next(error: DrtpError, status: Exit) -> None:
    assert exit_status(error) is status


def test_an_error_is_two_sentences_a_code_and_a_page() -> None:
    lines = click.unstyle(explain(Terminal("DRTP-7008", "It ended.\x1b[2J", "Read the log."))).splitlines()
    assert lines == [
        "error: It ended.\\x1b[2J",
        "   do: Read the log.",
        "  see: DRTP-7008, docs/errors/DRTP-7008.md",
    ]


def test_our_error_comes_out_of_nested_groups_and_a_stranger_hides_nothing() -> None:
    ours = Terminal("DRTP-7008")
    assert expected_error(ExceptionGroup("", [ExceptionGroup("", [ours])])) is ours
    assert expected_error(ExceptionGroup("", [ours, ValueError()])) is None
    assert expected_error(ValueError()) is None


def test_a_fault_of_the_program_is_one_error_and_a_private_file_of_details(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @click.command()
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run(broken, "broken", []) == Exit.TERMINAL
    (details,) = tmp_path.iterdir()
    said = capsys.readouterr().err
    assert "DRTP-7060" in said and str(details) in said and "Traceback" not in said
    assert details.stat().st_mode & 0o077 == 0
    assert "ZeroDivisionError" in details.read_text()


def test_what_the_system_refuses_names_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    @click.command()
    def reads() -> None:
        (tmp_path / "absent").read_bytes()

    assert run(reads, "reads", []) == Exit.CONFIGURATION
    said = capsys.readouterr().err
    assert f"{tmp_path / 'absent'}: No such file or directory." in said and "DRTP-7061" in said


@pytest.mark.parametrize(
    ("argv", "status", "code"),
    [
        (("datumctl", "serve", "ftp://x"), 64, "DRTP-7004"),
        (("datumctl", "serve", "udp://x:53", "--hostname", "dns.example"), 64, "DRTP-7002"),
        (("datumctl", "serve", "udp://x:53", "--proxy-protocol", "v1"), 64, "DRTP-7002"),
        (("datumctl", "serve"), 64, "DRTP-7002"),
        (("datumctl", "serve", "8080"), 78, "DRTP-7003"),
        (("datumctl", "--context", "/nonexistent", "get", "drtpservices"), 78, "DRTP-7003"),
        (("datumctl", "serve", "8080", "--no-such-option"), 64, "No such option"),
        (("datumctl", "login"), 64, "DRTP-7002"),
        (("datumctl", "login", "http://api.example"), 64, "DRTP-7002"),
        (("datumctl", "logout"), 77, "DRTP-7087"),
        (("datumctl-serve", "--secret-file", "/nonexistent", "--service", "s"), 64, "DRTP-7010"),
        (("datumctl", "serve", "8080", "--allow", "everyone"), 64, "DRTP-7002"),
        (("datumctl", "serve", "tcp://db:5432", "--hostname", "db.example"), 64, "DRTP-7002"),
        (("drtp", "up", "--data-dir", "data", "--no-restart", "nobody"), 64, "DRTP-7002"),
        (("drtp", "errors", "7005"), 0, ""),
    ],
)
def test_every_way_to_fail_has_its_status_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...], status: int, code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = program(*argv, home=tmp_path)
    assert done.returncode == status, done.stderr
    assert code in done.stderr
    assert "Traceback" not in done.stderr


def test_unreachable_control_plane_with_once_is_unavailable(tmp_path: Path) -> None:
    import socket

    from drtp.client.context import Context, save_context

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        api = f"https://127.0.0.1:{closed.getsockname()[1]}"
        context = tmp_path / "context.json"
        save_context(context, Context(api=api, ca_pem=_some_root()))
        done = program("datumctl", "--context", str(context), "serve", "8080", "--once", "-o", "json", home=tmp_path)
    assert done.returncode == 69, done.stderr
    assert json.loads(done.stdout)["event"] == "error"
    assert json.loads(done.stdout)["code"].startswith("DRTP-")
    assert {path.name for path in tmp_path.iterdir()} == {"context.json", "agents"}, "state lies beside the context"


def test_plugin_manifest_is_answered_without_anything_else(tmp_path: Path) -> None:
    done = program("datumctl-serve", "--plugin-manifest", home=tmp_path)
    manifest = json.loads(done.stdout)
    assert manifest["name"] == "serve"
    assert manifest["api_version"] == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there_for_each_shell(tmp_path: Path, shell: str) -> None:
    assert "_DATUMCTL_COMPLETE" in program("datumctl", "completion", shell, home=tmp_path).stdout


def test_the_agents_side_imports_no_server_part() -> None:
    code = (
        "import sys, drtp.main.datumctl, drtp.main.datum.serving, drtp.main.datum.screen;"
        "print([m for m in ('apsw', 'grpc', 'google.protobuf', 'cel', 'joserfc', 'drtp.store', 'drtp.gateway')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def _some_root() -> bytes:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
    now = datetime.now(UTC)
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return root.public_bytes(serialization.Encoding.PEM)


def test_a_file_that_the_system_refuses_is_told_from_within_nested_groups_too() -> None:
    refused = PermissionError(errno.EROFS, "Read-only file system", "/mnt/state/lock")
    error = expected_error(ExceptionGroup("", [ExceptionGroup("", [refused])]))
    assert error is not None
    assert error.code == "DRTP-7061"
    assert "/mnt/state/lock: Read-only file system." in error.what
    assert expected_error(ConnectionResetError(errno.ECONNRESET, "reset")) is None


def test_serving_from_a_directory_that_cannot_be_is_told_by_its_path(tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    save_context(context, Context(api="https://127.0.0.1:9", ca_pem=b"-----BEGIN CERTIFICATE-----", token=Secret("x")))
    command = ("--context", str(context), "serve", "localhost:1", "--state-dir", "/proc/x")
    done = program("datumctl", *command, home=tmp_path)
    assert done.returncode == Exit.CONFIGURATION, done.stderr
    assert "DRTP-7061" in done.stderr
    assert "/proc/x" in done.stderr
