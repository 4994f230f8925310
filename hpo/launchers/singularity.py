"""Runs workers in containers of Apptainer or Singularity, as clusters have them.

`apptainer exec` is an ordinary process of the user's: no daemon, no root, and what limits the
job (memory, cores) limits the container. The worker sees what a Docker worker sees: the run
folder and the study's cache to write, the mounts to read, no network, none of our environment.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path, PurePosixPath

from hpo.errors import LauncherError
from hpo.launchers.base import LaunchSettings, Mount, WorkerJob, with_mpirun
from hpo.launchers.inside import (
    CACHE_DIR,
    WORK_DIR,
    WORKER,
    container_environment,
    mounted_path,
)
from hpo.launchers.log import MAX_LOG_BYTES
from hpo.launchers.probe import CachedCapabilities
from hpo.launchers.processes import ProcessHandle, WorkerProcesses, own_environment
from hpo.worker_files import remove

PROGRAMS = ("apptainer", "singularity")  # the same command line; the first that is there
PREFIXES = ("APPTAINER", "SINGULARITY")  # of their variables
_KEPT = ("_CACHEDIR", "_TMPDIR", "_CONFIGDIR")  # where they work; the others change what they do
_NOT_IN_BINDS = frozenset(":,\\")  # separators of --bind, which older versions cannot escape


class SingularityLauncher:
    """Starts each worker by `apptainer exec`, with a scratch folder that ends with it."""

    name = "singularity"

    def __init__(self, settings: LaunchSettings) -> None:
        self._image = _find_image(settings.singularity_image)
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            raise LauncherError(
                "neither `apptainer` nor `singularity` is on the PATH (`module load apptainer`?)"
            )
        for mount in settings.mounts:
            mount.check()
        self._program = str(Path(program).absolute())
        self.image_id = _image_id(self._image)
        self._settings = settings
        self._processes = WorkerProcesses(settings.labels)
        self._asked = CachedCapabilities(self, settings, is_own=False)

    def worker_path(self, mount: Mount, relative: PurePosixPath | str = "") -> str:
        """Return the path inside the container."""
        return mounted_path(mount, relative)

    def capabilities(self) -> frozenset[str]:
        """Ask the worker once."""
        return self._asked.answer()

    def start(self, job: WorkerJob) -> ProcessHandle:
        """Start a container on the run folder."""
        if self._settings.cache is not None:
            self._settings.cache.mkdir(exist_ok=True)
        # --containall gives the container a /tmp in memory, of 64 MB as a rule: too small for
        # compile caches, so it gets a folder on disk
        scratch, settings = Path(tempfile.mkdtemp(prefix="rml-scratch-")), self._settings

        def clean_up() -> None:
            if left := remove(scratch, stopping=settings.stopping):
                settings.warn(left)

        try:
            return self._processes.start(
                self._command(job, scratch),
                job.run_dir,
                self._environment(job),
                cores=job.slot.cores,
                # it passes SIGTERM on; in its group are helpers that hold the image open
                stops_group=False,
                on_end=clean_up,
            )
        except OSError as error:
            clean_up()
            raise LauncherError(f"cannot start {self._program}: {error.strerror}") from error
        except BaseException:
            clean_up()
            raise

    def describe(self) -> str:
        """Return image and program."""
        return f"containers of {self._image}, {self._program}"

    def limits(self) -> str:
        """Say that they are ours: a cluster's job has its own cgroup."""
        return f"those of this user or job; {MAX_LOG_BYTES >> 20} MiB of log"

    def sweep(self) -> int:
        """End what dead drivers left."""
        return self._processes.sweep()

    def close(self) -> None:
        """Stop all containers of this launcher."""
        self._processes.close()

    def _command(self, job: WorkerJob, scratch: Path) -> tuple[str, ...]:
        settings = self._settings
        binds = [(job.run_dir, WORK_DIR, "rw")]
        binds += [
            (folder, mounted_path(mount, part), "ro")
            for mount in settings.seen_by(job)
            for part, folder in mount.folders().items()
        ]
        cache = settings.cache_of(job)
        if cache is not None:
            binds.append((cache, CACHE_DIR, "rw"))
        options = ["--containall", "--no-home", "--no-privs", "--net", "--network", "none"]
        if job.slot.gpu_uuids:
            options.append("--nv")
        for number, (path, target, mode) in enumerate(binds):
            source = _bindable(path.absolute(), scratch / f"bind_{number}")
            options += ["--bind", f"{source}:{target}:{mode}"]
        options += ["--workdir", str(scratch), "--pwd", WORK_DIR]
        worker = with_mpirun((*WORKER, *job.args), job.num_procs)
        return (self._program, "exec", *options, str(self._image), *worker)

    def _environment(self, job: WorkerJob) -> dict[str, str]:
        """Return the program's own environment, and in it what the worker shall have."""
        inside = container_environment(
            job.slot, job.num_procs, has_cache=self._settings.cache_of(job) is not None
        )
        del inside["HOME"]  # refused; the home folder is of no use, caches go to /tmp by name
        # its end must be able to find the worker by it, should the driver die
        inside |= self._processes.marker
        environment = {
            name: value
            for name, value in own_environment().items()
            if not name.startswith(PREFIXES) or name.endswith(_KEPT)
        }
        # as variables, because --env takes no commas and old versions have no --env
        return environment | {
            f"{prefix}ENV_{name}": value for prefix in PREFIXES for name, value in inside.items()
        }


def _bindable(path: Path, link: Path) -> Path:
    """Return a name for `path` that --bind can take; `link` is made to it if need be."""
    if not _NOT_IN_BINDS & set(str(path)):
        return path
    link.symlink_to(path)
    return link


def _image_id(image: Path) -> str | None:
    """Return the UUID that a SIF file got when it was built; None for a folder.

    A digest would read gigabytes at each start. The header: 32 bytes to start it, `SIF_MAGIC`
    with a zero, version (3), architecture (3), UUID (16).
    """
    if not image.is_file():
        return None
    with image.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[32:41] != b"SIF_MAGIC":
        return None
    return f"sif:{uuid.UUID(bytes=header[48:64])}"


def _find_image(image: str | None) -> Path:
    if image is None:
        raise LauncherError("--launcher singularity: --singularity-image names no image; add it")
    if "://" in image:
        raise LauncherError(
            f"--singularity-image: {image!r} is not a file; fetch it once with "
            f"`apptainer pull worker.sif {image}` and name worker.sif"
        )
    path = Path(image).absolute()
    if not path.exists():
        raise LauncherError(f"--singularity-image: no such file: {image!r}")
    return path
