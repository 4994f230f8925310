"""A trial as it was: its recorded config, on the images and networks that are here.

Only the config is taken from the database; every folder comes from the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from hpo.console import counting
from hpo.dataset.content_hashes import check_split
from hpo.dataset.datafolder import DataFolder, find_data
from hpo.dataset.survey import HASH_LENGTH, data_fingerprint, refuse_other_images
from hpo.errors import UsageError
from hpo.folders import WorkFolders
from hpo.launchers import Launcher, Mount
from hpo.plan.scoring_keys import ROTATE_DIRECTION, SCORE_KEYS, rotates
from hpo.records import RunRecord
from hpo.results.provenance import config_hash
from trainer import rundir
from trainer.bounded import parse_json
from trainer.keypath import copy_config, get_path, set_path

MAX_CONFIG_BYTES = 2**24

# The defaults of earlier releases, whose configs do not state them.
EARLIER_RULES = {"data.mask_resize": "opencv", "metrics.include_background": False}


def recorded_config(provenance: RunRecord) -> dict[str, Any]:
    """Return the trial's whole config: from the database, or from its run folder if too long."""
    if not provenance.get("is_shortened"):
        return dict(provenance["config"])
    path = Path(provenance["run_dir"]) / rundir.CONFIG
    try:
        text = rundir.read_untrusted(path, MAX_CONFIG_BYTES).decode()
        config = dict(parse_json(text)["neural_network"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"the trial's config is too long for the database, and {path} cannot be read here; "
            f"it is on host {provenance.get('host')}"
        ) from None
    config["layers"] = provenance["config"]["layers"]
    if config_hash(config) != provenance["config_hash"]:
        raise UsageError(f"{path} is not the config that the trial ran with")
    return config


def reads_split(provenance: RunRecord) -> bool:
    """Say whether the trial was compared on a validation part, not on the test images."""
    return Path(str(provenance["data"]["folder"])).name != "data"


def recorded_mounts(
    provenance: RunRecord, folders: WorkFolders, data: Path | None, *, name: str = "data"
) -> tuple[Mount, Mount]:
    """Return what the worker reads: images and networks, in folders of this command line.

    Args:
        provenance: the trial's.
        folders: the study's.
        data: the data folder, for a trial that read it itself.
        name: of the mount of the images.
    """
    split = Path(str(provenance["data"]["folder"])).name
    images = folders.study / split if reads_split(provenance) else data
    if images is None:
        raise UsageError("--data is needed: the trial read the data folder itself")
    inputs = folders.inputs
    for path, what in ((images, "images"), (inputs, "networks")):
        if not path.is_dir():
            raise UsageError(
                f"the study's {what} are not here ({path}); give the --output-dir that the study "
                f"had, or go to host {provenance.get('host')}"
            )
    parts: tuple[PurePosixPath, ...] = ()
    follows = get_path(provenance.get("config", {}), "data.follow_symlinks", False) is True
    if not reads_split(provenance) and not follows:  # the split is ours, and all of it is read
        parts = tuple(map(_relative, (*provenance["data"]["train"], *provenance["data"]["test"])))
    return (
        Mount(name=name, path=images.absolute(), parts=parts),
        Mount(name="inputs", path=inputs),
    )


def _relative(path: str) -> PurePosixPath:
    """Check a path from the database.

    Raises:
        UsageError: it leads out of the data.
    """
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise UsageError(f"the trial's record names a path outside its data: {path}")
    return PurePosixPath(path)


def find_recorded_data(root: Path, provenance: RunRecord, *, needs_test: bool) -> DataFolder:
    """Find the parts of a data folder as the trial's search found them.

    Raises:
        UsageError: no such folder, no known layout in it, or half of one.
    """
    # A validation part may have mask values that no other image has.
    data = find_data(root, needs_test=needs_test, wants_validation=reads_split(provenance))
    follows = get_path(recorded_config(provenance), "data.follow_symlinks", False) is True
    return replace(data, follow_symlinks=follows)


def check_images(provenance: RunRecord, images: Path, folders: WorkFolders) -> None:
    """Check that images here are those that a trial read, all of their content.

    Args:
        provenance: the trial's.
        images: the data folder, or the study's split.
        folders: the study's.

    Raises:
        UsageError: they are not.
        DataError: they cannot be read.
    """
    with counting("reading files") as progress:
        if reads_split(provenance):
            check_split(images, progress)
            return
        data = find_recorded_data(images, provenance, needs_test=True)
        found = data_fingerprint(data, folders.contents, progress)
    refuse_other_images(images, provenance["data"]["hash"], found)


def _rules_not_stated(config: Mapping[str, Any], provenance: RunRecord) -> Mapping[str, Any]:
    """Return what a trial ran with where its config states nothing: key -> value.

    The defaults of an earlier release, or since then those of an engine that does not know the
    keys, and so did not get them.
    """
    is_earlier = len(str(provenance["data"]["hash"])) < HASH_LENGTH
    rules = EARLIER_RULES if is_earlier else SCORE_KEYS
    # Since there are two directions, every config that turns images says which.
    return {**rules, ROTATE_DIRECTION: "counterclockwise" if rotates(config) else None}


def placed_config(
    config: Mapping[str, Any],
    provenance: RunRecord,
    mounts: tuple[Mount, Mount],
    launcher: Launcher,
) -> dict[str, Any]:
    """Return the config with the paths as the worker sees them here."""
    placed = copy_config(config)
    for key, rule in _rules_not_stated(config, provenance).items():
        if rule is not None and get_path(placed, key) is None:
            set_path(placed, key, rule)
    images, inputs = mounts
    data = provenance["data"]
    for parts, keys in (
        (data["train"], ("input_path", "target_path")),
        (data["test"], ("test_input_path", "test_target_path")),
    ):
        for key, relative in zip(keys, parts, strict=True):
            set_path(placed, f"data.{key}", launcher.worker_path(images, _relative(relative)))
    network = Path(str(provenance["network"])).name
    if not (inputs.path / network).is_file():
        raise UsageError(f"the trial's network is not here: {inputs.path / network}")
    placed["layers"] = launcher.worker_path(inputs, network)
    weights = get_path(placed, "checkpoints.load")
    if weights:
        path = launcher.worker_path(inputs, Path(str(weights)).name)
        set_path(placed, "checkpoints.load", path)
    return placed
