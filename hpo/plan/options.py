"""The options of `rml-optimize`, grouped by what they are about.

Each group is a dataclass; `hpo.command_line` turns the groups into one Typer command. An
option of None was not given: the study's own value holds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hpo.launchers import AUTO, DEFAULT_IMAGE, KINDS
from hpo.launchers.slots import SlotRequest
from hpo.plan.optuna_plugins import PRUNERS_GROUP, SAMPLERS_GROUP
from hpo.plan.pruners import PRUNERS
from hpo.plan.samplers import SAMPLERS
from hpo.trackers.registry import TRACKERS, TRACKERS_GROUP
from trainer.config import LOSSES, OPTIMIZERS
from trainer.networks.builtin import BUILTIN_NETWORKS
from trainer.plugins import LOSSES_GROUP, METRICS_GROUP, NETWORKS_GROUP

# Option -> the group of plug-ins that it takes, too; the help names those that are installed.
PLUGIN_GROUPS = {
    "sampler": SAMPLERS_GROUP,
    "pruner": PRUNERS_GROUP,
    "loss": LOSSES_GROUP,
    "layers": NETWORKS_GROUP,
    "objective": METRICS_GROUP,
    "tracker": TRACKERS_GROUP,
}


def option(*names: str, **settings: Any) -> Any:
    """Shorthand for an option's annotation."""
    return typer.Option(*names, **settings)


def launcher_option(text: str) -> Any:
    """Return the annotation of `--launcher`, for whatever command has it."""

    def checked(value: str) -> str:
        if value not in KINDS:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(map(repr, KINDS))}.")
        return value

    return option("--launcher", metavar=f"<{'|'.join(KINDS)}>", callback=checked, help=text)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What is searched"""

    num_trials: Annotated[
        int | None,
        option("--num-trials", "-nt", min=1, help="Trials in the study, all told (default: 50)"),
    ] = None
    hours: Annotated[
        float | None,
        option("--hours", metavar="H", help="Wall time of the study since its first start, "
               "pauses included: as many trials as fit, or --num-trials (default: no limit)"),
    ] = None  # fmt: skip
    num_epochs: Annotated[
        int | None, option("--num-epochs", "-ne", min=1, help="Epochs of each trial (default: 50)")
    ] = None
    optimizers: Annotated[
        str | None,
        option(
            "--optimizers", "-o", help=f"Among {', '.join(OPTIMIZERS)} (default: Adam,RMSprop,SGD)"
        ),
    ] = None
    loss: Annotated[
        str | None, option("--loss", "-l", help=f"Among {', '.join(LOSSES)} (default: BCE,Dice)")
    ] = None
    lr_range_min: Annotated[
        float | None,
        option(
            "--lr-range-min", "-lr-min", help="Smallest learning rate (log scale; default: 0.001)"
        ),
    ] = None
    lr_range_max: Annotated[
        float | None,
        option("--lr-range-max", "-lr-max", help="Largest learning rate (default: 0.01)"),
    ] = None
    lr_scheduler: Annotated[
        bool,
        option("--lr-scheduler/--no-lr-scheduler", help="Exponential decay of the learning rate"),
    ] = False
    lr_scheduler_gamma: Annotated[
        float,
        option("--lr-scheduler-gamma", "-lr-gamma", help="Its factor after each epoch"),
    ] = 0.95
    search: Annotated[
        list[str] | None,
        option("--search", metavar="KEY=SPEC", help="Search any config field: 8,16,32 or "
               "1e-6..1e-2:log"),
    ] = None  # fmt: skip
    set: Annotated[
        list[str] | None,
        option("--set", metavar="KEY=VALUE", help="Fix any config field by its dotted path"),
    ] = None
    try_first: Annotated[
        list[str] | None,
        option("--try", metavar="KEY=VALUE,…", help="Try these values before others are sampled; "
               "fields that are not named are sampled"),
    ] = None  # fmt: skip
    like: Annotated[
        str | None,
        option("--like", metavar="STUDY", help="Try first what was best in another study: its "
               "output folder, or its name in this database (URL#NAME of another)"),
    ] = None  # fmt: skip
    share_ranges: Annotated[
        bool | None,
        option("--share-ranges/--no-share-ranges", help="TPE learns one position within the "
               "ranges of all optimizers, not each one's alone (default: on)"),
    ] = None  # fmt: skip
    sampler: Annotated[
        str,
        option("--sampler", metavar=f"<{'|'.join(SAMPLERS)}>", help="How trials are sampled"),
    ] = "tpe"
    pruner: Annotated[
        str | None,
        option("--pruner", metavar=f"<{'|'.join(PRUNERS)}>", help="How poor trials are stopped "
               "early; asha: paused, and the best go on (default)"),
    ] = None  # fmt: skip
    objective: Annotated[
        str | None,
        option("--objective", metavar="KEY", help="What trials are compared by: dice_dataset, "
               "dice_per_image, one class's dice_dataset.CLASS, or a metric of yours, which may "
               "be minimized (default: dice_dataset)"),
    ] = None  # fmt: skip
    seed: Annotated[int, option("--seed", min=0, help="Seed of sampler, split and training")] = 0


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Data and network"""

    study: Annotated[
        str | None, option("--study", help="Ready-made study, or a folder with a study.toml")
    ] = None
    small: Annotated[
        bool,
        option("--small", help="The study's settings for a machine without a GPU: smaller images "
               "and network, fewer trials"),
    ] = False  # fmt: skip
    new_study: Annotated[
        Path | None,
        option("--new-study", metavar="DIR", help="Write a study.toml for the data into DIR, to "
               "be edited; search nothing"),
    ] = None  # fmt: skip
    data: Annotated[
        Path | None,
        option("--data", help="Folder with {train,test}/{inputs,targets} (default: ./data)"),
    ] = None
    layers: Annotated[
        str | None,
        option("--layers", help=f"Keras-JSON file, or built in: {', '.join(BUILTIN_NETWORKS)}; "
               "options as in unet:width=16,depth=4 (default: ./layers.json if there, else unet)"),
    ] = None  # fmt: skip
    transfer_learning: Annotated[
        str | None,
        option("--transfer-learning", "-tl", help="Weights to start from: a file (.h5, .pt), "
               "efficientnet-lite0, -lite1 or -lite2 (ImageNet, for efficientunet), or none"),
    ] = None  # fmt: skip
    resize: Annotated[
        str | None,
        option("--resize", metavar="H,W", help="Size of the network's input (default: 256,256)"),
    ] = None
    classes: Annotated[
        int | None,
        option(
            "--classes", min=1, help="Classes, background included (default: found in the masks)"
        ),
    ] = None
    select_on: Annotated[
        Literal["test", "validation"] | None,
        option(
            "--select-on", help="Where trials are compared (default: test, as in the tutorial)"
        ),
    ] = None
    validation_fraction: Annotated[
        float | None,
        option("--validation-fraction", min=0.01, max=0.9, help="Share of the training images "
               "split off to compare trials on (default: 0.2; not where the data have val/)"),
    ] = None  # fmt: skip
    group_by: Annotated[
        str | None,
        option("--group-by", metavar="REGEX", help="Keep images with the same match of their "
               "name on one side of that split (a patient's slices)"),
    ] = None  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Workers"""

    launcher: Annotated[str, launcher_option("Processes of this machine, or containers")] = AUTO
    worker: Annotated[
        str | None,
        option("--worker", help="Command of local workers (default: our rmldnn)"),
    ] = None
    plain_worker: Annotated[
        bool,
        option("--plain-worker", help="The worker knows the contract only, and is not asked what "
               "else it can do (for an engine that hangs when asked)"),
    ] = False  # fmt: skip
    warm: Annotated[
        bool,
        option("--warm/--no-warm", help="Keep a worker for the slot's next trial, if it can"),
    ] = True
    docker_image: Annotated[
        str, option("--docker-image", "-docker", help="Image of containers")
    ] = DEFAULT_IMAGE
    docker_cap_add: Annotated[
        list[str] | None,
        option("--docker-cap-add", metavar="NAME", help="Capability of containers, for an image "
               "whose MPI needs SYS_PTRACE (default: none)"),
    ] = None  # fmt: skip
    docker_memory: Annotated[
        str | None,
        option("--docker-memory", metavar="SIZE", help="Memory of each container, such as 24g "
               "(default: an equal share of 90 % of the machine's)"),
    ] = None  # fmt: skip
    docker_shm_size: Annotated[
        str | None,
        option("--docker-shm-size", metavar="SIZE", help="Its /dev/shm (default: 1g)"),
    ] = None
    docker_pids: Annotated[
        int | None,
        option("--docker-pids", min=16, help="Its processes and threads (default: 4096)"),
    ] = None
    singularity_image: Annotated[
        str | None,
        option("--singularity-image", "-singularity", help="Image file of Apptainer/Singularity"),
    ] = None
    gpu: Annotated[
        bool | None,
        option("--gpu/--no-gpu", help="Demand or refuse GPUs (default: those that are there)"),
    ] = None
    gpus: Annotated[
        str | None,
        option("--gpus", help="These GPUs, by index or UUID (default: all that nobody uses, or "
               "those of CUDA_VISIBLE_DEVICES)"),
    ] = None  # fmt: skip
    gpus_per_trial: Annotated[
        int, option("--gpus-per-trial", min=1, help="GPUs of each trial, one process on each")
    ] = 1
    trials_per_gpu: Annotated[
        int, option("--trials-per-gpu", min=1, help="Trials at a time on each GPU")
    ] = 1
    num_procs: Annotated[
        int, option("--num_procs", min=1, help="Processes of each worker (mpirun)")
    ] = 1
    jobs: Annotated[
        int | None,
        option(
            "--jobs",
            "-j",
            min=1,
            help="Trials at a time (default: one per GPU; on a CPU one per core, up to 4)",
        ),
    ] = None

    def slots(self) -> SlotRequest:
        """Return what concerns the slots."""
        names = (field.name for field in fields(SlotRequest))
        return SlotRequest(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Study and results"""

    study_name: Annotated[
        str | None,
        option("--study-name", help="Name in the database (default: the data folder's)"),
    ] = None
    storage: Annotated[
        str | None,
        option("--storage", help="SQLAlchemy URL (default: sqlite:///OUTPUT_DIR/rml_optimize.db)"),
    ] = None
    storage_file: Annotated[
        Path | None,
        option("--storage-file", help="File with that URL, for one with a password "
               "(also RML_STORAGE_FILE, RML_STORAGE)"),
    ] = None  # fmt: skip
    output_dir: Annotated[
        Path, option("--output-dir", help="Where runs/, best_model/ and list_acc.json go")
    ] = Path()
    artifacts: Annotated[
        str | None,
        option("--artifacts", metavar="DIR|URL", help="Folder that all nodes share, or s3:// or "
               "gs://BUCKET/PREFIX: every node gets the best model from there"),
    ] = None  # fmt: skip
    tracker: Annotated[
        list[str] | None,
        option("--tracker", metavar=f"<{'|'.join(TRACKERS)}>", help="Tell it of each trial, epoch "
               "by epoch, or a plug-in of yours; several times, or none (default: the study's)"),
    ] = None  # fmt: skip
    lease_s: Annotated[
        float,
        option(
            "--lease", min=1, help="Seconds after which a silent driver's trials are taken over"
        ),
    ] = 30.0
    move_here: Annotated[
        bool,
        option(
            "--move-here", help="Go on here with a SQLite study of a host that is done with it"
        ),
    ] = False
    max_retries: Annotated[
        int, option("--max-retries", min=0, help="New starts of a trial whose worker crashed")
    ] = 2
    max_failed: Annotated[
        int | None,
        option("--max-failed", min=1, help="Failed trials after which the search stops "
               "(default: a quarter of the trials, at least 5)"),
    ] = None  # fmt: skip
    trial_timeout_s: Annotated[
        float | None,
        option("--trial-timeout", min=1, help="Seconds after which a trial is stopped; what it "
               "has reached counts (default: none)"),
    ] = None  # fmt: skip
    dry_run: Annotated[
        bool, option("--dry-run", help="Check data, network and plan; train nothing")
    ] = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """All options of one call."""

    search: SearchOptions
    data: DataOptions
    worker: WorkerOptions
    output: OutputOptions
