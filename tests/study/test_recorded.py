"""A trial is repeated by the rules that it ran with, also where its config does not say them."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from hpo.keys import PROVENANCE
from hpo.launchers import Mount, Slot
from hpo.launchers.base import LaunchSettings
from hpo.launchers.local import LocalLauncher
from hpo.objective import DEFAULT
from hpo.study import retrain
from hpo.study.recorded import placed_config
from trainer.keypath import get_path


@pytest.fixture
def mounts(tmp_path: Path) -> tuple[Mount, Mount]:
    (tmp_path / "network.json").write_text("{}")
    return Mount(name="data", path=tmp_path), Mount(name="inputs", path=tmp_path)


def provenance_of(fingerprint: str = "0" * 20, **config: object) -> dict[str, Any]:
    return {
        "config": config,
        "data": {"hash": fingerprint, "train": ["i", "t"], "test": ["i", "t"]},
        "network": "network.json",
    }


@pytest.mark.parametrize(
    ("fingerprint", "counts_background"),
    [("0" * 16, False), ("0" * 20, True)],
    ids=["earlier release", "engine that does not know the keys"],
)
def test_rules_that_a_config_does_not_say_are_those_of_its_time(
    mounts: tuple[Mount, Mount], fingerprint: str, counts_background: bool
) -> None:
    provenance = provenance_of(fingerprint)
    launcher = LocalLauncher(LaunchSettings(mounts=mounts, warm=False))
    for said in ({}, {"metrics": {"include_background": not counts_background}}):
        placed = placed_config(said, provenance, mounts, launcher)
        assert get_path(placed, "data.mask_resize") == "opencv"
        is_said = get_path(said, "metrics.include_background")
        expected = counts_background if is_said is None else is_said
        assert get_path(placed, "metrics.include_background") is expected


@pytest.mark.parametrize("said", [None, "clockwise"])
def test_a_trial_of_the_time_before_turns_images_as_it_did(
    mounts: tuple[Mount, Mount], said: str | None
) -> None:
    launcher = LocalLauncher(LaunchSettings(mounts=mounts, warm=False))
    data: dict[str, Any] = {"transforms": [{"resize": [32, 32]}, {"rotate": 25}]}
    if said:
        data["rotate_direction"] = said
    placed = placed_config({"data": data}, provenance_of("0" * 20), mounts, launcher)
    assert get_path(placed, "data.rotate_direction") == (said or "counterclockwise")


@pytest.mark.parametrize("recorded", [{"resume_when_done": False}, {}])
def test_training_that_is_done_is_not_done_again_if_its_test_is_interrupted(
    mounts: tuple[Mount, Mount],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorded: dict[str, bool],
) -> None:
    configs: list[dict[str, Any]] = []
    monkeypatch.setattr(retrain, "run_config", lambda *arguments: configs.append(arguments[3]))
    launcher = LocalLauncher(
        LaunchSettings(mounts=mounts, worker=("true",), plain=True, warm=False)
    )
    provenance = provenance_of(checkpoints={"resume": True, **recorded})
    run = retrain.Run(SimpleNamespace(user_attrs={PROVENANCE: provenance}), 1, tmp_path / "run")
    place = SimpleNamespace(launcher=launcher, mounts=mounts, objective=DEFAULT)
    assert retrain.retrain(run, place, Slot(index=0), Event()) is None
    kept = dict.fromkeys(recorded, True)
    assert configs[0]["checkpoints"] == {"resume": True, "keep": "best", **kept}
