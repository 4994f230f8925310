"""An image that honours the contract and knows nothing of ours, in a whole search."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

import pytest
from docker_engine import import_tiny_image, unpack_tiny_root
from support import Run, list_acc

CONTRACT = {"outfile", "num_epochs", "layers", "checkpoints", "data", "optimizer", "loss"}
# A shell script that "trains" three epochs, the second of them best, and fails at any question.
WORKER = """\
#!/bin/sh
[ "$#:$1" = 1:--config=config.json ] || { echo "rmldnn: what is $*?" >&2; exit 1; }
grep -q '"num_epochs": 3' config.json || exit 2
grep '^CapBnd' /proc/self/status > capabilities
mkdir temp_model || exit 1
for line in "1 0.9 0.31" "2 0.5 0.72" "3 0.4 0.55"; do
    epoch=${line%% *}
    echo "weights of epoch $epoch" > temp_model/model_checkpoint_$epoch.pt
    echo "$line" >> out_test.txt
done
echo "All done (return value = 0)."
"""
SMALL = ("--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu", "--num-epochs", "3")


@pytest.mark.parametrize("kind", [pytest.param("docker", marks=pytest.mark.docker), "singularity"])
def test_search_with_an_image_that_knows_the_contract_only(
    kind: str, discs: Path, run: Run, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment = {}
    if kind == "docker":
        client = request.getfixturevalue("docker_client")
        image = f"rml-test/contract:{uuid.uuid4().hex[:8]}"
        import_tiny_image(client, image, worker=WORKER)
        request.addfinalizer(lambda: client.images.remove(image, force=True))
        options = ["--launcher", "docker", "--docker-image", image, "--docker-cap-add"]
        options.append("SYS_PTRACE")
    else:
        request.getfixturevalue("sandbox_image")  # skips where there are no namespaces
        unpack_tiny_root(tmp_path / "image", worker=WORKER)
        programs = request.getfixturevalue("apptainer")
        environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
        options = ["--singularity-image", str(tmp_path / "image")]
    result = run(
        "rml-optimize", *SMALL, "--data", discs, "--num-trials", 2, "--study-name", "s",
        "--set", "precision=fp32", *options, **environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    said = " ".join((result.stdout + result.stderr).split())
    assert "precision: this worker does not know it and does not get it" in said
    assert [(e["max_acc"], e["epoch_max_acc"], e["epochs"]) for e in list_acc(tmp_path)] == [
        (0.72, 2, 3)
    ] * 2
    assert (tmp_path / "best_model/best_model_file.pt").read_text() == "weights of epoch 2\n"
    folder = tmp_path / "runs/s/trial_00000/attempt_1"
    config = json.loads((folder / "config.json").read_text())["neural_network"]
    assert set(config) <= CONTRACT
    assert "keep" not in config["checkpoints"]
    capabilities = int((folder / "capabilities").read_text().split()[1], 16)
    assert capabilities == (1 << 19 if kind == "docker" else 0)  # CAP_SYS_PTRACE
