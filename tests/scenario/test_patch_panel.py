"""Joe and his partner: from the catalogue to a row on the partner's own machine, and back when Joe says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scenario.bed import BIN, Bed, Program, eventually, require
from scenario.test_postgres import postgres

__all__ = ["postgres"]
"""A fixture that this file shares."""

CUT_WITHIN_S = 2.0
PUBLICATION: dict[str, Any] = {
    "apiVersion": "datumapis.com/v1alpha",
    "kind": "DRTPPublication",
    "metadata": {"name": "orders"},
    "spec": {"serviceRef": {"name": "orders"}, "title": "Orders", "visibility": "Everyone"},
}


@dataclass
class Person:
    """Somebody with a context of their own project."""

    bed: Bed
    context: Path

    @property
    def who(self) -> tuple[str, ...]:
        return ("--context", str(self.context))

    def datumctl(self, *argv: str, exit_status: int = 0, stdin: str = "") -> str:
        argv = (str(BIN / "datumctl"), *self.who, *argv)
        done = subprocess.run(
            argv, capture_output=True, text=True, env=self.bed.env, input=stdin, timeout=60, check=False
        )
        assert done.returncode == exit_status, f"{' '.join(argv)}\n{done.stdout}\n{done.stderr}"
        return done.stderr if exit_status else done.stdout

    def run(self, *argv: str) -> tuple[Program, dict[str, Any]]:
        """A program of theirs, ready."""
        program = Program([BIN / "datumctl", *self.who, *argv, "--output", "json"], self.bed.env)
        self.bed.programs.append(program)
        return program, program.event("ready", 30)


def _person(bed: Bed, folder: Path, name: str, project: str, organization: str) -> Person:
    operator, context = ("--context", bed.ready["kubeconfig"]), folder / f"{name}.json"
    bed.datumctl(*operator, "create", "project", project, "--organization", organization)
    bed.datumctl(*operator, "create", "user", name, "--project", project, "--context-file", str(context))
    return Person(bed, context)


def _psql(port: int, sql: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [require("psql"), "-h", "127.0.0.1", "-p", str(port), "-U", "joe", "-d", "postgres", "-tA", "-c", sql],
        env={**os.environ, "PGPASSWORD": "secret", "PGCONNECT_TIMEOUT": "10"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.timeout(150)
def test_a_partner_reads_a_row_after_joes_one_yes_and_is_cut_when_he_takes_it_back(
    bed: Bed, postgres: int, tmp_path: Path
) -> None:
    joe = _person(bed, tmp_path, "pp-joe", "pp-docks", "pp-freight")
    partner = _person(bed, tmp_path, "pp-pat", "pp-desk", "pp-figures")
    try:
        serving, _ = joe.run("serve", f"tcp://localhost:{postgres}", "--name", "orders", "--no-expose")
        joe.datumctl("apply", "-f", "-", stdin=json.dumps(PUBLICATION))
        connect = ("connect", "pp-docks/orders", "--local", "0")
        partner.datumctl("catalog", "subscribe", "pp-docks/orders", "--purpose", "monthly figures")
        assert "DRTP-4060" in partner.datumctl(*connect, "--once", exit_status=77)

        joe.datumctl("catalog", "approve", "orders", "pp-desk")
        panel, ready = partner.run(*connect)
        assert ready["encrypted"] is True
        port = int(ready["local"].rpartition(":")[2])
        row, _ = _psql(port, "select 'for the partner'").communicate(timeout=30)
        assert row.strip() == "for the partner"

        asleep = _psql(port, "select pg_sleep(60)")
        sleepers = "from pg_stat_activity where query like '%pg_sleep(60)%' and pid <> pg_backend_pid()"
        while _psql(port, f"select count(*) {sleepers}").communicate(timeout=30)[0].strip() != "1":
            assert asleep.poll() is None
        joe.datumctl("catalog", "revoke", "orders", "pp-desk", "--reason", "contract ended")
        began = time.monotonic()
        _, said = asleep.communicate(timeout=30)
        print(f"revoked: the live session ended after {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began <= CUT_WITHIN_S
        assert asleep.returncode != 0, said
        assert eventually(lambda: "DRTP-4060" in panel.story(), 10), "the partner is told why"
        assert panel.stop(signal.SIGINT) == 0
        # A server that sleeps does not look whether its client is there.
        _psql(postgres, f"select pg_terminate_backend(pid) {sleepers}").communicate(timeout=30)
        assert "contract ended" in partner.datumctl("catalog", "show", "pp-docks/orders")
        assert serving.stop(signal.SIGINT) == 0
    finally:
        bed.kubectl("delete", "namespace", "pp-docks", "pp-desk")
