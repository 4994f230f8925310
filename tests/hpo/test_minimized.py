"""A metric that is minimized: every decision is the one that its negative, maximized, leads to."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from plugin_package import write_broken
from support import Run, list_acc, one_error, optimize, standin_settings

from hpo import open_study

ABLE = ["checkpoints.resume", "checkpoints.pause_after", "checkpoints.keep", "--serve"]
NUM_TRIALS, NUM_EPOCHS = 7, 9


def entries(*values: float, key: str = "distance") -> list[dict[str, object]]:
    return [{"dice_dataset": 0.5, "plugins": {key: value}} for value in values]


def load(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{folder}/rml_optimize.db")


def goes_on(output: str) -> list[str]:
    return [line.split()[2] for line in output.splitlines() if " goes on" in line]


def test_search_with_pauses_decides_as_that_of_the_negative(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    draw = random.Random(3)
    curves = [[draw.uniform(0, 50) for _ in range(NUM_EPOCHS)] for _ in range(NUM_TRIALS)]
    found: list[dict[str, Any]] = []
    for objective, sign in (("distance:minimize", 1), ("distance", -1)):
        folder = tmp_path / str(sign) / "s"
        folder.mkdir(parents=True)
        metrics = {str(n): entries(*(sign * v for v in curve)) for n, curve in enumerate(curves)}
        settings: dict[str, object] = {"metrics": metrics, "capabilities": ABLE}
        result = run(
            "rml-optimize",
            *optimize(discs, "--num-trials", NUM_TRIALS, "--jobs", 1, "--objective", objective),
            "--worker", standin_settings(folder, settings), "--pruner", "asha",
            "--num-epochs", NUM_EPOCHS, "--loss", "bce,dice", "--lr-range-min", 0.0001,
            cwd=folder,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        study = load(folder)
        model = json.loads((folder / "best_model/trial.json").read_text())
        top = run("rml-study", "trials", "--top", 9, "--csv", cwd=folder).stdout
        found.append(
            {
                "trials": [
                    (
                        each.state,
                        each.params,
                        None if each.value is None else sign * each.value,
                        {epoch: sign * v for epoch, v in each.intermediate_values.items()},
                        each.user_attrs["attempt"],
                    )
                    for each in study.trials
                ],
                "goes on": goes_on(result.stdout),
                "best": (study.best_trial.number, model["trial"], model["epoch"]),
                "score": sign * model["score"],
                "weights": (folder / "best_model/best_model_file.pt").read_text(),
                "top": [line.split(",")[0] for line in top.splitlines()],
            }
        )
    assert found[0] == found[1]
    lengths = {len(curve) for _, _, _, curve, _ in found[0]["trials"]}
    assert len(lengths) > 1, "some are cut short"
    assert found[0]["goes on"]
    lowest = min(min(curve.values()) for _, _, _, curve, _ in found[0]["trials"])
    assert found[0]["score"] == lowest


DISTANCES = {
    "0": entries(3.0, 1.5, 2.0),
    "1": entries(2.0, 0.6, 4.0),
    "2": entries(9.0, 8.0, 7.0),
    "all": entries(2.0, 0.6, 4.0),
}


def search(run: Run, discs: Path, folder: Path, *more: object, objective: str) -> Any:
    worker = standin_settings(folder, {"metrics": DISTANCES})
    common = ("--num-trials", 3, "--worker", worker, "--jobs", 1, "--objective", objective)
    return run("rml-optimize", *optimize(discs, *common, *more))


def test_lowest_is_the_best_wherever_it_is_said(discs: Path, run: Run, tmp_path: Path) -> None:
    result = search(run, discs, tmp_path, objective="distance:minimize")
    assert result.returncode == 0, result.stdout + result.stderr
    study = load(tmp_path)
    assert study.direction.name == "MINIMIZE"
    assert (study.best_trial.number, study.best_value) == (1, 0.6)  # as Optuna's pages show it
    assert [trial.value for trial in study.trials] == [1.5, 0.6, 7.0]
    assert "distance 0.6000 (epoch 2 of 3)" in result.stdout
    assert "3/3 trials, best 0.6000 (trial 1)" in result.stdout
    assert "distance 0.6000 on the test images, the lower the better" in result.stdout
    model = json.loads((tmp_path / "best_model/trial.json").read_text())
    assert (model["trial"], model["epoch"], model["score"]) == (1, 2, 0.6)
    assert (model["objective"], model["direction"]) == ("distance", "minimize")
    assert (tmp_path / "best_model/best_model_file.pt").read_text() == "1 2"
    status = json.loads(run("rml-study", "status", "--json").stdout)
    assert (status["best"]["trial"], status["best"]["epoch"]) == (1, 2)
    assert (status["best"]["distance"], status["direction"]) == (0.6, "minimize")
    for command in (("best",), ("show", "--trial", "1"), ("list",), ("status",)):
        shown = run("rml-study", *command).stdout
        assert "0.6000" in shown or "0.6" in shown.split(), (command, shown)
    assert "best 0.6000 (epoch 2), last 4.000" in run("rml-study", "best").stdout
    top = json.loads(run("rml-study", "trials", "--top", 3, "--json").stdout)
    assert [(each["trial"], each["distance"]) for each in top] == [(1, 0.6), (0, 1.5), (2, 7.0)]
    page = (tmp_path / "report.html").read_text()
    assert "Trial 1 had the lowest distance of the 3 trials" in page
    assert run("rml-study", "plot").returncode == 0
    with open_study(tmp_path) as opened:
        assert (opened.best_trial.number, opened.best_score) == (1, 0.6)
        assert opened.objective == "distance"
    notes = study._storage.get_study_system_attrs(study._study_id)
    assert "`distance`, the lower the better" in "".join(map(str, notes.values()))
    assert "**Best**: trial 1, `distance` 0.6000" in "".join(map(str, notes.values()))


def test_list_never_offers_the_worst_trial_as_the_greatest(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    assert search(run, discs, tmp_path, objective="distance:minimize").returncode == 0
    for entry, score, epoch in zip(list_acc(tmp_path), (1.5, 0.6, 7.0), (2, 2, 3), strict=True):
        assert [*entry][:5] == ["max_acc", "optimizer", "lr", "loss", "epoch_max_acc"]
        assert entry["max_acc"] is entry["epoch_max_acc"] is entry["last_acc"] is None
        assert (entry["score"], entry["epoch"]) == (score, epoch)
        assert (entry["objective"], entry["direction"]) == ("distance", "minimize")


def test_study_keeps_its_direction(discs: Path, run: Run, tmp_path: Path) -> None:
    assert search(run, discs, tmp_path, objective="distance:minimize").returncode == 0
    for dry in ((), ("--dry-run",)):
        for other in ("distance", "distance:maximize", "dice_per_image"):
            message = one_error(search(run, discs, tmp_path, *dry, objective=other))
            assert "is to minimize its score, and this search is to maximize" in message
            assert len(message.splitlines()) == 1
    again = search(run, discs, tmp_path, "--num-trials", 3, objective="distance:minimize")
    assert again.returncode == 0, again.stderr
    assert load(tmp_path).best_value == 0.6


def test_study_that_came_to_nothing_may_still_go_the_other_way(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    """The first try was without the package of the metric, say."""
    worker = standin_settings(tmp_path, {"end": {"all": 2}})
    common = ("--num-trials", 3, "--worker", worker, "--objective", "distance")
    one_error(run("rml-optimize", *optimize(discs, *common)))
    assert load(tmp_path).direction.name == "MAXIMIZE"
    result = search(run, discs, tmp_path, "--num-trials", 4, objective="distance:minimize")
    assert result.returncode == 0, result.stderr
    study = load(tmp_path)
    assert study.direction.name == "MINIMIZE"
    assert study.best_value == 0.6
    assert "best 0.6000" in result.stdout


def test_empty_study_of_another_program_is_no_study_of_the_other_direction(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    storage = f"sqlite:///{tmp_path}/rml_optimize.db"
    optuna.create_study(study_name="theirs", storage=storage, direction="minimize")
    message = one_error(
        search(run, discs, tmp_path, "--study-name", "theirs", objective="dice_per_image")
    )
    assert "study 'theirs' is to minimize its score, and this search is to maximize" in message
    assert "--study-name theirs-2" in message


def test_most_like_another_study_is_its_lowest(discs: Path, run: Run, tmp_path: Path) -> None:
    assert search(run, discs, tmp_path, objective="distance:minimize").returncode == 0
    best = [load(tmp_path).trials[number].params for number in (1, 0, 2)]
    folder = tmp_path / "next"
    folder.mkdir()
    worker = standin_settings(folder, {})
    like = ("--num-trials", 3, "--worker", worker, "--jobs", 1, "--like", tmp_path)
    result = run("rml-optimize", *optimize(discs, *like), cwd=folder)
    assert result.returncode == 0, result.stderr
    assert [trial.params for trial in load(folder).trials] == best


def test_metric_says_once_that_it_is_minimized(
    discs: Path, run: Run, tmp_path: Path, documented_plugins: Path
) -> None:
    common = ("--num-trials", 2, "--objective", "hausdorff95", "--jobs", 1)
    site = {"PYTHONPATH": str(documented_plugins)}
    result = run(
        "rml-optimize", *optimize(discs, *common, "--lr-range-min", 0.003, "--num-epochs", 4),
        "--launcher", "local", "--select-on", "validation", **site,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    study = load(tmp_path)
    assert study.direction.name == "MINIMIZE"
    assert study.metric_names == ["hausdorff95"]
    model = json.loads((tmp_path / "best_model/trial.json").read_text())
    tested = json.loads((tmp_path / "best_model/test.json").read_text())
    lowest = min(min(trial.intermediate_values.values()) for trial in study.trials)
    assert model["score"] == pytest.approx(lowest)
    curve = study.trials[model["trial"]].intermediate_values
    assert model["epoch"] == min(curve, key=lambda epoch: (curve[epoch], epoch))
    assert tested["objective"] == "hausdorff95"
    assert tested["score"] >= 0
    (config,) = (tmp_path / "runs").glob("*/trial_00000/attempt_1/config.json")
    checkpoints = json.loads(config.read_text())["neural_network"]["checkpoints"]
    assert (checkpoints["keep"], checkpoints["best_direction"]) == ("best", "minimize")
    contrary = optimize(discs, "--objective", "hausdorff95:maximize")
    message = one_error(run("rml-optimize", *contrary, **site))
    assert "--objective hausdorff95:maximize: hausdorff95 is to minimize" in message


def test_metric_with_a_direction_that_there_is_none_of_is_named(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    entry_points = "[rml_optimize.metrics]\nodd = odd_metric:odd\n"
    write_broken(
        tmp_path / "site",
        "odd_metric",
        entry_points,
        "def odd(p, t): return 0\nodd.direction='low'",
    )
    arguments = optimize(discs, "--objective", "odd", "--dry-run")
    message = one_error(run("rml-optimize", *arguments, PYTHONPATH=str(tmp_path / "site")))
    assert "'odd'" in message
    assert "direction: expected 'maximize' or 'minimize', received 'low'" in message


def test_worker_that_goes_the_other_way_fails_its_trial(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    """Its metric is of another version, say, that has no direction yet."""
    settings: dict[str, object] = {
        "metrics": DISTANCES,
        "used": {"all": {"checkpoints.best_direction": "maximize"}},
        "capabilities": [*ABLE, "checkpoints.best_by", "checkpoints.best_direction"],
    }
    worker = standin_settings(tmp_path, settings)
    common = ("--num-trials", 1, "--worker", worker, "--objective", "distance:minimize")
    result = run("rml-optimize", *optimize(discs, *common, "--max-failed", 1, "--jobs", 1))
    assert result.returncode != 0
    said = '"minimize" was asked for, and the worker used "maximize"'
    assert f"checkpoints.best_direction: {said}" in result.stdout + result.stderr
    assert [trial.value for trial in load(tmp_path).trials] == [None]
