"""Instructions to paste: sound shell, sound YAML, and the secret in no program's arguments."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from drtp.main.datum.credentials import secret_file
from drtp.main.datum.instructions import IMAGE, NAME_MAX, Start, instructions
from drtp.main.datum.naming import in_project
from drtp.main.shell import Misused

SECRET = "drtp_enr_abcdefgh1234_" + "x" * 43 + "_123456@127.0.0.1:8443#" + "A" * 43
START = Start("databases", "db.main", SECRET, replicas=3, image="registry.example/agent:1")


@pytest.mark.parametrize("kind", ["shell", "container", "systemd", "kubernetes"])
def test_each_is_shell_that_a_shell_can_read(kind: str) -> None:
    text = instructions(START)[kind]
    subprocess.run(["sh", "-n", "-c", text], check=True, timeout=10)
    assert text.count(SECRET) == 1
    (line,) = (one for one in text.splitlines() if SECRET in one)
    # Alone on a line of a here-document, or a member of a manifest.
    assert line in {SECRET, f'stringData: {{secret: "{SECRET}"}}'}


@pytest.mark.parametrize("kind", ["shell", "container", "systemd", "kubernetes"])
def test_where_a_file_holds_the_secret_each_names_it_and_has_no_secret(kind: str) -> None:
    text = instructions(replace(START, secret="", secret_file="./a secret"))[kind]
    subprocess.run(["sh", "-n", "-c", text], check=True, timeout=10)
    assert text.count("'./a secret'") == 1
    assert "END_OF_SECRET" not in text
    assert "stringData" not in text


@pytest.mark.parametrize("kind", ["shell", "container", "systemd"])
def test_a_connector_presents_the_service_at_its_port(kind: str) -> None:
    start = replace(START, port=15432)
    text = instructions(start)[kind]
    subprocess.run(["sh", "-n", "-c", text], check=True, timeout=10)
    assert text.count(SECRET) == 1
    assert "datumctl connect databases/db.main --local 15432 " in text
    assert "datumctl serve" not in text
    assert ("--network host " in text) == (kind == "container")
    assert start.unit != START.unit, "an agent of the same service may be on this machine"


@pytest.mark.parametrize("kind", ["container", "kubernetes"])
def test_the_usual_image_is_said_to_be_of_ones_own_making(kind: str) -> None:
    assert "deploy/Containerfile" in instructions(replace(START, image=IMAGE))[kind]
    assert "deploy/Containerfile" not in instructions(START)[kind]
    assert (Path(__file__).parents[3] / "deploy" / "Containerfile").is_file()


def test_the_file_that_output_goes_to_is_known_by_its_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret"
    with file.open("w") as written:
        descriptor = Path(f"/proc/self/fd/{written.fileno()}")
        assert secret_file(descriptor) == str(file)
        monkeypatch.chdir(tmp_path)
        assert secret_file(descriptor) == "./secret"
    assert secret_file(Path("/dev/null")) == "FILE"
    assert secret_file(tmp_path / "nothing here") == "FILE"


def test_the_manifest_is_what_it_says() -> None:
    text = instructions(START)["kubernetes"]
    body = text.split("<<'END_OF_MANIFEST'\n")[1].removesuffix("END_OF_MANIFEST\n")
    secret, workload = yaml.safe_load_all(body)
    assert secret["stringData"] == {"secret": SECRET}
    spec: dict[str, Any] = workload["spec"]
    assert (workload["kind"], spec["replicas"]) == ("StatefulSet", 3)
    pod = spec["template"]["spec"]
    assert pod["volumes"][0]["secret"] == {"secretName": secret["metadata"]["name"], "optional": True}
    (container,) = pod["containers"]
    assert container["image"] == START.image
    assert container["command"][:4] == ["datumctl", "serve", "--service", "databases/db.main"]


def test_names_of_units_are_labels_however_long_the_service_is_called() -> None:
    long = Start("p" * 63, "s.t-" * 40, SECRET)
    assert len(long.unit) <= NAME_MAX
    assert "." not in long.unit
    assert not long.unit.endswith("-")


@pytest.mark.parametrize(
    ("written", "given", "wanted"),
    [("db", None, ("here", "db")), ("db", "there", ("there", "db")), ("there/db", None, ("there", "db"))],
)
def test_a_name_says_its_project_or_the_context_does(written: str, given: str | None, wanted: tuple[str, str]) -> None:
    assert in_project(written, given, "here") == wanted


@pytest.mark.parametrize(
    ("written", "given"), [("a/b/c", None), ("/db", None), ("a/", None), ("a/db", "b"), ("", None)]
)
def test_what_names_no_one_thing_is_refused(written: str, given: str | None) -> None:
    with pytest.raises(Misused, match="DRTP-7002"):
        in_project(written, given, "here")
