"""Builds the launcher that the options ask for, and names settings that its workers lack."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Callable, Mapping
from typing import Any

from hpo.errors import UsageError
from hpo.launchers import Launcher, choose_launcher
from hpo.plan.objectives import refuse_unknown_objective
from hpo.plan.options import Options
from hpo.plan.pruners import PROMOTION
from hpo.plan.scoring_keys import dropped, refuse_worker_of_other_sizes, warn_of_dropped_scoring
from hpo.plan.space import dropped_keys
from hpo.plan.spec import StudySpec
from hpo.run.pausing import NEEDED, Pausing
from trainer.config import PLUGIN_NETWORK
from trainer.keypath import parse_setting
from trainer.plugins import NETWORKS_GROUP


def pick_launcher(
    spec: StudySpec,
    options: Options,
    labels: Mapping[str, str] | None = None,
    warn: Callable[[str], None] = lambda text: None,
    stopping: threading.Event | None = None,
    num_slots: int = 1,
) -> tuple[Launcher, str]:
    """Build the launcher that the options ask for, and say which it is and why.

    Args:
        spec: the study's.
        options: the command line's.
        labels: whose the workers are (`hpo.owner`).
        warn: takes a line for the user.
        stopping: set when the search is to stop.
        num_slots: workers at a time, which share the machine's memory.

    Raises:
        UsageError: an option of containers, where there are none.
    """
    limits = _limits(options)
    try:
        worker = tuple(shlex.split(options.worker.worker)) if options.worker.worker else None
    except ValueError as error:
        raise UsageError(f"--worker: {options.worker.worker!r} is no command ({error})") from None
    launcher, why = choose_launcher(
        options.worker.launcher,
        worker=worker,
        plain=options.worker.plain_worker,
        warm=options.worker.warm,
        image=options.worker.docker_image,
        singularity_image=options.worker.singularity_image,
        cap_add=tuple(options.worker.docker_cap_add or ()),
        mounts=spec.mounts,
        cache=spec.folders.cache,
        pools=spec.folders.study,
        warn=warn,
        stopping=stopping or threading.Event(),
        labels={"rml.study": spec.name, **(labels or {})},
        num_slots=num_slots,
        **{field: value for field, (_, value) in limits.items()},
    )
    if limits and launcher.name != "docker":
        launcher.close()
        name = next(iter(limits.values()))[0]
        raise UsageError(f"{name} has no effect on {launcher.name} workers ({why}); drop it")
    return launcher, why


def _limits(options: Options) -> dict[str, tuple[str, Any]]:
    """Return the limits that are given: field of LaunchSettings -> option and value."""
    worker = options.worker
    given = {
        "memory": ("--docker-memory", worker.docker_memory),
        "shm_size": ("--docker-shm-size", worker.docker_shm_size),
        "max_pids": ("--docker-pids", worker.docker_pids),
    }
    for name, size in (given["memory"], given["shm_size"]):
        if size is not None and not re.fullmatch(r"[1-9]\d*[bkmg]?", str(size)):
            raise UsageError(f"{name}: expected a size such as 24g or 512m, not {size!r}")
    return {field: entry for field, entry in given.items() if entry[1] is not None}


def check_known(
    spec: StudySpec, options: Options, launcher: Launcher, warn: Callable[[str], None]
) -> None:
    """Say which settings the worker does not know, so does not get.

    Raises:
        UsageError: one of them is searched, so that trials would differ in nothing, or a network
            is of a plug-in that the worker does not have.
    """
    refuse_worker_of_other_sizes(spec, launcher)
    refuse_unknown_objective(spec, launcher)
    known = launcher.capabilities()
    for name, network in spec.networks.items():
        plugin = network.plugin
        if plugin is not None and f"{PLUGIN_NETWORK}{plugin.name}" not in known:
            package = f"package {plugin.package!r}" if plugin.package else "its package"
            raise UsageError(
                f"layers: {name}: this worker does not have the plug-in {plugin.name!r} "
                f"({NETWORKS_GROUP}); install {package} where rmldnn runs, in its image for "
                "containers (docs/plugins.md)"
            )
    if searched := dropped([dimension.key for dimension in spec.space.dimensions], known):
        raise UsageError(f"--search {searched[0]}: this worker does not know it")
    for text in options.search.set or ():
        key = parse_setting(text)[0]
        if dropped([key], known):
            warn(f"--set {key}: this worker does not know it and does not get it")
    pausing = Pausing.of(spec, launcher)
    if pausing is not None and not pausing.is_able:
        warn(
            f"--pruner {PROMOTION}: this worker cannot go on with a trial that was paused "
            f"({', '.join(NEEDED)}), so poor trials are stopped for good, by the median rule"
        )
    warn_of_dropped_scoring(spec, launcher, warn)
    if not_given := dropped_keys({**spec.base, "seed": spec.seed}, known=known):
        warn(f"this worker does not get what it does not know: {', '.join(not_given)}")
