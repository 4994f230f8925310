"""Training with several processes: the same numbers as with one, and a common end."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from arrays import balls, conv, keras_file, section
from support import BIN, clean_environment, data_section, require

from trainer.commands.run import run
from trainer.compute.launch import Launch, find_launch
from trainer.compute.parallel import World
from trainer.config import load_config
from trainer.errors import ConfigError
from trainer.log import Log

WORKER = (sys.executable, "-m", "trainer.cli", "--config=config.json")
LEAVING = Path(__file__).parents[1] / "workers/leaving.py"
SHORT_OF_MEMORY = Path(__file__).parents[1] / "workers/short_of_memory.py"
TIMEOUT_S = 120
# No BatchNorm, and with BCE a mean over pixels: what data-parallel training computes exactly.
PLAIN = [
    {
        "class_name": "Conv2D",
        "config": {"name": f"conv{i}", "filters": filters, "kernel_size": [3, 3]}
        | {"padding": "same", "activation": activation, "batch_input_shape": [None, 32, 32, 1]},
    }
    for i, (filters, activation) in enumerate([(4, "relu"), (1, "sigmoid")], 1)
]


def prepare(folder: Path, discs: Path, **changes: object) -> Path:
    """Write a config of 12 images in batches of 5, 5 and 2, of 5 test images, with predictions."""
    folder.mkdir(parents=True)
    network = {"class_name": "Sequential", "config": {"name": "plain", "layers": PLAIN}}
    (folder / "layers.json").write_text(json.dumps(network))
    flips = [{"resize": [32, 32]}, {"random_horizontal_flip": 0.5}]
    config: dict[str, object] = {
        "outfile": "out.txt",
        "num_epochs": 2,
        "layers": "layers.json",
        "data": data_section(
            discs, batch_size=5, test_batch_size=2, transforms=flips, test_output_path="predicted"
        ),
        "optimizer": {"type": "sgd", "learning_rate": 0.5, "momentum": 0.9},
        "loss": {"function": "BCE"},
        "checkpoints": {"save": "temp_model"},
    }
    config = {key: value for key, value in (config | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps({"neural_network": config}))
    return folder


@pytest.fixture(scope="module")
def alone(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with one process."""
    folder = prepare(tmp_path_factory.mktemp("parallel") / "one process", discs)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(load_config(Path("config.json"), {}), folder, Log(io.StringIO()))
    return folder


def assert_same_results(folder: Path, alone: Path) -> None:
    name = "temp_model/model_checkpoint_2.pt"
    expected, weights = (torch.load(path / name)["state_dict"] for path in (alone, folder))
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)
    for log in ("out_train.txt", "out_test.txt"):
        expected, numbers = (
            [
                [float(word) for word in line.split()]
                for line in (path / log).read_text().splitlines()
            ]
            for path in (alone, folder)
        )
        time_column = 0 if log == "out_train.txt" else 1
        for line in (*expected, *numbers):
            line.pop(time_column)
        torch.testing.assert_close(numbers, expected, rtol=1e-5, atol=1e-5)
        if log == "out_test.txt":
            assert [line[-1] for line in numbers] == pytest.approx([line[-1] for line in expected])
    assert (folder / "per_image.csv").read_text() == (alone / "per_image.csv").read_text()
    ours, theirs = (h5py.File(path / "predicted/output_1.h5") for path in (folder, alone))
    with ours, theirs:
        assert set(ours) == set(theirs)
        assert all(abs(ours[key][()] - theirs[key][()]).max() < 1e-5 for key in ours)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert files == sorted(str(path.relative_to(alone)) for path in alone.rglob("*"))


def finish(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.parametrize(
    ("size", "shares"),
    [(2, ["12", "5 to 7", "5", "2 to 3"]), (3, ["12", "2 to 5", "5", "1 to 2"])],
)
def test_torchrun_gives_the_numbers_of_one_process(
    discs: Path, tmp_path: Path, alone: Path, size: int, shares: list[str]
) -> None:
    folder = prepare(tmp_path / "many", discs)
    result = finish(
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--local-addr=127.0.0.1", f"--nproc-per-node={size}"),
        *(LEAVING, "--config=config.json"),
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    # a group that outlives the run ends some processes by SIGABRT, after their work
    assert result.stderr.count("left: 0 threads") == size, result.stderr
    assert_same_results(folder, alone)
    assert result.stdout.count("All done (return value = 0).") == 1
    assert f"RocketML : {size} MPI processes\n" in result.stdout
    assert f"Processes: {size} (gloo)" in result.stdout
    lines = [line for line in result.stdout.splitlines() if "   Num images  (" in line]
    assert [line.rpartition(": ")[2] for line in lines] == shares


def test_process_without_memory_for_a_batch_evaluates_it_again(
    discs: Path, tmp_path: Path, alone: Path
) -> None:
    """It alone, while the others wait where they all meet."""
    folder = prepare(tmp_path / "short", discs)
    result = finish(
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--local-addr=127.0.0.1", "--nproc-per-node=2", SHORT_OF_MEMORY),
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("gave memory back") == 1
    assert_same_results(folder, alone)


def test_slices_of_a_volume_give_the_numbers_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volumes, Conv3D, predictions put together by the first process from those of both."""
    rng = np.random.default_rng(0)
    results = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        keras_file(
            folder / "layers.json", conv(3, 4), conv(3, 1, "sigmoid"), shape=(None,) * 3 + (1,)
        )
        for part in ("train", "test"):
            if not results:
                values, ball = balls(rng, (10, 9, 8))
                np.save(tmp_path / f"{part}_inputs.npy", values)
                np.save(tmp_path / f"{part}_targets.npy", ball)
        data = section(
            tmp_path, "numpy", ".npy", batch_size=3, hdf5_outfile="whole.h5",
            slicers=[{"name": "samples", "sizes": [4, 9, 8], "strides": [3, 9, 8]}],
        )  # fmt: skip
        prepare(folder / "run", tmp_path, data=data, layers="../layers.json")
        if not results:
            monkeypatch.chdir(folder / "run")
            run(load_config(Path("config.json"), {}), folder / "run", Log(io.StringIO()))
        else:
            many = ("-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1")
            command = (sys.executable, *many, "--nproc-per-node=2", *WORKER[1:])
            finished = finish(*command, cwd=folder / "run")
            assert finished.returncode == 0, finished.stderr
        with h5py.File(folder / "run/whole.h5") as file:
            assert file["samples"].shape == (10, 9, 8, 1)
            results.append(file["samples"][()])
    assert abs(results[0] - results[1]).max() < 1e-5
    logs = [(tmp_path / name / "run/per_image.csv").read_text() for name in ("one", "two")]
    assert logs[0] == logs[1]


def test_tiles_give_the_numbers_of_one_process(discs: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        prepare(folder, discs)
        config = json.loads((folder / "config.json").read_text())
        data = config["neural_network"]["data"]
        data["transforms"] = [{"resize": [80, 72]}, {"random_horizontal_flip": 0.5}]
        data["tiles"] = {"size": [32, 32], "per_image": 2}
        (folder / "config.json").write_text(json.dumps(config))
    assert finish(*WORKER, cwd=folders[0]).returncode == 0
    codes, errors = ends(start(folders[1]))
    assert codes == [0, 0], errors
    assert_same_results(folders[1], folders[0])


def test_mpirun_gives_the_numbers_of_one_process(discs: Path, tmp_path: Path, alone: Path) -> None:
    if shutil.which("mpirun") is None:
        require("mpirun", "no mpirun on the PATH")
    folder = prepare(tmp_path / "many", discs)
    result = finish(
        *("mpirun", "--oversubscribe", "--bind-to", "none", "-np", 2),
        *(BIN / "rmldnn", "--config=", "config.json"),
        cwd=folder,
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )
    assert result.returncode == 0, result.stderr
    assert_same_results(folder, alone)
    assert result.stdout.count("All done (return value = 0).") == 1


def start(folder: Path, size: int = 2) -> list[subprocess.Popen[str]]:
    """Start processes as mpirun does, but without one that ends the others."""
    environment = clean_environment() | {
        "OMPI_COMM_WORLD_SIZE": str(size),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(size),
        "PMIX_NAMESPACE": uuid.uuid4().hex,
        "TMPDIR": str(folder),
    }
    return [
        subprocess.Popen(
            WORKER,
            cwd=folder,
            env=environment
            | {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def wait_for_training(folder: Path, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    log = folder / "out_test.txt"
    while not (log.exists() and log.stat().st_size):
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ends(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Return the exit codes and all errors, once all have ended."""
    outputs = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    errors = [line for _, error in outputs for line in error.splitlines()]
    return [process.returncode for process in processes], errors


def test_divergence_ends_all_with_its_exit_code(discs: Path, tmp_path: Path) -> None:
    folder = prepare(
        tmp_path / "run",
        discs,
        optimizer={"type": "sgd", "learning_rate": 1e30},
        loss={"function": "MSE"},
    )
    codes, errors = ends(start(folder))
    assert codes == [3, 3], errors
    assert len(errors) == 1
    assert "the loss is " in errors[0]


def test_killed_process_ends_the_others(discs: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "run", discs, num_epochs=100_000, checkpoints=None)
    processes = start(folder)
    wait_for_training(folder, processes)
    processes[1].kill()
    codes, errors = ends(processes)
    assert codes == [1, -signal.SIGKILL]
    assert len(errors) == 1
    assert "process 1 of 2 has lost the others" in errors[0]
    assert not list(folder.glob("rmldnn-*")), "the file of the meeting is left"


def test_stop_ends_all(discs: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "run", discs, num_epochs=100_000, checkpoints=None)
    processes = start(folder)
    wait_for_training(folder, processes)
    for process in processes:
        process.terminate()
    codes, errors = ends(processes)
    assert codes == [143, 143], errors
    assert errors == ["rmldnn: stopped on request (SIGTERM)"]
    assert not list(folder.glob("rmldnn-*")), "the file of the meeting is left"


def test_hessian_with_several_processes_is_refused(discs: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "run", discs, optimizer={"type": "Hessian"})
    config = load_config(folder / "config.json", {})
    with pytest.raises(ConfigError, match=r"optimizer\.type: Hessian"):
        run(config, folder, Log(io.StringIO()), World(Launch(size=2, local_size=2)))


def test_machines_without_address_are_refused() -> None:
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        World(Launch(size=2, local_size=1)).connect("cpu")


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1, 0, 1)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, (0, 1, 0, 1)),
        (
            {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"},
            (2, 4, 0, 2),
        ),
        # A batch script of four tasks that starts one process itself.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, (0, 1, 0, 1)),
        (
            {
                "SLURM_PROCID": "3",
                "SLURM_STEP_NUM_TASKS": "4",
                "SLURM_LOCALID": "3",
                "SLURM_STEP_NUM_NODES": "1",
            },
            (3, 4, 3, 4),
        ),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (0, 1, 0, 1)),
        (
            {
                "RANK": "1",
                "WORLD_SIZE": "2",
                "LOCAL_RANK": "1",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": "1",
            },
            (1, 2, 1, 2),
        ),
    ],
)
def test_launchers_are_recognised(
    environment: dict[str, str], place: tuple[int, int, int, int]
) -> None:
    launch = find_launch(environment)
    assert (launch.rank, launch.size, launch.local_rank, launch.local_size) == place


def test_unclear_launch_is_refused() -> None:
    with pytest.raises(ConfigError, match="PMI_RANK"):
        find_launch({"PMI_RANK": "-1", "PMI_SIZE": "4"})
    with pytest.raises(ConfigError, match="PMI_RANK=4"):
        find_launch({"PMI_RANK": "4", "PMI_SIZE": "4"})


def test_meeting_place_is_one_for_each_launch() -> None:
    mpirun = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    jobs = [
        find_launch(mpirun | changes).job
        for changes in (
            {"PMIX_NAMESPACE": "1", "PMIX_SERVER_URI3": "tcp4://127.0.0.1:1"},
            {"PMIX_NAMESPACE": "1", "PMIX_SERVER_URI3": "tcp4://127.0.0.1:2"},
            {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "1"},
            {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2"},
            {"PATH": os.environ["PATH"]},
        )
    ]
    assert len(set(jobs)) == len(jobs)
    assert jobs[-1] == find_launch(mpirun).job
