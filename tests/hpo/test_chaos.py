"""A study on PostgreSQL gets exactly N trials while everything is killed, again and again."""

from __future__ import annotations

import io
import json
import os
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import optuna
import pytest
from chaos import LEASE_S, Server
from optuna.trial import TrialState
from rough_network import FAR, RoughNetwork
from support import STANDIN, Run, list_acc, require, standin_settings, wait_for

from hpo.results.list_acc import list_entry
from hpo.store.database import close_storage, open_storage

KINDS = (
    "driver", "worker", "container", "database", "pause",
    "restart", "backends", "cut", "silence", "request",
)  # fmt: skip
NUM_EPOCHS = 5
RUNGS = (1, 3)
SETTINGS = {
    "epoch_s": 0.65, "scale": 0.05,
    "capabilities": ["checkpoints.resume", "checkpoints.pause_after", "--serve"],
}  # fmt: skip
SCRIPT = '#!/bin/sh\nexec python3 /chaos/standin_worker.py /chaos/settings.json "$@"\n'


@pytest.fixture(scope="module")
def image(worker_image: str) -> Iterator[str]:
    """An image whose worker is the stand-in."""
    files = {
        "Dockerfile": f"FROM {worker_image}\nCOPY chaos /chaos\nENV PATH=/chaos:$PATH\n",
        "chaos/rmldnn": SCRIPT,
        "chaos/standin_worker.py": STANDIN.read_text(),
        "chaos/settings.json": json.dumps(SETTINGS),
    }
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o755, len(content.encode())
            archive.addfile(entry, io.BytesIO(content.encode()))
    context.seek(0)
    client = docker.from_env()
    name = f"rml-test/chaos:{uuid.uuid4().hex[:8]}"
    client.images.build(fileobj=context, custom_context=True, tag=name, rm=True)
    yield name
    client.images.remove(name, force=True)
    client.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A database server that may be killed."""
    if os.environ.get("RML_TEST_POSTGRES_URL") is None:
        require("postgres", "RML_TEST_POSTGRES_URL names no server, so it may not be installed")
    server = Server()
    yield server
    server.close()


@pytest.mark.docker
@pytest.mark.postgres
@pytest.mark.parametrize(
    ("seed", "num_each", "limit_s", "pruner"),
    # The limits only guard against a hang: how long it takes is the machine's business.
    [
        (3, 3, 1200, "asha"),
        pytest.param(1, 3, 1200, "none", marks=pytest.mark.slow),
        pytest.param(2, 20, 3600, "none", marks=pytest.mark.slow),
        pytest.param(4, 20, 3600, "asha", marks=pytest.mark.slow),
    ],
)
def test_study_gets_exactly_n_trials_whatever_dies(
    discs: Path, tmp_path: Path, run: Run, server: Server, image: str, seed: int, num_each: int,
    limit_s: float, pruner: str,
) -> None:  # fmt: skip
    common = [
        "--data", str(discs), "--layers", "unet:width=4,depth=2", "--resize", "32,32", "--no-gpu",
        "--num-epochs", str(NUM_EPOCHS), "--sampler", "random", "--pruner", pruner,
    ]  # fmt: skip
    patient = ["--lease", str(LEASE_S), "--max-retries", "99", "--max-failed", "99", "--jobs", "2"]
    arguments = {
        "local": [*common, *patient, "--worker", standin_settings(tmp_path, SETTINGS)],
        "docker": [*common, *patient, "--launcher", "docker", "--docker-image", image],
    }
    arguments[FAR] = arguments["local"]
    quotas = dict.fromkeys(KINDS, num_each)
    chaos = RoughNetwork(tmp_path, server, arguments, seed, quotas)
    try:
        chaos.run(limit_s)
        storage = open_storage(server.url)
        study = optuna.load_study(study_name=None, storage=storage)
        name, trials = study.study_name, study.get_trials()
        close_storage(storage)
        print(f"{chaos.kills.total()} blows:", dict(chaos.kills), f"N={chaos.num_trials}")  # noqa: T201
        pauses = pruner == "asha"
        ends = {TrialState.COMPLETE, TrialState.PRUNED} if pauses else {TrialState.COMPLETE}
        finished = [trial for trial in trials if trial.state in ends]
        assert len(finished) == chaos.num_trials
        assert {trial.state for trial in trials} == ends
        runs = {(str(trial.params), trial.user_attrs["attempt"]) for trial in finished}
        assert len(runs) == len(finished)
        assert max(trial.user_attrs["attempt"] for trial in finished) > 2
        for trial in finished:
            num_epochs = len(trial.intermediate_values)
            assert sorted(trial.intermediate_values) == list(range(1, num_epochs + 1))
            is_whole = trial.state == TrialState.COMPLETE
            assert num_epochs == NUM_EPOCHS if is_whole else num_epochs in RUNGS
        best = max(finished, key=lambda trial: trial.value)
        assert best.state == TrialState.COMPLETE
        assert list_acc(tmp_path) == [{**list_entry(trial), "study": name} for trial in trials]
        wait_for(lambda: not chaos.workers() and not chaos.containers(), 10)
    finally:
        chaos.close()
    arguments = [*common, "--num-trials", str(chaos.num_trials + 1)]
    # Which values the last trial gets follows from the seed and its number: in the short form such
    # as train to the best model.
    check_final_model(run, tmp_path, arguments, server, must_be_best=seed == 1)


def check_final_model(
    run: Run, folder: Path, arguments: list[str], server: Server, *, must_be_best: bool
) -> None:
    """Train one more, for real: where it is the best, it scores what is recorded."""
    last = run("rml-optimize", *arguments, "--launcher", "local", RML_STORAGE=server.url)
    assert last.returncode == 0, last.stdout + last.stderr
    recorded = json.loads((folder / "best_model/trial.json").read_text())
    entries = list_acc(folder)
    best = max(entries, key=lambda entry: entry["max_acc"])
    assert (recorded["trial"], recorded["dice_dataset"]) == (best["number"], best["max_acc"])
    assert best is entries[-1] or not must_be_best
    if best is not entries[-1]:
        return
    again = run("rmldnn", "--config=best_model/config.json")
    assert again.returncode == 0, again.stderr
    accuracy = float((folder / "out_test.txt").read_text().split()[-1])
    assert accuracy == pytest.approx(recorded["dice_dataset"], abs=1e-6)
