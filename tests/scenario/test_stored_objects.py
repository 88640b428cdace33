"""What controllers and edges write satisfies the schemas that a Kubernetes API server would hold it against."""

from __future__ import annotations

import copy
import json

import pytest

from drtp.api.admission import admit, tidy
from drtp.api.kinds import KindInfo
from drtp.api.registry import REGISTRY
from scenario.bed import Bed

WRITTEN = [
    info for info in REGISTRY if not info.internal and (info.status_subresource or info.kind in {"Event", "Lease"})
]


@pytest.mark.parametrize("info", WRITTEN, ids=lambda info: info.key)
def test_stored_objects_satisfy_their_schema(bed: Bed, info: KindInfo) -> None:
    resource = f"{info.plural}.{info.group}" if info.group else info.plural
    for obj in json.loads(bed.kubectl("get", resource, "--all-namespaces", "-o", "json"))["items"]:
        assert tidy(info, copy.deepcopy(obj)) == []
        admit(info, obj)


def test_services_tell_their_story_in_columns(bed: Bed) -> None:
    lines = bed.kubectl("get", "drtpservices", "--all-namespaces").splitlines()
    assert lines[0].split() == ["NAMESPACE", "NAME", "PROTOCOL", "LOCAL", "ADDRESS", "READY", "AGE"]
    for line in lines[1:]:
        assert ":" in line.split()[3]
