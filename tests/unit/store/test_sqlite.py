"""What only a store on disk must do: survive, refuse, copy."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from drtp.api.meta import Key
from drtp.kit.clock import FakeClock, SystemClock
from drtp.kit.errors import Retryable, Terminal
from drtp.store import database
from drtp.store.incarnation import next_incarnation
from drtp.store.protocol import NotFound, merged
from drtp.store.sqlite import FILE, SqliteStore

KIND = "ConfigMap"


def config(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": KIND, "metadata": {"name": name, "namespace": "joe"}, **more}


async def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "data")
    kept = await store.create(config("kept", data={"a": "b"}))
    gone = await store.create(config("gone"))
    await store.delete(gone.key)
    revision = store.revision
    await store.close()
    store = await SqliteStore.open(tmp_path / "data")
    assert (await store.get(kept.key)).raw == kept.raw
    with pytest.raises(NotFound):
        await store.get(gone.key)
    assert store.revision == revision
    assert (await store.create(config("next"))).revision == revision + 1
    assert await store.integrity_check() == ()
    await store.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from drtp.store.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open(Path(sys.argv[1]))
    async def write(lane):
        number = 0
        while True:
            name = f"w-{lane}-{number}"
            metadata = {"name": name, "namespace": "joe"}
            await store.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
            sys.stdout.write(name + "\\n")
            sys.stdout.flush()
            number += 1
    async with asyncio.TaskGroup() as group:
        for lane in range(8):
            group.create_task(write(lane))

asyncio.run(main())
"""


async def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    data = tmp_path / "data"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(data), stdout=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONPATH": "src"}
    )
    assert child.stdout is not None
    acknowledged: list[str] = []
    async with asyncio.timeout(60):
        while len(acknowledged) < 300:
            acknowledged.append((await child.stdout.readline()).decode().strip())
        child.send_signal(signal.SIGKILL)
        rest = (await child.stdout.read()).decode()
        await child.wait()
    # The last line may be cut by the kill: it was not read whole, so nobody was told.
    acknowledged += [line for line in rest.split("\n")[:-1] if line]
    store = await SqliteStore.open(data)
    held = {stored.key.name for stored in (await store.list(KIND)).items}
    assert set(acknowledged) <= held
    assert await store.integrity_check() == ()
    await store.close()


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "data")
    with pytest.raises(Terminal, match="DRTP-1007"):
        await SqliteStore.open(tmp_path / "data")
    await store.close()
    again = await SqliteStore.open(tmp_path / "data")
    await again.close()


async def test_modes_are_private_and_looser_ones_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    store = await SqliteStore.open(data)
    await store.create(config("web"))
    assert data.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in data.iterdir()} == {0o600}
    await store.close()
    data.chmod(0o755)
    with pytest.raises(Terminal, match="DRTP-7001"):
        await SqliteStore.open(data)


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path)
    await store.close()
    with apsw.Connection(str(tmp_path / FILE)) as connection:
        connection.execute(f"PRAGMA user_version={database.SCHEMA + 1}")
    with pytest.raises(Terminal, match="DRTP-1009"):
        await SqliteStore.open(tmp_path)


async def test_another_programs_file_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / FILE
    path.write_bytes(b"this is no database, but it is long enough to look at" * 20)
    path.chmod(0o600)
    with pytest.raises(Terminal, match="DRTP-1008"):
        await SqliteStore.open(tmp_path)
    path.unlink()
    with apsw.Connection(str(path)) as connection:
        connection.execute("PRAGMA user_version=1")
    path.chmod(0o600)
    with pytest.raises(Terminal, match="DRTP-1008"):
        await SqliteStore.open(tmp_path)


async def test_a_migration_copies_first_and_keeps_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SqliteStore.open(tmp_path)
    kept = await store.create(config("kept"))
    await store.close()

    def next_step(connection: apsw.Connection) -> None:
        connection.execute("CREATE TABLE later (x)")

    monkeypatch.setattr(database, "_MIGRATIONS", (*database._MIGRATIONS, next_step))
    monkeypatch.setattr(database, "SCHEMA", database.SCHEMA + 1)
    store = await SqliteStore.open(tmp_path)
    assert (await store.get(kept.key)).raw == kept.raw
    await store.close()
    copy = apsw.Connection(str(tmp_path / f"{FILE}.schema-1.bak"), flags=apsw.SQLITE_OPEN_READONLY)
    assert copy.execute("SELECT count(*) FROM objects").get == 1
    assert copy.execute("PRAGMA user_version").get == 1
    copy.close()


async def test_a_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SqliteStore.open(tmp_path)
    kept = await store.create(config("kept"))
    await store.close()

    def broken(connection: apsw.Connection) -> None:
        connection.execute("DELETE FROM objects")
        connection.execute("this is no SQL")

    with monkeypatch.context() as patch:
        patch.setattr(database, "_MIGRATIONS", (*database._MIGRATIONS, broken))
        patch.setattr(database, "SCHEMA", database.SCHEMA + 1)
        with pytest.raises(Terminal, match="DRTP-1008"):
            await SqliteStore.open(tmp_path)
    store = await SqliteStore.open(tmp_path)
    assert (await store.get(kept.key)).raw == kept.raw
    await store.close()


MIGRATION = """
import os, signal, sys
from pathlib import Path
from drtp.store import database

def killed_half_way(connection):
    connection.execute("UPDATE objects SET raw = CAST('{}' AS BLOB)")
    connection.execute("CREATE TABLE later (x)")
    os.kill(os.getpid(), signal.SIGKILL)

database._MIGRATIONS = (*database._MIGRATIONS, killed_half_way)
database.SCHEMA += 1
database.connect(Path(sys.argv[1]))
"""


async def test_a_migration_that_was_killed_half_way_changes_nothing(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path)
    kept = [await store.create(config(f"kept-{number}", data={"a": "b" * 2000})) for number in range(200)]
    await store.close()
    for _ in range(2):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MIGRATION, str(tmp_path / FILE), env=os.environ | {"PYTHONPATH": "src"}
        )
        assert await child.wait() == -signal.SIGKILL
        assert (tmp_path / f"{FILE}.schema-1.bak").exists()
        # The version before goes on with it, and so does the next attempt.
        store = await SqliteStore.open(tmp_path)
        assert await store.integrity_check() == ()
        assert [(await store.get(one.key)).raw for one in kept] == [one.raw for one in kept]
        await store.close()


async def test_backup_restores_what_was_and_leaps_the_revision(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "data")
    kept = await store.create(config("kept"))
    first = await next_incarnation(store, SystemClock())
    await store.backup(tmp_path / "backup.db")
    assert (tmp_path / "backup.db").stat().st_mode & 0o777 == 0o600
    await store.create(config("lost"))
    lost_revision = store.revision
    await store.close()
    database.restore(tmp_path / "backup.db", tmp_path / "data" / FILE)
    store = await SqliteStore.open(tmp_path / "data")
    assert [stored.key.name for stored in (await store.list(KIND)).items] == ["kept"]
    assert (await store.get(kept.key)).raw == kept.raw
    assert store.revision > lost_revision
    assert await next_incarnation(store, SystemClock()) > first
    await store.close()


async def test_nonsense_is_not_restored(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "data")
    kept = await store.create(config("kept"))
    await store.close()
    (tmp_path / "nonsense").write_bytes(b"nonsense" * 1000)
    for backup in (tmp_path / "nonsense", tmp_path / "missing"):
        with pytest.raises(Terminal, match="DRTP-1008"):
            database.restore(backup, tmp_path / "data" / FILE)
    store = await SqliteStore.open(tmp_path / "data")
    assert await store.get(kept.key)
    await store.close()


async def test_incarnation_grows_even_when_the_clock_goes_back(tmp_path: Path) -> None:
    clock = FakeClock()
    store = await SqliteStore.open(tmp_path)
    first = await next_incarnation(store, clock)
    assert first == int(clock.now().timestamp() * 1000)
    assert await next_incarnation(store, clock) == first + 1
    await store.close()


async def test_a_failed_write_is_nobodys_state_and_the_next_one_works(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path)
    kept = await store.create(config("web", data={"n": 0}))
    # The writer's own connection refuses everything from here on, as a full disk would.
    await store._writer.between(lambda connection: connection.set_authorizer(lambda *_: apsw.SQLITE_DENY))
    first = store.update(merged(kept.object, {"data": {"n": 1}}))
    second = store.create(config("after"))
    failed = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(error) for error in failed] == [Retryable, Retryable]
    await store._writer.between(lambda connection: connection.set_authorizer(None))
    assert (await store.get(kept.key)).object["data"] == {"n": 0}
    again = await store.update(merged(kept.object, {"data": {"n": 2}}))
    assert again.revision == kept.revision + 1
    with pytest.raises(NotFound):
        await store.get(Key(KIND, "joe", "after"))
    await store.close()
    store = await SqliteStore.open(tmp_path)
    assert json.loads((await store.get(kept.key)).raw)["data"] == {"n": 2}
    await store.close()


async def test_many_writers_share_one_sync(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path)
    commits = 0

    def count(connection: apsw.Connection) -> None:
        def one() -> bool:
            nonlocal commits
            commits += 1
            return False

        connection.set_commit_hook(one)

    await store._writer.between(count)
    await asyncio.gather(*(store.create(config(f"web-{number}")) for number in range(400)))
    assert commits < 40
    await store.close()
