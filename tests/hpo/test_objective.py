"""`--objective`: trials are compared by another figure than the accuracy of the test log."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import optuna
import pytest
from optuna_dashboard import get_note
from support import Run, list_acc, one_error, optimize, standin_settings, write_discs

from hpo.errors import UsageError
from hpo.objective import Objective, parse_objective
from hpo.python.opened import _columns
from hpo.study.queries import Running
from hpo.study.status import _describe_running
from hpo.study.trial_report import describe_trial
from hpo.study.trials import _row
from hpo.wording import format_score

RISING = [0.1, 0.2, 0.3]


def entries(*values: float | None, key: str = "dice_per_image") -> list[dict[str, object]]:
    """Return lines of metrics in which another trial is the best than by `dice_dataset`."""
    return [{"dice_dataset": 0.9, key: value} for value in values]


def of_class(*values: float) -> list[dict[str, object]]:
    return [{"per_class": {"lesion": {"dice": value}}} for value in values]


METRICS: dict[str, dict[str, object]] = {
    "dice_per_image": {"0": entries(0.3, 0.5, 0.4), "1": entries(0.2, 0.6, 0.1)},
    "dice_dataset.lesion": {"0": of_class(0.3, 0.5, 0.4), "1": of_class(0.2, 0.6, 0.1)},
    "boundary": {
        "0": [{"plugins": {"boundary": value}} for value in (-3.0, -0.5, -1.0)],
        "1": [{"plugins": {"boundary": value}} for value in (-2.0, 0.6, -4.0)],
    },
}


def search(
    run: Run, discs: Path, folder: Path, settings: dict[str, object], *more: object
) -> object:
    worker = standin_settings(folder, settings)
    return run(
        "rml-optimize", *optimize(discs, "--num-trials", 2, "--worker", worker, "--jobs", 1, *more)
    )


def load(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{folder}/rml_optimize.db")


@pytest.mark.parametrize("key", METRICS)
def test_score_is_the_figure_that_was_asked_for_wherever_it_is_said(
    discs: Path, run: Run, tmp_path: Path, key: str
) -> None:
    # by the accuracy, trial 0 were the best
    settings = {
        "metrics": METRICS[key],
        "curve": {"0": [0.7, 0.8, 0.9], "1": RISING},
    }
    result = search(run, discs, tmp_path, settings, "--objective", key)
    assert result.returncode == 0, result.stdout + result.stderr
    study = load(tmp_path)
    best = study.trials[1]
    assert best.intermediate_values[2] == best.value == 0.6
    assert study.best_trial.number == 1
    assert f"{key} 0.6000 (epoch 2 of 3)" in result.stdout
    assert f"  {key} 0.6000 on the test images" in result.stdout
    assert "Dice 0." not in result.stdout
    entry = list_acc(tmp_path)[1]
    assert (entry["max_acc"], entry["epoch_max_acc"], entry["objective"]) == (0.6, 2, key)
    model = json.loads((tmp_path / "best_model/trial.json").read_text())
    assert (model["trial"], model["epoch"]) == (1, 2)
    assert (model["objective"], model["score"]) == (key, 0.6)
    weights = (tmp_path / "best_model/best_model_file.pt").read_text()
    assert weights == "1 2", "the checkpoint of the epoch that is the best by the objective"
    status = json.loads(run("rml-study", "status", "--json").stdout)
    assert (status["objective"], status["best"][key]) == (key, 0.6)
    for command in (("status",), ("best",), ("trials",), ("show", "--trial", "1"), ("list",)):
        shown = run("rml-study", *command).stdout
        assert key in shown, command
        assert "0.6000" in shown, command
    page = (tmp_path / "report.html").read_text()
    assert f"had the highest {key} of" in page
    assert f'"score_name": "{key}"' in page or f'"score_name":"{key}"' in page


def test_small_score_is_shown_with_its_digits_wherever_it_is_said(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    metrics = {
        "0": [{"plugins": {"boundary": value}} for value in (-3e-5, -2.3456e-5, -2.4e-5)],
        "1": [{"plugins": {"boundary": value}} for value in (-9e-5, -8e-5, -7e-5)],
    }
    result = search(run, discs, tmp_path, {"metrics": metrics}, "--objective", "boundary")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "boundary -2.346e-05 (epoch 2 of 3)" in result.stdout
    assert "best -2.346e-05 (trial 0)" in result.stdout
    assert "  boundary -2.346e-05 on the test images" in result.stdout
    for command in (("status",), ("best",), ("trials",), ("show", "--trial", "0"), ("list",)):
        assert "-2.346e-05" in run("rml-study", *command).stdout, command
    page = (tmp_path / "report.html").read_text()
    assert "-2.346e-05 at its best epoch" in page
    assert "[-3e-05,-2.3456e-05,-2.4e-05]" in page.replace(" ", "")
    for text in (result.stdout, page):
        assert "-0.0000" not in text
    note = get_note(optuna.Trial(load(tmp_path), load(tmp_path).trials[0]._trial_id))
    assert "-2.346e-05" in note


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("dice_dataset", 0.87412, "0.8741"),
        ("dice_dataset", 1e-9, "0.0000"),
        ("Dice", 0.5, "0.5000"),
        ("dice_dataset.lesion", 0.03123, "0.0312"),
        ("boundary", 0.6, "0.6000"),
        ("boundary", -0.0, "0.000"),
        ("boundary", -12.3456, "-12.35"),
        ("boundary", -1e-5, "-1.000e-05"),
        ("boundary", 12345.6, "12346"),
        ("boundary", 1.25e9, "1.250e+09"),
    ],
)
def test_scores_have_as_many_digits_as_they_need(key: str, value: float, shown: str) -> None:
    assert format_score(value, key) == shown


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (None, "Dice (data set)"),
        ("dice_per_image", "Dice (per image)"),
        ("dice_dataset.lesion", "Dice of lesion (data set)"),
    ],
)
def test_optuna_calls_the_values_by_name(
    discs: Path, run: Run, tmp_path: Path, key: str | None, name: str
) -> None:
    metrics = {"all": METRICS.get(key or "", {}).get("0", entries(0.1, 0.2, 0.3))}
    more = ("--objective", key) if key else ()
    assert search(run, discs, tmp_path, {"metrics": metrics}, *more).returncode == 0
    assert load(tmp_path).metric_names == [name]


def test_study_goes_on_with_its_objective_only(discs: Path, run: Run, tmp_path: Path) -> None:
    settings = {"metrics": {"all": entries(0.3, 0.5, 0.4)}}
    assert search(run, discs, tmp_path, settings).returncode == 0
    other = search(run, discs, tmp_path, settings, "--objective", "dice_per_image")
    assert "objective: dice_dataset  ->  dice_per_image" in one_error(other)
    # a study of an earlier release, which has noted none, has the default
    same = search(run, discs, tmp_path, settings, "--objective", "dice_dataset")
    assert same.returncode == 0, same.stderr


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"metrics": {"all": entries(0.1, 0.2, 0.3)}},
            "the evaluation has no 'sharpness'; it has dice_dataset, dice_per_image",
        ),
        ({}, "nothing of epoch 1 to metrics.jsonl, and out_test.txt has the accuracy only"),
        (
            {"metrics": {"all": entries(None, 0.2, 0.3, key="sharpness")}},
            "sharpness is undefined (null) in the evaluation after epoch 1",
        ),
        (
            {"metrics": {"all": entries(1e300, 0.2, 0.3, key="sharpness")}},
            "expected a finite number, received 1e+300",
        ),
    ],
)
def test_worker_without_the_figure_ends_the_search_in_one_line(
    discs: Path, run: Run, tmp_path: Path, settings: dict[str, object], expected: str
) -> None:
    result = search(run, discs, tmp_path, settings, "--objective", "sharpness")
    message = one_error(result)
    assert expected in message
    assert "sharpness" in message
    assert len(message.splitlines()) == 1
    assert len(load(tmp_path).trials) == 1, "the others would fail alike"


@pytest.mark.parametrize(
    "key",
    [
        "loss",
        "loss:minimize",
        "boundary:min",
        "dice_per_image:minimize",
        "-loss",
        "",
        "epoch",
        "a\x1bb",
    ],
)
def test_objective_that_trials_cannot_be_compared_by_is_refused(
    discs: Path, run: Run, tmp_path: Path, key: str
) -> None:
    result = search(run, discs, tmp_path, {}, f"--objective={key}")
    assert "--objective" in one_error(result)
    assert not (tmp_path / "rml_optimize.db").exists()


def test_no_metric_has_a_name_beside_which_its_score_is_said() -> None:
    """Else one would take the place of the other."""
    objective, own = Objective("boundary"), {"boundary", "last_boundary"}
    trial = optuna.trial.create_trial(state=optuna.trial.TrialState.COMPLETE, value=0.5)
    running = Running(0, None, None, 1, 0.5, {})
    found = {
        *describe_trial(trial, objective),
        *_row(trial, objective),
        *_describe_running(running, objective),
        *_columns(objective.key),
        *("test", "best_of_optuna"),  # of `rml-study best`
        *("trial", "epoch", "params", "is_foreign"),  # of the best in `rml-study status`
        *("values", "selected", "seeds"),  # of `rml-study confirm`
    }
    assert own < found
    for name in found - own:
        with pytest.raises(UsageError, match="is no figure of an evaluation"):
            parse_objective(name)


def test_our_worker_refuses_a_figure_that_it_does_not_measure(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    arguments = optimize(discs, "--num-trials", 1, "--objective", "dice_dataset.lesion")
    message = one_error(run("rml-optimize", *arguments))
    assert "did you mean" in message or "Known: " in message
    assert "dice_dataset.foreground" in message
    assert "Traceback" not in message


def test_metric_of_ones_own_chooses_the_best_model(
    discs: Path, run: Run, tmp_path: Path, documented_plugins: Path
) -> None:
    result = run(
        "rml-optimize",
        *optimize(discs, "--num-trials", 2, "--objective", "digits_dice", "--jobs", 1),
        "--launcher", "local", "--select-on", "validation", PYTHONPATH=str(documented_plugins),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    model = json.loads((tmp_path / "best_model/trial.json").read_text())
    tested = json.loads((tmp_path / "best_model/test.json").read_text())
    assert model["objective"] == tested["objective"] == "digits_dice"
    best = max(trial.value or 0.0 for trial in load(tmp_path).trials)
    assert model["score"] == pytest.approx(best)
    # on these images, of which none is empty, it is the mean over images, which we compute too
    assert tested["score"] == pytest.approx(tested["dice_per_image"])
    assert f"digits_dice {tested['score']:.4f}, dice_dataset " in result.stdout


@pytest.mark.parametrize("pruner", ["none", "asha"])
def test_epoch_without_the_figure_counts_as_none_at_all(
    discs: Path, run: Run, tmp_path: Path, pruner: str
) -> None:
    settings = {"metrics": {"0": entries(None, 0.5, None), "1": entries(0.2, 0.3, 0.4)}}
    more = ("--objective", "dice_per_image", "--pruner", pruner)
    result = search(run, discs, tmp_path, settings, *more)
    assert result.returncode == 0, result.stdout + result.stderr
    first, second = load(tmp_path).trials
    assert second.value == 0.4
    assert first.intermediate_values[1] == 0.0
    if pruner == "none":
        assert (first.value, first.intermediate_values[3]) == (0.5, 0.0)
        model = json.loads((tmp_path / "best_model/trial.json").read_text())
        assert (model["trial"], model["epoch"], model["score"]) == (0, 2, 0.5)


def test_promoted_trial_without_the_figure_is_not_trained_anew(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    bad = [*entries(0.5), *entries(1e300, 0.9)]
    settings = {
        "metrics": {"0": entries(0.1, 0.2, 0.3), "1": bad, "2": entries(0.2, 0.2, 0.2)},
        "capabilities": ["checkpoints.keep", "checkpoints.resume", "checkpoints.pause_after"],
    }
    result = search(
        run, discs, tmp_path, settings, "--objective", "dice_per_image", "--num-trials", 3
    )
    assert "once more" not in result.stdout
    assert len(list((tmp_path / "runs").glob("*/trial_00001/attempt_*"))) == 2


def test_class_that_no_scored_mask_shows_is_nothing_to_compare_by(
    run: Run, tmp_path: Path
) -> None:
    data = write_discs(tmp_path / "data")
    for part in ("train", "test"):
        for path in (data / part / "targets").iterdir():
            mask = (cv2.imread(str(path), 0) > 0).astype(np.uint8)
            mask[:3, :3] = 2 if part == "train" else 0
            cv2.imwrite(str(path), mask)
    names = ("--loss", "NLL", "--set", 'data.class_names=["tissue","cyst","lesion"]', "--dry-run")
    of_class = ("--objective", "dice_dataset.lesion")
    message = one_error(run("rml-optimize", *optimize(data, *names, *of_class)))
    assert "no mask of the test images shows lesion" in message
    assert "they show tissue, cyst" in message
    more = ("--select-on", "validation", *of_class)
    result = run("rml-optimize", *optimize(data, *names, *more))
    assert result.returncode == 0, result.stdout + result.stderr


def test_paused_trials_go_on_by_the_objective(discs: Path, run: Run, tmp_path: Path) -> None:
    values = [[0.1, 0.2, 0.3], [0.5, 0.6, 0.7], [0.2, 0.3, 0.4], [0.15, 0.2, 0.2]]
    settings = {
        "metrics": {str(number): entries(*each) for number, each in enumerate(values)},
        "curve": {str(number): [1 - each[0]] * 3 for number, each in enumerate(values)},
        # an engine that keeps the best epoch by the accuracy, and can do it by nothing else
        "capabilities": [
            "checkpoints.keep", "checkpoints.resume", "checkpoints.pause_after",
        ],
    }  # fmt: skip
    result = search(
        run, discs, tmp_path, settings, "--objective", "dice_per_image", "--num-trials", 4
    )
    assert result.returncode == 0, result.stdout + result.stderr
    trials = load(tmp_path).trials
    assert trials[1].state.name == "COMPLETE"
    assert trials[1].intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7}
    order = [line for line in result.stdout.splitlines() if " goes on" in line]
    assert "trial   1 goes on" in order[0]
    (config,) = (tmp_path / "runs").glob("*/trial_00001/attempt_1/config.json")
    assert json.loads(config.read_text())["neural_network"]["checkpoints"]["keep"] == "all"


def test_objective_of_a_study_file(discs: Path, run: Run, tmp_path: Path) -> None:
    text = (
        'title = "of one class"\nobjective = "{}"\nselect_on = "test"\n'
        '[[search]]\nkey = "optimizer.learning_rate"\nrange = [0.001, 0.01]\n'
    )
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine/study.toml"
    file.write_text(text.format("dice_dataset.foreground"))
    arguments = optimize(discs, "--study", "mine", "--dry-run", "--set", "loss.function=Dice")
    result = run("rml-optimize", *arguments)
    assert "dice_dataset.foreground at the network's size 32x32" in result.stdout, result.stderr
    file.write_text(text.format("loss"))
    assert "trials are not compared by it" in one_error(run("rml-optimize", *arguments))
