"""`apply` does what kubectl's client-side apply does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drtp.main.datum.manifests import LAST_APPLIED, apply_patch, read_manifests, with_last_applied
from drtp.main.shell import Misconfigured


def service(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "datumapis.com/v1alpha", "kind": "DRTPService", "metadata": {"name": "web"}, "spec": spec}


def test_the_same_manifest_again_is_no_change() -> None:
    assert apply_patch(with_last_applied(service(port=1)), service(port=1)) == {}


def test_a_member_left_out_is_removed_and_one_set_by_others_stays() -> None:
    present = with_last_applied(service(port=1, list=["a"]))
    present["spec"]["enabled"] = False
    patch = apply_patch(present, service(port=2))
    assert patch["spec"] == {"port": 2, "list": None}
    assert LAST_APPLIED in patch["metadata"]["annotations"]


def test_lists_are_unfolded_and_every_document_is_read(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: a}}\n---\n"
        "apiVersion: v1\nkind: Secret\nmetadata: {name: b}\n---\n"
    )
    assert [one["metadata"]["name"] for one in read_manifests(str(file))] == ["a", "b"]


@pytest.mark.parametrize("text", ["", "a: [", "kind: X", "- 1", "{apiVersion: v1, kind: Secret, metadata: {}}"])
def test_an_unreadable_manifest_names_the_fault(tmp_path: Path, text: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(Misconfigured) as refused:
        read_manifests(str(file))
    assert refused.value.code == "DRTP-7013"


def test_annotations_that_kubectl_remembers_as_none_do_not_hide_the_memory() -> None:
    before = {"kind": "K", "metadata": {"name": "a", "annotations": {}}, "spec": {}}
    wanted = {"kind": "K", "metadata": {"name": "a"}, "spec": {}}
    present = with_last_applied(before)
    assert LAST_APPLIED in apply_patch(present, wanted)["metadata"]["annotations"]
