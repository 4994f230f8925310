"""How a search behaves when things happen to it, with a stand-in worker that trains nothing."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from support import (
    BIN,
    Run,
    clean_environment,
    list_acc,
    one_error,
    optimize,
    standin_settings,
    start,
    states,
    wait_for,
    workers_of,
)


def test_tutorials_command_line_is_accepted(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    (tmp_path / "data").symlink_to(discs)
    written = run(
        "rmldnn", "--write-network", "unet:width=4,depth=2", "--input", "64,64,3",
        "-o", "layers_resunet.json",
    )  # fmt: skip
    assert written.returncode == 0, written.stderr
    (tmp_path / "model.h5").write_bytes(b"the stand-in loads no weights")
    result = run(
        "rml-optimize", "--num-trials", "3", "--num-epochs", "2",
        "--docker-image", "rocketml/rmldnn:latest", "--optimizers", "adam,rmsprop,sgd",
        "--loss", "bce,dice", "--layers", "./layers_resunet.json", "--lr-scheduler",
        "--transfer-learning", "./model.h5", "--worker", standin,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(list_acc(tmp_path)) == 3
    assert "optimistic" in result.stdout
    config = json.loads(next(tmp_path.glob("runs/*/trial_00000/*/config.json")).read_text())
    network = config["neural_network"]
    assert network["optimizer"]["lr_scheduler"] == {"type": "Exponential", "gamma": 0.95}
    assert network["checkpoints"]["load"].endswith(".h5")
    # The stand-in says nothing of capabilities, so it gets the contract's keys and no others.
    assert set(network) == {
        "outfile", "num_epochs", "checkpoints", "data", "optimizer", "loss", "layers",
    }  # fmt: skip
    assert network["data"]["transforms"] == [{"resize": [256, 256]}]


def test_short_options_of_the_tutorial(
    discs: Path, run: Run, standin: str, tmp_path: Path
) -> None:
    result = run(
        "rml-optimize", "-nt", 2, "-ne", 2, "-o", "adam", "-l", "dice", "-lr-min", 0.002,
        "-lr-max", 0.003, "-lr-gamma", 0.9, "--num_procs", 1, "--worker", standin,
        "--data", discs, "--layers", "unet:width=4,depth=2",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    for entry in list_acc(tmp_path):
        assert (entry["optimizer"], entry["loss"]) == ("Adam", "Dice")
        assert 0.002 <= entry["lr"] <= 0.003


def test_pruned_trial_stops_its_worker(discs: Path, run: Run, tmp_path: Path) -> None:
    good, poor = [0.8] * 10, [0.1] * 10
    curves = {str(number): good for number in range(5)} | {"5": poor, "6": poor}
    # Slow enough for the driver to keep up on a busy machine.
    slow = {"5": 0.6, "6": 0.6}
    worker = standin_settings(tmp_path, {"curve": curves, "delay": slow})
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 7, "--worker", worker, "--jobs", 1),
        "--num-epochs", "10",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert states(tmp_path) == dict.fromkeys(range(5), "COMPLETE") | {5: "PRUNED", 6: "PRUNED"}
    lines = next(tmp_path.glob("runs/*/trial_00005/*/out_test.txt")).read_text().splitlines()
    assert 4 <= len(lines) < 10  # three epochs are never pruned
    assert not workers_of(tmp_path)
    assert [entry["state"] for entry in list_acc(tmp_path)][-2:] == ["PRUNED", "PRUNED"]


def test_trial_that_comes_to_its_last_epoch_while_it_is_pruned_is_complete(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    # at its fourth epoch trial 5 falls behind; told to stop, it writes the fifth, its last
    curves = {str(number): [0.1, 0.1, 0.1, 0.9, 0.9] for number in range(5)} | {"5": [0.5] * 5}
    settings = {"curve": curves, "delay": {"5": 0.8}, "last_words": {"5": 0.6}}
    worker = standin_settings(tmp_path, settings | {"capabilities": ["--serve"]})
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 6, "--worker", worker, "--jobs", 1),
        "--num-epochs", "5",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    lines = next(tmp_path.glob("runs/*/trial_00005/*/out_test.txt")).read_text().splitlines()
    assert lines[-1].endswith(" 0.600000000")
    assert states(tmp_path)[5] == "COMPLETE"
    assert "trial   5 complete  Dice 0.6000 (epoch 5 of 5)" in result.stdout


def test_best_model_is_that_of_the_last_line_a_pruned_worker_wrote(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    """Its checkpoint has replaced that of the line by which the trial was pruned."""
    curves = {str(number): [0.8] * 10 for number in range(5)} | {"5": [0.1] * 10}
    settings = {"curve": curves, "delay": {"5": 0.6}, "last_words": {"5": 0.95}}
    worker = standin_settings(tmp_path, settings | {"capabilities": ["--serve"]})
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 6, "--worker", worker, "--jobs", 1),
        "--num-epochs", "10",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert states(tmp_path)[5] == "PRUNED"
    stored = json.loads((tmp_path / "best_model/trial.json").read_text())
    assert (stored["trial"], stored["dice_dataset"]) == (5, 0.95)
    model = (tmp_path / "best_model/best_model_file.pt").read_text()
    assert model == f"5 {stored['epoch']}"
    assert list_acc(tmp_path)[5]["max_acc"] == 0.95


def test_pruned_worker_that_ignores_sigterm_is_gone_within_a_second(
    discs: Path, tmp_path: Path
) -> None:
    curves = {str(number): [0.8] * 100 for number in range(6)} | {"6": [0.1] * 100}
    settings = {"curve": curves, "ignore_sigterm": True}
    worker = standin_settings(tmp_path, settings)
    first = optimize(discs, "--worker", worker, "--jobs", 1, "--num-epochs", 100, "--lease", 5)
    done = subprocess.run(
        [BIN / "rml-optimize", *first, "--num-trials", "6"], cwd=tmp_path, check=True,
        env=clean_environment(), capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0
    standin_settings(tmp_path, settings | {"epoch_s": 0.3})
    process = start(tmp_path, *first, "--num-trials", "7")
    try:
        wait_for(lambda: states(tmp_path).get(6) == "PRUNED", 60)
        assert not workers_of(tmp_path)
        process.wait(10)
    finally:
        process.kill()
        process.communicate()


def test_interrupted_search_goes_on_to_exactly_n(discs: Path, tmp_path: Path, run: Run) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.2})
    arguments = optimize(discs, "--num-trials", 6, "--worker", worker, "--jobs", 2)
    process = start(tmp_path, *arguments)
    wait_for(lambda: (tmp_path / "list_acc.json").exists() and len(workers_of(tmp_path)) == 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130, output
    assert "the same command goes on from here" in output
    assert "Traceback" not in output
    assert not workers_of(tmp_path)
    assert "RUNNING" not in states(tmp_path).values()
    again = run("rml-optimize", *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert sorted(states(tmp_path)) == list(range(6))
    assert set(states(tmp_path).values()) == {"COMPLETE"}
    assert [entry["number"] for entry in list_acc(tmp_path)] == list(range(6))


def test_killed_driver_leaves_no_worker_and_its_trials_are_taken_over(
    discs: Path, tmp_path: Path, run: Run
) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.2})
    arguments = optimize(discs, "--num-trials", 4, "--worker", worker, "--jobs", 2, "--lease", 2)
    process = start(tmp_path, *arguments)
    wait_for(lambda: len(workers_of(tmp_path)) == 2)
    process.kill()
    process.communicate()
    wait_for(lambda: not workers_of(tmp_path), 10)
    again = run("rml-optimize", *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert list(states(tmp_path).values()) == ["COMPLETE"] * 4
    assert list(tmp_path.glob("runs/*/trial_00000/attempt_2"))


def test_two_drivers_share_the_trials(discs: Path, tmp_path: Path, run: Run) -> None:
    worker = standin_settings(tmp_path, {"epoch_s": 0.05})
    arguments = optimize(discs, "--num-trials", 9, "--worker", worker, "--jobs", 2)
    processes = [start(tmp_path, *arguments) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert states(tmp_path) == dict.fromkeys(range(9), "COMPLETE")
    assert len(list_acc(tmp_path)) == 9


def test_larger_number_extends_the_study(
    discs: Path, tmp_path: Path, run: Run, standin: str
) -> None:
    for number in (2, 5, 3):
        result = run("rml-optimize", *optimize(discs, "--num-trials", number, "--worker", standin))
        assert result.returncode == 0, result.stderr
        assert len(list_acc(tmp_path)) == {2: 2, 5: 5, 3: 5}[number]


def test_same_name_with_another_space_is_refused(discs: Path, run: Run, standin: str) -> None:
    first = run("rml-optimize", *optimize(discs, "--num-trials", 1, "--worker", standin))
    assert first.returncode == 0, first.stderr
    other = run(
        "rml-optimize",
        *optimize(discs, "--num-trials", 1, "--worker", standin, "--lr-range-max", 0.5),
    )
    message = one_error(other)
    assert "search optimizer.learning_rate: 0.001 .. 0.01, log scale  ->  0.001 .. 0.5" in message
    assert "--study-name" in message
    named = shlex.split(message.split("--study-name ")[1])[0]
    accepted = run(
        "rml-optimize", "--study-name", named,
        *optimize(discs, "--num-trials", 1, "--worker", standin, "--lr-range-max", 0.5),
    )  # fmt: skip
    assert accepted.returncode == 0, accepted.stderr


def test_one_crash_fails_one_trial_and_shows_its_log(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"end": {"1": 77}, "say": "segment not found"})
    result = run("rml-optimize", *optimize(discs, "--num-trials", 3, "--worker", worker))
    assert result.returncode == 0, result.stdout + result.stderr
    assert states(tmp_path) == {0: "COMPLETE", 1: "FAIL", 2: "COMPLETE", 3: "COMPLETE"}
    assert "exit code 77" in result.stdout
    assert "| segment not found" in result.stdout
    assert len(list_acc(tmp_path)) == 3


def test_search_gives_up_when_every_trial_fails_alike(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"end": {"all": 9}, "say": "no such device"})
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 50, "--worker", worker, "--jobs", 1)
    )
    message = one_error(result, code=1)
    assert "3 trials in a row failed alike" in message
    assert "no such device" in message


@pytest.mark.parametrize("kind", ["paths", "values"])
def test_failures_of_one_cause_are_alike_whatever_their_trial(
    discs: Path, run: Run, tmp_path: Path, standin: str, kind: str
) -> None:
    arguments = optimize(discs, "--num-trials", 30, "--worker", standin, "--jobs", 1)
    if kind == "paths":
        (tmp_path / "runs/s").mkdir(parents=True)
        for number in range(15):
            (tmp_path / f"runs/s/trial_{number:05d}").touch()  # where a folder has to be
    else:
        # Each choice is sound with the first of the other field, and most pairs are not.
        arguments += [
            "--set", "data.intensity_range=[0,255]",
            "--search", "data.intensity_range[0]=0,60,61,62,63,64,65,66",
            "--search", "data.intensity_range[1]=99,50,51,52,53,54,55,56",
        ]  # fmt: skip
    result = run("rml-optimize", *arguments, "--study-name", "s", "--max-retries", 0)
    assert "3 trials in a row failed alike" in one_error(result, code=1)
    found = list(states(tmp_path).values())
    assert found[-3:] == ["FAIL"] * 3
    assert found.count("FAIL") < 7  # others may have come before one that works


def test_search_stops_at_once_when_the_first_worker_refuses(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "broken.h5").write_bytes(b"no weights in here")
    result = run(
        "rml-optimize",
        *optimize(discs, "--num-trials", 50, "--transfer-learning", tmp_path / "broken.h5"),
        "--launcher", "local", "--jobs", "1",
    )  # fmt: skip
    assert ".h5" in one_error(result)
    assert states(tmp_path) == {0: "FAIL"}


def test_a_later_refusal_fails_one_trial(discs: Path, run: Run, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {"end": {"1": 2}, "say": "no such key"})
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 2, "--worker", worker, "--jobs", 1)
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert states(tmp_path) == {0: "COMPLETE", 1: "FAIL", 2: "COMPLETE"}


@pytest.mark.parametrize(("code", "word"), [(3, "diverged"), (4, "out of memory")])
def test_divergence_and_memory_are_pruned_not_failed(
    discs: Path, run: Run, tmp_path: Path, code: int, word: str
) -> None:
    worker = standin_settings(tmp_path, {"end": {"0": code}})
    result = run("rml-optimize", *optimize(discs, "--num-trials", 2, "--worker", worker))
    assert result.returncode == 0, result.stdout + result.stderr
    assert states(tmp_path) == {0: "PRUNED", 1: "COMPLETE"}
    assert word in result.stdout


def test_worker_killed_by_a_signal_is_a_failure(discs: Path, run: Run, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {"end": {"0": -signal.SIGSEGV}})
    result = run("rml-optimize", *optimize(discs, "--num-trials", 1, "--worker", worker))
    assert states(tmp_path) == {0: "FAIL", 1: "COMPLETE"}
    assert f"exit code {128 + signal.SIGSEGV}" in result.stdout


def test_worker_without_checkpoints_leaves_the_search_working(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = standin_settings(tmp_path, {"checkpoints": False})
    result = run("rml-optimize", *optimize(discs, "--num-trials", 2, "--worker", worker))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "left no checkpoint" in result.stdout
    assert len(list_acc(tmp_path)) == 2
    assert not (tmp_path / "best_model").exists()


def test_best_model_of_another_study_is_kept(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    for name in ("first", "second"):
        result = run(
            "rml-optimize", "--study-name", name,
            *optimize(discs, "--num-trials", 1, "--worker", standin),
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    owners = {
        folder: json.loads((tmp_path / folder / "trial.json").read_text())["study"]
        for folder in ("best_model", "best_model-first")
    }
    assert owners == {"best_model": "second", "best_model-first": "first"}


def test_best_model_of_a_deleted_database_is_no_rival(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    for accuracy in (0.9, 0.3):
        worker = standin_settings(tmp_path, {"curve": {"0": [accuracy] * 3}})
        result = run("rml-optimize", *optimize(discs, "--num-trials", 1, "--worker", worker))
        assert result.returncode == 0, result.stderr
        (tmp_path / "rml_optimize.db").unlink()
    best = json.loads((tmp_path / "best_model/trial.json").read_text())
    assert best["dice_dataset"] == 0.3


def test_the_users_own_best_model_is_kept(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    (tmp_path / "best_model").mkdir()
    (tmp_path / "best_model/best_model_file.pt").write_text("precious")
    result = run("rml-optimize", *optimize(discs, "--num-trials", 1, "--worker", standin))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "best_model-before/best_model_file.pt").read_text() == "precious"


def test_best_model_may_be_a_link_to_a_larger_disk(discs: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "disk/models").mkdir(parents=True)
    (tmp_path / "best_model").symlink_to(tmp_path / "disk/models")
    worker = standin_settings(tmp_path, {"curve": {str(n): [n / 10] * 3 for n in range(3)}})
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 3, "--worker", worker, "--jobs", 1)
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "best_model").is_symlink()
    assert json.loads((tmp_path / "disk/models/trial.json").read_text())["trial"] == 2


def test_going_on_with_a_study_brings_its_own_results_back(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    for name, number in (("A", 2), ("B", 3), ("A", 2)):
        result = run(
            "rml-optimize", "--study-name", name,
            *optimize(discs, "--num-trials", number, "--worker", standin),
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "best_model/trial.json").read_text())["study"] == "A"
    assert json.loads((tmp_path / "best_model-B/trial.json").read_text())["study"] == "B"
    assert len(list_acc(tmp_path)) == 2


def test_of_equals_the_earlier_trial_is_best_everywhere(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    curves = {str(number): [0.5] * 3 for number in range(2)}
    worker = standin_settings(tmp_path, {"curve": curves, "delay": {"0": 0.5}})
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 2, "--worker", worker, "--jobs", 2)
    )
    assert "best trial: number 0" in result.stdout
    assert json.loads((tmp_path / "best_model/trial.json").read_text())["trial"] == 0


def test_what_a_hostile_worker_writes_harms_nothing(discs: Path, run: Run, tmp_path: Path) -> None:
    metrics = json.dumps({"epoch": 1, "classes_averaged": ["foreground"]}) + "\n"
    files = {
        "out_test.txt": "1e30 0 0 0.5\n999 0 0 0.9\nnan\n1e400 1\n",
        "per_image.csv": "FIFO",
        "metrics.jsonl": metrics,
    }
    worker = standin_settings(tmp_path, {"write": files, "strict": True})
    result = run(
        "rml-optimize",
        *optimize(discs, "--num-trials", 2, "--worker", worker, "--select-on", "validation"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert [entry["epochs"] for entry in list_acc(tmp_path)] == [3, 3]


def test_lost_list_is_written_again(discs: Path, run: Run, tmp_path: Path, standin: str) -> None:
    arguments = optimize(discs, "--num-trials", 2, "--worker", standin)
    run("rml-optimize", *arguments)
    before = list_acc(tmp_path)
    (tmp_path / "list_acc.json").unlink()
    assert run("rml-optimize", *arguments).returncode == 0
    assert list_acc(tmp_path) == before


def test_study_in_which_nothing_worked_may_be_changed(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    failing = standin_settings(tmp_path, {"end": {"all": 2}})
    assert run("rml-optimize", *optimize(discs, "--worker", failing)).returncode == 2
    again = run(
        "rml-optimize", *optimize(discs, "--num-trials", 1, "--worker", standin),
        "--set", "data.batch_size=2",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr


def test_networks_of_different_channels_are_searched_together(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    result = run(
        "rml-optimize", "--data", discs, "--worker", standin, "--num-trials", 6, "--no-gpu",
        "--num-epochs", 1, "--resize", "64,64", "--search", "layers=unet:width=4,resunet",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    seen = set()
    for path in tmp_path.glob("runs/*/trial_*/attempt_1/config.json"):
        network = json.loads(path.read_text())["neural_network"]
        layers = json.loads(Path(network["layers"]).read_text())
        channels = layers["config"]["layers"][0]["config"]["batch_input_shape"][-1]
        assert network["data"]["input_grayscale"] == (channels == 1)
        seen.add(channels)
    assert seen == {1, 3}


def test_overridden_optimizers_keep_their_conditional_fields(
    discs: Path, run: Run, tmp_path: Path, standin: str
) -> None:
    result = run(
        "rml-optimize", *optimize(discs, "--num-trials", 6, "--worker", standin),
        "--study", "demo", "--search", "optimizer.type=adam,sgd",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    for entry in list_acc(tmp_path):
        kind = entry["optimizer"]
        assert kind in ("Adam", "SGD")
        assert f"optimizer.learning_rate[{kind}]" in entry["params"]


def test_search_is_repeatable_with_one_slot(discs: Path, run: Run, standin: str) -> None:
    sampled = []
    for name in ("a", "b"):
        result = run(
            "rml-optimize", "--output-dir", name, "--seed", 3,
            *optimize(discs, "--num-trials", 12, "--worker", standin, "--jobs", 1),
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        sampled.append(result.stdout)
    chosen = [
        [line.split("started:")[1] for line in output.splitlines() if "started:" in line]
        for output in sampled
    ]
    assert len(chosen[0]) == 12
    assert chosen[0] == chosen[1]


def test_search_and_set_reach_the_workers_config(discs: Path, run: Run, tmp_path: Path) -> None:
    worker = standin_settings(tmp_path, {"capabilities": ["metrics", "metrics.at_size"]})
    result = run(
        "rml-optimize",
        *optimize(discs, "--num-trials", 4, "--worker", worker, "-o", "adam,sgd"),
        "--search", "data.batch_size=2,4", "--search", "optimizer.momentum=0.1..0.9",
        "--search", "data.transforms[0].resize=[16,16],[32,32]", "--set",
        "optimizer.weight_decay=1e-4",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    for path in tmp_path.glob("runs/*/trial_*/attempt_1/config.json"):
        network = json.loads(path.read_text())["neural_network"]
        assert network["data"]["batch_size"] in (2, 4)
        assert network["data"]["transforms"][0]["resize"] in ([16, 16], [32, 32])
        assert network["metrics"]["at_size"] == "images"
        assert network["optimizer"]["weight_decay"] == 1e-4
        assert ("momentum" in network["optimizer"]) == (network["optimizer"]["type"] == "SGD")


def test_dry_run_trains_nothing(discs: Path, run: Run, tmp_path: Path) -> None:
    result = run("rml-optimize", *optimize(discs, "--num-trials", 4, "--dry-run"))
    assert result.returncode == 0, result.stderr
    assert "nothing was trained" in result.stdout
    assert '"learning_rate"' in result.stdout
    assert "warning: trials are compared on the test images" in result.stdout
    assert not (tmp_path / "rml_optimize.db").exists()
    assert not list(tmp_path.glob("runs/*/trial_*"))


def test_demo_runs_only_without_data(run: Run, tmp_path: Path, standin: str) -> None:
    few = ("--num-trials", 1, "--num-epochs", 1, "--worker", standin)
    for options in (few, ("--layers", "unet", "--dry-run"), ("--search", "data.batch_size=2,4")):
        message = one_error(run("rml-optimize", *options))
        assert "no folder data/ here; name one with --data" in message
        assert not list(tmp_path.iterdir())  # nobody asked for a demo
    bare = run("rml-optimize", "--dry-run")
    assert bare.returncode == 0, bare.stdout + bare.stderr
    assert "SYNTHETIC" in bare.stdout
    result = run("rml-optimize", "--study", "demo", *few)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("SYNTHETIC") >= 2
    assert (tmp_path / "runs/demo/data/train/inputs").is_dir()
    (tmp_path / "data").mkdir()
    message = one_error(run("rml-optimize", "--num-trials", 1, "--worker", standin))
    assert "neither train/inputs/ nor train/targets/" in message


def test_unwritable_output_folder_is_one_error(discs: Path, run: Run) -> None:
    folder = Path("/proc/nobody may write here")  # not even root
    message = one_error(run("rml-optimize", *optimize(discs, "--output-dir", folder)), code=1)
    assert "/proc/nobody" in message
