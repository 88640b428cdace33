"""A secret that is kept goes when it is worth nothing; agents are counted by quotas as everything else is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from drtp.api.feed import EdgeRole
from drtp.api.internal import Bound
from drtp.api.meta import Key
from drtp.client.enrolment import enrol
from drtp.issuers.digests import Pepper
from drtp.issuers.secrets import KEPT_ANNOTATION, EnrolmentSecrets, Minted
from drtp.kit.clock import FakeClock
from drtp.kit.errors import Refused
from unit.edgeserver.edgebed import AGENT, edge_bed


async def test_a_kept_secret_goes_with_its_last_use_and_with_its_end(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        service = await bed.store.get(Key("DRTPService.datumapis.com", "joe", "postgres"))
        bound = Bound(kind=service.key.kind, name="postgres", namespace="joe", uid=service.uid)

        def keep(name: str) -> Callable[[Minted], dict[str, Any]]:
            def made(minted: Minted) -> dict[str, Any]:
                annotations = {KEPT_ANNOTATION: minted.id}
                metadata = {"name": name, "namespace": "joe", "annotations": annotations}
                return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}

            return made

        async def there(name: str) -> bool:
            return any(one.key.name == name for one in (await bed.store.list("Secret")).items)

        twice = await bed.secrets.mint(EdgeRole.AGENT, bound, uses_max=2, keep=keep("twice"))
        for number, left in ((1, True), (2, False)):
            await enrol(bed.address, bed.identities(f"agent-{number}"), AGENT, secret=twice.secret)
            assert await there("twice") is left
        await bed.secrets.mint(EdgeRole.AGENT, bound, lifetime_s=60, keep=keep("unused"))
        await bed.secrets.collect()
        assert await there("unused")
        later = EnrolmentSecrets(bed.store, Pepper(b"p"), bed.audit, FakeClock(bed.clock.now() + timedelta(minutes=2)))
        await later.collect()
        assert not await there("unused")
        await bed.store.create(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "unused", "namespace": "joe"}}
        )
        await later.collect()
        assert await there("unused")


async def test_whoever_holds_a_good_secret_is_told_that_the_quota_is_used_up(tmp_path: Path):
    async with edge_bed(tmp_path) as bed:
        hard = {"count/drtpconnections.datumapis.com": 1}
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "joe"}}
        await bed.store.create({**quota, "spec": {"hard": hard}})
        secret = await bed.secret(EdgeRole.AGENT, "postgres", uses_max=2)
        await enrol(bed.address, bed.identities("first"), AGENT, secret=secret)
        with pytest.raises(Refused) as refused:
            await enrol(bed.address, bed.identities("second"), AGENT, secret=secret)
        assert refused.value.code == "DRTP-2024"
        await bed.store.delete(Key("ResourceQuota", "joe", "q"))
        await enrol(bed.address, bed.identities("second"), AGENT, secret=secret)
