"""`rml-optimize --new-study DIR`: a commented study.toml that fits the user's own data."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

from hpo.dataset.datafolder import find_data
from hpo.dataset.survey import DataSurvey, survey_data
from hpo.errors import UsageError
from hpo.plan.planner import DEFAULT_DATA
from hpo.plan.studyfile import STUDY_FILE
from studies.prepare.groups import read_groups
from trainer.data.doubts import doubts_about
from trainer.rundir import write_atomic

RARE_SHARE = 0.05  # of the pixels: below, losses that count pixels learn to predict nothing
LARGEST_SIDE_PX, SIDE_STEP_PX = 256, 32  # networks halve their input up to five times

TEMPLATE = """\
# A study: what `rml-optimize --study {folder}` searches. Every line may be changed; whatever is
# given on the command line wins over it. Written from {data}:
# {num_train} training and {num_test} test images, {sizes}, {channels}.
# Masks: {masks}.
title = {title}
num_trials = 50
num_epochs = 50

# A built-in network (unet, unet:width=16,depth=4, resunet, fcn8s, light_unet, …) or a Keras-JSON
# file beside this one.
layers = "unet"
# In its place, a network that starts from weights of ImageNet, which pip brings; it wants sides
# that are multiples of 32 (docs/weights.md):
# layers = "efficientunet"
# transfer_learning = "efficientnet-lite0"
resize = [{height}, {width}]
# Augmentation of the training images; see docs/config.md for all transforms.
transforms = [
    {{ random_horizontal_flip = 0.5 }},
    # {{ random_rotate = 15 }},
    # {{ intensity_jitter = {{ brightness = 0.1, contrast = 0.1 }} }},
]

# Trials are compared on a part of the training images; the test images are used once, at the end.
select_on = "validation"
validation_fraction = 0.2
{group_by}

[config]    # any field of the worker's config, fixed
# Whether the accuracy averages the background, too, where the network has several channels.
"metrics.include_background" = true
"data.batch_size" = {batch_size}
"data.test_batch_size" = {test_batch_size}

[[search]]
key = "optimizer.type"
values = ["Adam", "SGD"]

# A learning rate that suits one optimizer suits no other, so each has its own range.
[[search]]
key = "optimizer.learning_rate"
when = {{ "optimizer.type" = "Adam" }}
range = [1e-4, 1e-2]
log = true

[[search]]
key = "optimizer.learning_rate"
when = {{ "optimizer.type" = "SGD" }}
range = [1e-3, 0.3]
log = true

[[search]]
key = "optimizer.momentum"
when = {{ "optimizer.type" = "SGD" }}
values = [0.9]

# {loss_note}
[[search]]
key = "loss.function"
values = [{losses}]

# More to search, if wanted:
# [[search]]
# key = "layers"
# values = ["unet", "light_unet"]
#
# [[search]]
# key = "data.batch_size"
# values = [8, 16, 32]
"""


def write_study(
    folder: Path, data: Path | None, progress: Callable[[int, int], None]
) -> list[str]:
    """Write `folder`/study.toml for a data folder and return what to tell the user.

    Raises:
        UsageError: there is a study in the folder, or no data.
        DataError: images or masks that cannot be used.
    """
    path = folder / STUDY_FILE
    if path.exists():
        raise UsageError(f"--new-study: there is {path} already; name another folder")
    root = data or DEFAULT_DATA
    found = find_data(root, needs_test=False)
    with tempfile.TemporaryDirectory() as aside:
        survey = survey_data(found, cache=Path(aside) / "read.json", progress=progress)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, _fill(folder, root, survey))
    command = f"rml-optimize --study {shlex.quote(str(folder))}"
    if data is not None:
        command += f" --data {shlex.quote(str(data))}"
    return [
        f"written: {path}",
        *(f"warning: {doubt}" for doubt in doubts_about(survey.coding)),
        "next: edit it, and see what it would do:",
        f"  {command} --dry-run",
    ]


def _fill(folder: Path, root: Path, survey: DataSurvey) -> str:
    (small_height, small_width), large = survey.sizes
    sizes = f"{small_height}x{small_width}"
    if large != survey.sizes[0]:
        sizes += f" to {large[0]}x{large[1]}"
    height, width = (_side(pixels) for pixels in survey.sizes[1])
    counts = survey.coding.counts
    share = 1 - max(counts.values()) / max(sum(counts.values()), 1)
    is_binary, is_rare = survey.coding.num_classes == 2, share < RARE_SHARE
    if is_rare:
        losses = ["Dice", "Focal"]
        note = f"All but {share:.1%} of the pixels are one class: Dice and Focal bear that."
    else:
        losses = ["BCE" if is_binary else "NLL", "Dice"]
        note = f"{share:.1%} of the pixels are not of the commonest class."
    if read_groups(root):
        group_by = "# Patients and near-duplicates stay together, by the groups.csv of the data."
    else:
        group_by = (
            "# Several images of one patient? Keep them together: what this regular expression\n"
            "# matches in a file's name is the patient.\n# group_by = '^(patient\\d+)_'"
        )
    batch_size = 16 if survey.num_train >= 200 else 8 if survey.num_train >= 50 else 4
    return TEMPLATE.format(
        folder=_one_line(folder),
        data=_one_line(root),
        title=json.dumps(folder.absolute().name, ensure_ascii=False),
        num_train=survey.num_train,
        num_test=survey.num_test,
        sizes=sizes,
        channels="all gray" if survey.is_gray else "colour",
        masks=survey.coding.describe(),
        height=height,
        width=width,
        group_by=group_by,
        batch_size=batch_size,
        test_batch_size=4 * batch_size,
        losses=", ".join(f'"{loss}"' for loss in losses),
        loss_note=note,
    )


def _side(pixels: int) -> int:
    """Return a side that networks can halve five times, not larger than the images."""
    return min(LARGEST_SIDE_PX, max(SIDE_STEP_PX, pixels // SIDE_STEP_PX * SIDE_STEP_PX))


def _one_line(path: Path) -> str:
    """Return a path as a comment can hold it."""
    return repr(str(path))[1:-1]
