"""What cannot be read is named to its owner and counted for the operator; what a secret holds is told to nobody."""

from __future__ import annotations

from drtp.api.core import Event, Secret
from drtp.api.drtp import DRTPService
from drtp.api.feed import Applied
from drtp.api.snapshots import Generation
from drtp.kit.observe import REGISTRY
from tower import Tower, service


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def warnings(tower: Tower, name: str) -> dict[str, str]:
    found = [one for one in tower.view.list(Event, "joe") if one.involved_object.name == name]
    return {str(one.reason): str(one.message) for one in found if one.type == "Warning"}


async def test_an_object_that_cannot_be_read_is_named_and_counted_until_it_can() -> None:
    async with Tower().running() as tower:
        before = counted("drtp_view_objects_quarantined", kind="DRTPService.datumapis.com")
        await tower.apply(service("bad", protocol="PIGEON"))
        assert warnings(tower, "bad") == {
            "Unreadable": "The object cannot be read and is left out: "
            "Invalid enum value 'PIGEON' - at `$.spec.protocol` (DRTP-6014)."
        }
        assert counted("drtp_view_objects_quarantined", kind="DRTPService.datumapis.com") == before + 1
        await tower.patch(DRTPService, "joe", "bad", {"spec": {"protocol": "HTTP"}})
        assert tower.get(DRTPService, "joe", "bad")
        assert counted("drtp_view_objects_quarantined", kind="DRTPService.datumapis.com") == before


async def test_of_a_secret_that_cannot_be_read_only_the_place_is_told() -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "joe"}, "type": "Opaque"}
    async with Tower().running() as tower:
        await tower.apply({**body, "data": {"hunter2": ["hunter2"]}})
        assert tower.view.get(Secret, "joe", "s") is None
        said = warnings(tower, "s")["Unreadable"]
        assert (
            said
            == "The object cannot be read and is left out: something is wrong with it - at `$.data[...]` (DRTP-6014)."
        )
        assert "hunter2" not in str(tower.view.quarantined)


async def test_an_entry_that_an_edge_leaves_out_is_told_of_at_its_object() -> None:
    async with Tower().running() as tower:
        await tower.gateway()
        uid = (await tower.apply(service())).uid
        before = counted("drtp_edge_entries_quarantined", role="gateway")
        refused = {f"backend/{uid}": "no\nsuch thing", "http/127.0.0.1/8080/other.example": "another's"}
        tower.observed.take_applied(
            "gw-1", Applied(generation=Generation(1, 1), quarantined=refused), tower.clock.now()
        )
        await tower.settle()
        said = warnings(tower, "web")
        assert list(said) == ["LeftOut"]
        assert said["LeftOut"].startswith("gateway gw-1 leaves out what it is told of it: no")
        assert "another's" not in str(said)
        assert counted("drtp_edge_entries_quarantined", role="gateway") == before + 2
        tower.observed.take_applied("gw-1", Applied(generation=Generation(1, 2)), tower.clock.now())
        assert counted("drtp_edge_entries_quarantined", role="gateway") == before
