"""What a search is, decided and checked: the one object that everything after planning reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hpo.dataset.datafolder import DataFolder
from hpo.dataset.intervals import Grouping
from hpo.dataset.survey import DataSurvey
from hpo.dataset.trivial_baseline import TrivialScore
from hpo.folders import WorkFolders
from hpo.launchers import Launcher, Mount
from hpo.objective import Objective
from hpo.plan.inputs import NetworkChoice
from hpo.plan.space import SearchSpace, build_config
from hpo.plan.weights import StartWeights
from hpo.records import DataRecord
from hpo.scoring_rules import SCORING_KEY, SCORING_RULES
from hpo.store.budget import is_open_ended
from hpo.store.first_trials import FirstTrial
from hpo.store.study import WantedStudy
from trainer.figures import DICE_DATASET, DICE_PER_IMAGE
from trainer.keypath import get_path, set_path
from trainer.networks import NetworkFacts


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A search, planned and checked.

    Attributes:
        base: the `neural_network` object without paths, before anything is sampled.
        networks: value of `layers` (fixed or sampled) -> file in the inputs folder and the
            config fields that go with that network.
        weights: what trials start from, None for random weights.
        data: the user's folder; its test images are read once, at the end, where trials are
            compared on a validation part.
        trained: the folder that trials read: training images, and those they are compared on.
        grouping: which images are of one patient.
        facts: the network of the base config.
        objective: what trials are compared by.
        validation_fraction: of the training images, None where none are split off.
        shares_ranges: TPE is shown one position in the place of conditional ranges of one field.
        first: configurations that are tried before others are sampled.
        trackers: what is told of trials, by name.
        published: the result to beat, and how it was reached.
        num_trials: all told; `OPEN_ENDED` for as many as fit into its hours.
        hours: wall time that this driver asks for; the study may have more.
        names_pruner: the user has chosen the pruner.
        is_synthetic: the data are generated, not images of anything.
        warnings: what the user should know before the first trial.
        trivial: part that is scored -> what one answer for every pixel scores on it.
    """

    name: str
    title: str
    is_synthetic: bool
    folders: WorkFolders
    data: DataFolder
    survey: DataSurvey
    trained: DataFolder
    base: Mapping[str, Any]
    networks: Mapping[str, NetworkChoice]
    weights: StartWeights | None
    facts: NetworkFacts
    space: SearchSpace
    num_trials: int
    num_epochs: int
    select_on: Literal["test", "validation"]
    objective: Objective
    validation_fraction: float | None
    group_by: str | None
    grouping: Grouping
    pruner: str
    sampler: str
    shares_ranges: bool
    first: tuple[FirstTrial, ...]
    seed: int
    published: str | None
    hashes: Mapping[str, str]
    trackers: tuple[str, ...] = ()
    hours: float | None = None
    names_pruner: bool = True
    warnings: tuple[str, ...] = ()
    trivial: Mapping[str, tuple[TrivialScore, ...]] = field(default_factory=dict)

    @property
    def num_warmup_epochs(self) -> int:
        """Epochs that no pruner touches: a learning curve says little before."""
        return num_warmup_epochs(self.num_epochs)

    @property
    def is_open_ended(self) -> bool:
        """Whether it has as many trials as fit into its hours."""
        return is_open_ended(self.num_trials)

    def num_expected(self, num_known: int) -> int:
        """Return how many trials there will be, or those that are known where nobody knows."""
        return num_known if self.is_open_ended else self.num_trials

    @property
    def scored_at(self) -> str:
        """Say at which size predictions are compared with masks."""
        if get_path(self.base, "metrics.at_size") == "images":
            return "the images' own size"
        height, width = self.facts.input_shape[:2]
        return f"the network's size {height}x{width}"

    @property
    def averaged(self) -> str:
        """Say which classes the score averages."""
        if self.facts.output_shape[-1] == 1:
            return "of the foreground, the network's one class"
        if get_path(self.base, "metrics.include_background", True) is True:
            return "averaged over all classes, the background among them"
        return "averaged over the classes without the background"

    @property
    def compared_by(self) -> str:
        """Say by which figure trials are compared, and of what."""
        text = f"{self.objective} at {self.scored_at}{self.objective.direction.remark}"
        has_average = self.objective.key in (DICE_DATASET, DICE_PER_IMAGE)
        return f"{text}, {self.averaged}" if has_average else text

    def trivial_on(self, part: str) -> tuple[TrivialScore, ...]:
        """Return what one answer for every pixel scores on "test" or "validation"."""
        return self.trivial.get(f"{part} images", ())

    def network_of(self, chosen: Mapping[str, Any]) -> str:
        """Return the value of `layers` in a trial: what was sampled, else the only one."""
        return str(chosen.get("layers", next(iter(self.networks))))

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """Return the folders that workers read, and nothing beside them.

        The data folder may hold the output folder, with the study and all other runs. Where trials
        are compared on a validation part, the test images are for the final test only.
        """
        reads_split = self.trained.root != self.data.root
        mounts = [Mount(name="inputs", path=self.folders.inputs)]
        if reads_split:
            mounts.append(Mount(name="split", path=self.trained.root))
        if not reads_split or self.data.test is not None:
            mounts.append(self.data.mount(tests_only=reads_split))
        return tuple(mounts)

    def worker_paths(self, launcher: Launcher) -> dict[str, str]:
        """Return the config's data paths as a worker of `launcher` sees them."""
        mount = next(mount for mount in self.mounts if mount.path == self.trained.root)
        assert self.trained.test is not None
        parts = {
            "data.input_path": self.trained.train.inputs,
            "data.target_path": self.trained.train.targets,
            "data.test_input_path": self.trained.test.inputs,
            "data.test_target_path": self.trained.test.targets,
        }
        return {key: launcher.worker_path(mount, part) for key, part in parts.items()}

    def has_inputs(self) -> bool:
        """Say whether what workers read is there."""
        files = [network.file for network in self.networks.values()]
        files += [self.weights.file] if self.weights is not None else []
        are_files = all((self.folders.inputs / file).is_file() for file in files)
        return are_files and (self.trained.root / self.trained.train.inputs).is_dir()

    def describe_data(self) -> DataRecord:
        """Return what trials read: hash of the data set, and the parts of which folder."""
        trained = self.trained
        assert trained.test is not None
        return {
            "hash": self.survey.fingerprint,
            "folder": "data" if trained.root == self.data.root else trained.root.name,
            "train": [str(trained.train.inputs), str(trained.train.targets)],
            "test": [str(trained.test.inputs), str(trained.test.targets)],
            "group_by": self.grouping.pattern,
        }

    def worker_config(self, launcher: Launcher, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return the `neural_network` object with those values, for a worker of `launcher`."""
        network = self.networks[self.network_of(chosen)]
        config = build_config(self.base, {**network.settings, **chosen})
        config["layers"] = self.input_path(launcher, network.file)
        if self.weights is not None:
            set_path(config, "checkpoints.load", self.input_path(launcher, self.weights.file))
        for key, path in self.worker_paths(launcher).items():
            set_path(config, key, path)
        return config

    def input_path(self, launcher: Launcher, file: str) -> str:
        """Return a network or weights file as a worker of `launcher` sees it."""
        mount = next(mount for mount in self.mounts if mount.name == "inputs")
        return launcher.worker_path(mount, file)

    def wanted(self) -> WantedStudy:
        """Return the study that this search is, for the database."""
        return WantedStudy(
            name=self.name,
            title=self.title,
            identity=self.identity(),
            objective=self.objective,
        )

    @property
    def _selection(self) -> str:
        if self.data.validation is not None:
            survey, folder = self.survey, self.data.validation.inputs
            return (
                f"validation ({survey.num_validation} images of {folder}, "
                f"hash {survey.validation_fingerprint})"
            )
        if self.validation_fraction is None:
            return self.select_on
        groups = f", grouped by {self.group_by}" if self.group_by else ""
        return f"validation ({self.validation_fraction:g} of the training images{groups})"

    def identity(self) -> dict[str, str]:
        """Return what drivers of one study must agree on, name -> readable value."""
        entries = {f"search {name}": text for name, text in self.space.describe().items()}
        entries |= {
            f"config {key}": json.dumps(value, sort_keys=True)
            for key, value in sorted(flatten(self.base).items())
        }
        entries |= {
            f"network {name}": json.dumps(dict(network.settings), sort_keys=True)
            for name, network in self.networks.items()
        }
        return entries | {
            SCORING_KEY: str(SCORING_RULES),
            "data": f"{self.survey.num_train} + {self.survey.num_test} images, "
            f"hash {self.survey.fingerprint}",
            "epochs": str(self.num_epochs),
            "select on": self._selection,
            "pruner": self.pruner,
            **self.objective.identity,
            **{f"hash of {file}": digest for file, digest in self.hashes.items()},
        }


def num_warmup_epochs(num_epochs: int) -> int:
    """Return the epochs of a trial that no pruner touches."""
    return max(3, -(-num_epochs // 5))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted path -> value of a tree of sections."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
