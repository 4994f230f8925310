"""A trial is repeated by the rules that it ran with, also where its config does not say them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.launchers import Mount
from hpo.launchers.base import LaunchSettings
from hpo.launchers.local import LocalLauncher
from hpo.study.recorded import placed_config
from trainer.keypath import get_path


@pytest.mark.parametrize(
    ("fingerprint", "counts_background"),
    [("0" * 16, False), ("0" * 20, True)],
    ids=["earlier release", "engine that does not know the keys"],
)
def test_rules_that_a_config_does_not_say_are_those_of_its_time(
    tmp_path: Path, fingerprint: str, counts_background: bool
) -> None:
    (tmp_path / "network.json").write_text("{}")
    mounts = (Mount(name="data", path=tmp_path), Mount(name="inputs", path=tmp_path))
    provenance = {
        "data": {"hash": fingerprint, "train": ["i", "t"], "test": ["i", "t"]},
        "network": "network.json",
    }
    launcher = LocalLauncher(LaunchSettings(mounts=mounts))
    for said in ({}, {"metrics": {"include_background": not counts_background}}):
        placed = placed_config(said, provenance, mounts, launcher)
        assert get_path(placed, "data.mask_resize") == "opencv"
        is_said = get_path(said, "metrics.include_background")
        expected = counts_background if is_said is None else is_said
        assert get_path(placed, "metrics.include_background") is expected
