"""What is recorded of a run fits any database."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any, cast

from hpo.launchers import Launcher, Slot
from hpo.results.provenance import config_hash, describe_run

MARIADB_TEXT_BYTES = 65_535


SLOT = Slot(index=0, gpu_uuids=("GPU-1",), num_threads=2)


class NoWorker:
    """As much of a launcher as is recorded."""

    image_id = "sha256:1234"

    def describe(self) -> str:
        return "containers"


def described(config: dict[str, Any]) -> dict[str, Any]:
    return describe_run(
        config=config, network_file="layers_1.json", run_dir=Path("/runs/1"), attempt=2,
        launcher=cast(Launcher, NoWorker()), slot=SLOT, data={"hash": "d"},
    )  # fmt: skip


def test_an_ordinary_config_is_recorded_as_it_is() -> None:
    config = {"seed": 7, "layers": "unet", "optimizer": {"type": "Adam"}}
    entry = described(config)
    assert entry["config"] == config
    assert (entry["seed"], entry["attempt"], entry["image"]) == (7, 2, "sha256:1234")
    assert entry["gpus"][0]["uuid"] == "GPU-1"
    assert platform.machine() in entry["cpu"]["name"]
    assert entry["cpu"]["threads"] == 2
    assert "is_shortened" not in entry


def test_a_long_config_leaves_its_largest_section_by_hash() -> None:
    config = {"layers": [{"name": f"layer {n}"} for n in range(20_000)], "loss": {"a": 1}}
    entry = described(config)
    assert len(json.dumps(entry)) < MARIADB_TEXT_BYTES
    assert entry["config"]["loss"] == {"a": 1}
    assert set(entry["config"]["layers"]) == {"sha256"}
    assert entry["is_shortened"]
    assert entry["config_hash"] == config_hash(config)
