"""Builds the config of one trial: for its worker, for the database and for `best_model/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpo.launchers import Launcher
from hpo.plan.objectives import BEST_BY, BEST_DIRECTION, keep_best
from hpo.plan.samplers import derived_seed
from hpo.plan.space import without_extensions
from hpo.plan.spec import StudySpec
from trainer.config import parse_config, settings_of
from trainer.keypath import get_path, set_path

PAUSE_KEY = "checkpoints.pause_after"
SECONDS_BETWEEN_LINES = 2.0  # of a worker's log, which nobody reads while trials run


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """A trial's `neural_network` object.

    Attributes:
        written: for the worker, with paths as it sees them and without what it does not know.
        recorded: for the database: as written, but `layers` by its name.
        on_host: for the best model: all keys, `layers` by its name, and the images that trials are
            compared on by their paths on this host.
        network_file: the network's file in the inputs folder.
        asked: the settings that the worker was told, which it should use, by dotted path.
    """

    written: Mapping[str, Any]
    recorded: Mapping[str, Any]
    on_host: Mapping[str, Any]
    network_file: str
    asked: Mapping[str, Any]

    @property
    def keeps_state(self) -> bool:
        """Whether the worker writes a state, from which another attempt goes on."""
        return get_path(self.written, "checkpoints.resume") is True


def make_trial_config(
    spec: StudySpec,
    launcher: Launcher,
    number: int,
    chosen: Mapping[str, Any],
    *,
    pause_after: int | None = None,
) -> TrialConfig:
    """Build the config of trial `number` with those values, for a worker of `launcher`.

    Only what is written says after which epoch the worker pauses.

    Raises:
        ConfigError: the values don't go together.
        LauncherError: the worker cannot be asked what it knows.
    """
    config = spec.worker_config(launcher, chosen)
    config["seed"] = derived_seed(spec.seed, number, "training")
    if get_path(config, "checkpoints.resume"):  # nobody resumes a trial that is done
        set_path(config, "checkpoints.resume_when_done", False)
    keep_best(config, spec.objective, launcher)
    parsed = parse_config({"neural_network": config}, f"trial {number}")
    thinned = {"log_interval_s": SECONDS_BETWEEN_LINES} | config
    written = without_extensions(thinned, known=launcher.capabilities())
    recorded = dict(written)
    if pause_after is not None:
        set_path(written, PAUSE_KEY, pause_after)
    name = spec.network_of(chosen)
    on_host: dict[str, Any] = {**json.loads(json.dumps(config)), "layers": name}
    root, test = spec.trained.root, spec.trained.test
    assert test is not None
    on_host["data"]["test_input_path"] = str(root / test.inputs)
    on_host["data"]["test_target_path"] = str(root / test.targets)
    asked = {
        key: value
        for key, value in settings_of(parsed).items()
        if get_path(written, key) is not None
    }
    if get_path(written, BEST_BY) is not None:  # else its best checkpoint is not the trial's
        asked[BEST_DIRECTION] = spec.objective.direction.value
    return TrialConfig(
        written=written,
        recorded={**recorded, "layers": name},
        on_host=on_host,
        network_file=spec.networks[name].file,
        asked=asked,
    )
