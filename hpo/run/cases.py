"""Has the winner segment its worst and typical images, for the report: nothing is trained.

The Dice of all images is in the table that the final test left, or an evaluation of the same kind
where there was none. A few images are copied aside and segmented as `rmldnn --predict` does it.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hpo.dataset.datafolder import DataFolder, Part
from hpo.dataset.survey import list_pairs
from hpo.errors import HpoError
from hpo.folders import WorkFolders, locked, read_json, replace_folder
from hpo.launchers import Launcher, Mount, Slot, WorkerJob
from hpo.plan.space import without_extensions
from hpo.report.cases import INDEX, ImageScores, read_image_scores, write_index
from hpo.results.model_folder import copy_model
from hpo.results.models import new_folder
from hpo.run.final_test import place_test
from hpo.run.oneshot import TARGETS_OPTION, run_config, run_worker
from hpo.worker_files import copy_file, remove
from trainer import rundir
from trainer.data.images import Pair
from trainer.keypath import get_path
from trainer.wording import counted

SCORED, RUN, IMAGES, TARGETS, MASKS = "scored", "run", "images", "targets", "masks"


@dataclass(frozen=True, kw_only=True)
class CaseMaker:
    """What is needed to show how well a study's best model does.

    Attributes:
        trial, attempt: whose model it is.
        model: its folder.
        mount: the folder that the images are in, as workers see it.
        data: the same folder, and `part` the images.
        name: "test" or "validation".
    """

    folders: WorkFolders
    trial: int
    attempt: int
    model: Path
    mount: Mount
    data: DataFolder
    part: Part
    name: str
    launcher: Launcher
    slot: Slot
    stopping: threading.Event | None = None

    def make(self) -> str | None:
        """Make the folder of cases, unless it is there; return why there is none, if so.

        Raises:
            HpoError: the worker failed.
            OSError: the disk is full, say.
            DataError: the images cannot be listed.
        """
        if TARGETS_OPTION not in self.launcher.capabilities():
            return "this worker segments no images (rmldnn --predict)"
        target = self.folders.cases(self.trial)
        self.folders.study.mkdir(parents=True, exist_ok=True)
        with locked(target):  # another driver of this output folder may be making them
            if self._is_made(target):
                return None
            for half in self.folders.study.glob(f".{target.name}.*.tmp"):  # of one that was killed
                remove(half, stopping=self.stopping)
            with new_folder(self.folders.study, target.name) as aside:
                missing = self._fill(aside)
                if missing is None:
                    replace_folder(aside, target)
                return missing

    def _is_made(self, target: Path) -> bool:
        known = read_json(target / INDEX)
        return (known.get("trial"), known.get("attempt")) == (self.trial, self.attempt)

    def _fill(self, aside: Path) -> str | None:
        """Fill a new folder with the cases; return why there are none, if so."""
        scores = self._scores(aside)
        if scores is None:
            return "the evaluation left no table of images"
        if sorted(scores.names) != sorted(self._pairs):
            return (
                f"the evaluation's table is not of the {counted(len(self._pairs), 'image')} here"
            )
        cases = list(self._segmented(aside, scores))
        if self.stopping is not None and self.stopping.is_set():
            return "stopped before the images were segmented"
        config = read_json(self.model / rundir.CONFIG)
        data = get_path(config, "neural_network.data") or {}
        write_index(
            aside,
            scores,
            of={"trial": self.trial, "attempt": self.attempt, "part": self.name},
            cases=cases,
            data={key: data.get(key) for key in ("mask_values", "mask_threshold")},
        )
        for folder in (SCORED, RUN):
            remove(aside / folder, stopping=self.stopping)
        return None

    def _scores(self, aside: Path) -> ImageScores | None:
        """Return the Dice of all images: of the final test, or of an evaluation made now.

        Its names are the worker's.
        """
        num_images = len(self._pairs)
        if self.name == "test":
            tested = read_image_scores(self.folders.test(self.trial), num_images)
            if tested is not None:
                return tested
        run_dir = aside / SCORED
        network = copy_model(self.model, run_dir, self.stopping)
        place_test(network, self.launcher, self.mount, self.part)
        ended = run_config(
            self.launcher, self.slot, run_dir, network, self.stopping, sees_tests=True
        )
        if ended is None:
            return None
        if ended.exit_code != 0:
            raise HpoError(f"the images could not be scored:\n{ended.log_tail}")
        return read_image_scores(run_dir, num_images)

    @cached_property
    def _pairs(self) -> dict[str, Pair]:
        pairs = list_pairs(self.data, self.part, f"{self.name} ")
        return {pair.name: pair for pair in pairs}

    def _segmented(self, aside: Path, scores: ImageScores) -> Iterator[Mapping[str, str]]:
        """Copy the images that are shown, have them segmented, and yield what is where."""
        pairs = self._pairs
        run_dir = aside / RUN
        network = copy_model(self.model, run_dir, self.stopping)
        known = self.launcher.capabilities()
        text = rundir.dump_config(without_extensions(network, known=known))
        rundir.write_atomic(run_dir / rundir.CONFIG, text)
        for folder in (aside / IMAGES, aside / TARGETS, aside / MASKS, run_dir / IMAGES):
            folder.mkdir()
        found: list[tuple[str, str, str, str, str]] = []
        for index, kind in scores.chosen():
            pair = pairs[scores.names[index]]
            if pair.target is None:
                continue
            stem = f"{len(found):02d}"  # no name of the user's: two may differ in their folder
            image, target = (stem + path.suffix for path in (pair.input, pair.target))
            shutil.copyfile(pair.input, aside / IMAGES / image)
            shutil.copyfile(pair.target, aside / TARGETS / target)
            shutil.copyfile(pair.input, run_dir / IMAGES / image)
            found.append((pair.name, kind, image, target, f"{stem}.png"))
        if not found:
            return
        args = ("--predict", ".", "--images", IMAGES, "--out", ".")
        job = WorkerJob(run_dir=run_dir, slot=self.slot, args=args)
        ended = run_worker(self.launcher, job, stopping=self.stopping)
        if ended is None:
            return
        if ended.exit_code != 0:
            number = counted(len(found), "image")
            raise HpoError(f"{number} could not be segmented:\n{ended.log_tail}")
        for name, kind, image, target, mask in found:
            copy_file(run_dir / MASKS / mask, aside / MASKS / mask, stopping=self.stopping)
            yield {
                "name": name,
                "kind": kind,
                "image": f"{IMAGES}/{image}",
                "target": f"{TARGETS}/{target}",
                "mask": f"{MASKS}/{mask}",
            }
