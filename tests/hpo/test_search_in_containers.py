"""A search whose workers are containers of the image that our Dockerfile builds."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from plugin_package import blocks, install, write_package
from support import Run, list_acc, one_error

pytestmark = pytest.mark.docker
SMALL = ("--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu", "--num-epochs", "2")


def leftovers(study: str) -> list[str]:
    """Return the containers of a study, running or not."""
    client = docker.from_env()
    try:
        return [
            container.name
            for container in client.containers.list(
                all=True, filters={"label": f"rml.study={study}"}
            )
        ]
    finally:
        client.close()


def test_search_in_containers(discs: Path, run: Run, tmp_path: Path, worker_image: str) -> None:
    study = f"containers-{uuid.uuid4().hex}"
    result = run(
        "rml-optimize", *SMALL, "--data", discs, "--launcher", "docker",
        "--docker-image", worker_image, "--num-trials", 3, "--study-name", study,
        "--select-on", "validation", "--set", "data.batch_size=4", "--pruner", "none",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    entries = list_acc(tmp_path)
    assert [entry["state"] for entry in entries] == ["COMPLETE"] * 3
    assert "used for this only" in result.stdout
    recorded = json.loads((tmp_path / "best_model/trial.json").read_text())
    assert recorded["dice_dataset"] == max(entry["max_acc"] for entry in entries)
    # The container's paths mean nothing here: the best model has the host's own.
    config = json.loads((tmp_path / "best_model/config.json").read_text())["neural_network"]
    assert Path(config["data"]["test_input_path"]).is_dir()
    again = run("rmldnn", "--config=best_model/config.json")
    assert again.returncode == 0, again.stderr
    accuracy = float((tmp_path / "out_test.txt").read_text().split()[-1])
    assert accuracy == pytest.approx(recorded["dice_dataset"], abs=1e-6)
    assert not leftovers(study)
    assert not list((tmp_path / "runs" / study).glob(".pool_*"))


def test_auto_takes_containers_where_the_image_is_there(
    discs: Path, run: Run, worker_image: str
) -> None:
    common = (*SMALL, "--data", discs, "--dry-run")
    found = run("rml-optimize", *common, "--docker-image", worker_image)
    assert "docker, because an engine answers and has the image" in found.stdout
    missing = run("rml-optimize", *common, "--docker-image", "nobody/nothing:1")
    assert "local, because" in missing.stdout


def test_missing_image_names_the_remedy(discs: Path, run: Run, worker_image: str) -> None:
    result = run(
        "rml-optimize", *SMALL, "--data", discs, "--launcher", "docker",
        "--docker-image", "nobody/nothing:1",
    )  # fmt: skip
    message = one_error(result)
    assert "nobody/nothing:1" in message
    assert "docker pull" in message


def write_with_plain_network(folder: Path) -> Path:
    """Write the documented package with a network that needs torch only, as the image has it."""
    write_package(folder)
    project, code = folder / "pyproject.toml", folder / "my_package.py"
    monai = 'monai-unet = "my_package:monai_unet"\n'
    text = project.read_text()
    assert monai in text
    project.write_text(text.replace(monai, f'{monai}plain = "my_package:plain"\n'))
    network = "torch.nn.Conv2d(input_shape[-1], num_outputs, size, padding='same')"
    code.write_text(
        f"{code.read_text()}\n\ndef plain(input_shape, num_outputs, size=3):\n"
        f"    import torch\n\n    return {network}\n"
    )
    return folder


@pytest.fixture
def plugin_image(worker_image: str, tmp_path: Path) -> Iterator[str]:
    """The worker's image with the documented package in it, built as documented."""
    (recipe,) = blocks("dockerfile")
    context, name = tmp_path / "context", f"rml-test/plugin:{uuid.uuid4().hex}"
    write_with_plain_network(context / "my_package")
    first, rest = recipe.split("\n", 1)
    assert first.startswith("FROM rml-optimize/rmldnn:")
    (context / "Dockerfile").write_text(f"FROM {worker_image}\n{rest}")
    command = (os.environ.get("DOCKER", "docker"), "build", "--network", "none", "-t", name)
    built = subprocess.run([*command, str(context)], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    yield name
    client = docker.from_env()
    client.images.remove(name, force=True)
    client.close()


def test_own_loss_and_metric_are_used_in_containers(
    discs: Path, run: Run, tmp_path: Path, worker_image: str, plugin_image: str
) -> None:
    install(write_package(tmp_path / "my_package"), tmp_path / "site")
    command = (
        "rml-optimize", *SMALL, "--data", discs, "--launcher", "docker", "--num-trials", 1,
        "--loss", "digits_dice", "--set", 'metrics.plugins=["digits_dice"]', "--pruner", "none",
    )  # fmt: skip
    site = str(tmp_path / "site")
    result = run(
        *command, "--docker-image", worker_image, "--output-dir", "without", PYTHONPATH=site
    )
    assert "unknown name 'digits_dice'" in one_error(result)
    result = run(*command, "--docker-image", plugin_image, "--output-dir", "own", PYTHONPATH=site)
    assert result.returncode == 0, result.stdout + result.stderr
    (metrics,) = (tmp_path / "own/runs").glob("*/trial_00000/attempt_1/metrics.jsonl")
    last = json.loads(metrics.read_text().splitlines()[-1])
    # the documented Dice is the per-image Dice of the foreground, which the worker computes too
    assert last["plugins"]["digits_dice"] == pytest.approx(last["dice_per_image"])


def test_own_network_is_trained_in_containers(
    discs: Path, run: Run, tmp_path: Path, worker_image: str, plugin_image: str
) -> None:
    install(write_with_plain_network(tmp_path / "my_package"), tmp_path / "site")
    site = str(tmp_path / "site")
    command = (
        "rml-optimize", "--data", discs, "--launcher", "docker", "--num-trials", 1, "--no-gpu",
        "--layers", "plain:size=5", "--resize", "32,32", "--num-epochs", 2,
    )  # fmt: skip
    result = run(
        *command, "--docker-image", worker_image, "--output-dir", "without", PYTHONPATH=site
    )
    error = one_error(result)
    assert "this worker does not have the plug-in 'plain' (rml_optimize.networks)" in error
    assert "in its image for containers" in error
    result = run(*command, "--docker-image", plugin_image, "--output-dir", "own", PYTHONPATH=site)
    assert result.returncode == 0, result.stdout + result.stderr
    stored = json.loads((tmp_path / "own/best_model/layers.json").read_text())
    assert (stored["network_plugin"], stored["options"]) == ("plain", {"size": 5})
