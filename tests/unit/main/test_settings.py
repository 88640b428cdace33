"""What an operator's choices come to from one start to the next."""

from __future__ import annotations

from pathlib import Path

from drtp.api.drtp import EndpointMode
from drtp.main.settings import ControlPlaneSettings, settle


def test_the_way_to_pops_is_kept_until_it_is_chosen_again(tmp_path: Path) -> None:
    def started(chosen: EndpointMode | None) -> EndpointMode | None:
        return settle(ControlPlaneSettings(directory=tmp_path, endpoint_mode=chosen)).endpoint_mode

    assert started(None) is EndpointMode.MTLS
    assert started(EndpointMode.UNIX) is EndpointMode.UNIX
    assert started(None) is EndpointMode.UNIX
    assert started(EndpointMode.MTLS) is EndpointMode.MTLS
