"""Chooses the workers of a search, and says what they will not get."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Mapping

from hpo.errors import UsageError
from hpo.launchers import Launcher, choose_launcher
from hpo.options import Options
from hpo.space import dropped_keys
from hpo.spec import StudySpec
from trainer.config import EXTENSIONS
from trainer.keypath import parse_setting


def pick_launcher(
    spec: StudySpec,
    options: Options,
    labels: Mapping[str, str] | None = None,
    warn: Callable[[str], None] = lambda text: None,
    stopping: threading.Event | None = None,
) -> tuple[Launcher, str]:
    """Build the launcher that the options ask for, and say which it is and why.

    Args:
        spec: the study's.
        options: the command line's.
        labels: whose the workers are (`hpo.launchers.driver`).
        warn: takes a line for the user.
        stopping: set when nobody wants a worker any more.
    """
    try:
        worker = tuple(shlex.split(options.worker.worker)) if options.worker.worker else None
    except ValueError as error:
        raise UsageError(f"--worker: {options.worker.worker!r} is no command ({error})") from None
    return choose_launcher(
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
    )


def check_known(
    spec: StudySpec, options: Options, launcher: Launcher, warn: Callable[[str], None]
) -> None:
    """Say which settings the worker does not know, so does not get.

    Raises:
        UsageError: one of them is searched, so that trials would differ in nothing.
    """
    known = launcher.capabilities()
    searched = [key for key in EXTENSIONS if key not in known and spec.space.is_sampled(key)]
    if searched:
        raise UsageError(f"--search {searched[0]}: this worker does not know it")
    for text in options.search.set or ():
        key = parse_setting(text)[0]
        if key in EXTENSIONS and key not in known:
            warn(f"--set {key}: this worker does not know it and does not get it")
    if dropped := dropped_keys({**spec.base, "seed": spec.seed}, known=known):
        warn(f"this worker does not get what it does not know: {', '.join(dropped)}")
