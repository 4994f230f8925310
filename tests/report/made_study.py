"""A study as a search leaves it, without one: trials, cases and attributes with evil texts."""

from __future__ import annotations

import datetime as dt
import json
import math
from pathlib import Path

import cv2
import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.folders import WorkFolders
from hpo.keys import ABOUT, END, IDENTITY, PROVENANCE, STUDY_ID, TESTED, TITLE, TOKEN
from hpo.report.cases import ImageScores, write_index

EVIL = "</script><script>document.title='run'</script><img src=x onerror=document.title='run'>"
SPACE = {
    "optimizer.learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
    "loss.function": CategoricalDistribution(["Dice", EVIL]),
}
NUM_EPOCHS = 10


def make_trials(number: int) -> list[FrozenTrial]:
    """Return finished trials: the learning rate decides, and 0.01 is the best; then a failure."""
    rng = np.random.default_rng(1)
    began = dt.datetime(2026, 1, 1)
    trials = []
    for index in range(number):
        rate = float(10 ** rng.uniform(-4, -1))
        score = 0.9 - 0.1 * abs(math.log10(rate) + 2)
        epochs = NUM_EPOCHS if index % 3 else 4
        trial = create_trial(
            state=TrialState.COMPLETE if index % 3 else TrialState.PRUNED,
            value=score,
            params={
                "optimizer.learning_rate": rate,
                "loss.function": ("Dice", EVIL)[int(rng.integers(2))],
            },
            distributions=SPACE,
            intermediate_values={e: score * (1 - 0.5 / e) for e in range(1, epochs)}
            | {epochs: score},
            user_attrs={
                TOKEN: "ours",
                END: {"end": "complete", "host": f"node{index % 2}"},
                PROVENANCE: {"host": f"node{index % 2}", "gpus": [{"name": "H100"}]},
            },
        )
        trial.datetime_start = began + dt.timedelta(seconds=60 * index)
        trial.datetime_complete = trial.datetime_start + dt.timedelta(seconds=90)
        trials.append(trial)
    failed = create_trial(
        state=TrialState.FAIL, params=trials[0].params, distributions=SPACE,
        user_attrs={TOKEN: "ours", END: {"end": "failed", "message": EVIL, "host": "node1"}},
    )  # fmt: skip
    return [*trials, failed]


def make_study(output: Path, number: int = 30, *, name: str = "made") -> optuna.Study:
    """Return a study whose winner was tested, with cases in its output folder."""
    study = optuna.create_study(study_name=name, direction="maximize")
    study.add_trials(make_trials(number))
    best = winner(study)
    attributes = {
        TITLE: f"Title {EVIL}",
        STUDY_ID: f"id of {name}",
        IDENTITY: {"select on": "validation", "search loss.function": EVIL},
        ABOUT: {
            "is_synthetic": True, "select_on": "validation",
            "selected_on": "20% of the training images",
        },
        TESTED.format(best): {
            "trial": best, "dice_dataset": 0.8123, "dice_per_image": 0.7,
            "interval": [0.75, 0.85], "num_images": 40, "num_drawn": 40, "drawn": "images",
        },
    }  # fmt: skip
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    make_cases(WorkFolders.of(output, name).cases(best), best)
    return study


def make_minimized(number: int) -> optuna.Study:
    """Return the study whose values are the negative of those of `make_study`, minimized."""
    study = optuna.create_study(study_name="minimized", direction="minimize")
    for trial in make_trials(number):
        if trial.value is not None:
            trial.value = -trial.value
        trial.intermediate_values = {e: -v for e, v in trial.intermediate_values.items()}
        study.add_trial(trial)
    study.set_user_attr(IDENTITY, {"objective": "distance", "direction": "minimize"})
    return study


def winner(study: optuna.Study) -> int:
    """Return the number of the best trial, be it pruned."""
    scores = {t.number: t.value for t in study.get_trials() if t.value is not None}
    return max(scores, key=lambda number: scores[number])


def make_cases(folder: Path, trial: int) -> ImageScores:
    """Write a folder of cases as `hpo.run.cases` does: 40 images, of which some are kept."""
    for part in ("images", "targets", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(2)
    scores = ImageScores(
        at_own_size=True,
        classes=("lesion",),
        names=tuple(f"{i:02d}{EVIL if i == 3 else ''}.png" for i in range(40)),
        dice=tuple((float(value),) for value in rng.uniform(0, 1, 40)),
        per_class={"lesion": {"dice": 0.8123, "iou": 0.7}},
    )
    cases = []
    for number, (index, kind) in enumerate(scores.chosen()):
        file = f"{number:02d}.png"
        mask = np.zeros((48, 64), np.uint8)
        mask[10:30, 20:50] = 255
        found = np.roll(mask, 5, axis=1)
        for part, picture in (
            ("images", rng.integers(0, 255, (48, 64, 3), np.uint8)),
            ("targets", mask),
            ("masks", found),
        ):
            assert cv2.imwrite(str(folder / part / file), picture)
        entry = {key: f"{key}s/{file}" for key in ("image", "target", "mask")}
        cases.append({"name": scores.names[index], "kind": kind, **entry})
    write_index(
        folder,
        scores,
        of={"trial": trial, "attempt": 1, "part": "test"},
        cases=cases,
        data={"mask_values": [0, 255]},
    )
    return scores


def data_of(page: Path) -> dict[str, object]:
    """Return the JSON in a page."""
    text = page.read_text()
    begin = text.index('<script type="application/json" id="data">')
    begin = text.index(">", begin) + 1
    data: dict[str, object] = json.loads(text[begin : text.index("</script>", begin)])
    return data
