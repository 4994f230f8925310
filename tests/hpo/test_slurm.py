"""deploy/slurm.sbatch on a real cluster of two nodes that share a study on PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from support import BIN, clean_environment, require, standin_settings

from hpo.store.database import open_storage
from hpo.study.common import reading
from hpo.study.queries import study_names

pytestmark = [pytest.mark.slurm, pytest.mark.postgres]
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "slurm.sbatch"
NUM_TRIALS = 16
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def slurm_conf() -> Iterator[str]:
    """A cluster of our own: nodes n1 and n2, partitions `batch` and `urgent`."""
    if shutil.which("slurmctld") is None or shutil.which("munged") is None:
        require("slurm", "no slurmctld, munged; apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        require("slurm", "only root can start a cluster")
    folder = Path(tempfile.mkdtemp(prefix="rml-slurm-"))
    folder.chmod(0o755)  # munged runs as a user of its own
    control = ROOT / "scripts" / "ci" / "slurm.sh"
    started = subprocess.run([control, "start", folder], stdout=subprocess.PIPE, text=True)
    if started.returncode:
        require("slurm", "the cluster does not start")
    yield started.stdout.strip()
    subprocess.run([control, "stop", folder], check=True)
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Cluster:
    """The cluster with a search to be run on it, and a transcript of what happened."""

    conf: str
    url: str
    data: Path
    folder: Path

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.transcript: list[str] = []
        self.study: optuna.Study | None = None
        (self.folder / "url").write_text(self.url)
        (self.folder / "url").chmod(0o600)
        self.worker = standin_settings(self.folder, {"epoch_s": 0.4})

    def say(self, text: str) -> None:
        self.transcript.append(f"{time.monotonic() - self.started:6.1f} s  {text}")

    def call(self, *command: object) -> str:
        environment = clean_environment() | {
            "SLURM_CONF": self.conf,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RML_STORAGE_FILE": str(self.folder / "url"),
        }
        result = subprocess.run(
            list(map(str, command)), cwd=self.folder, env=environment, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        return result.stdout.strip()

    def submit(self, *options: str) -> str:
        job = self.call(
            "sbatch", "--parsable", *options, SCRIPT, "--data", self.data, "--num-trials",
            NUM_TRIALS, "--num-epochs", 3, "--layers", "unet:width=4,depth=2", "--resize",
            "32,32", "--no-gpu", "--jobs", 1, "--pruner", "none", "--study-name", "shared",
            "--lease", 5, "--worker", self.worker, "--output-dir", self.folder / "out",
        )  # fmt: skip
        self.say(f"sbatch {' '.join(options)} deploy/slurm.sbatch -> job {job}")
        return job

    def state(self, job: str) -> str:
        return self.call("squeue", "-h", "-j", job, "-t", "all", "-o", "%T %r %N")

    def trials(self, *states: TrialState) -> int:
        if self.study is None:
            # Only read until the drivers have made the tables: Optuna would make them in a race.
            with reading(self.url) as engine:
                if "shared" not in study_names(engine):
                    return 0
            self.study = optuna.load_study(study_name="shared", storage=open_storage(self.url))
        return len(self.study.get_trials(deepcopy=False, states=states))

    def describe(self, what: str) -> str:
        """Return what is known when something does not come about."""
        files = [*self.folder.glob("rml-optimize-*.log")]
        files += [*(Path(self.conf).parents[1] / "log").glob("slurm*.log")]
        logs = [f"{path.name}:\n{path.read_text(errors='replace')[-8000:]}" for path in files]
        return "\n".join([*self.transcript, what, self.call("squeue", "-a"), *logs])

    def until(self, what: str, question: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not question():
            assert time.monotonic() < deadline, self.describe(what)
            time.sleep(0.2)
        counts = f"{self.trials(TrialState.COMPLETE)} complete, "
        counts += f"{self.trials(TrialState.RUNNING)} running, "
        counts += f"{self.trials(TrialState.WAITING)} given back"
        self.say(f"{what}  [{counts}]")

    def check_exactly_n(self) -> None:
        states = (TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL, TrialState.PRUNED)
        assert self.trials(TrialState.COMPLETE) == NUM_TRIALS, "\n".join(self.transcript)
        assert self.trials(*states) == 0, "\n".join(self.transcript)


@pytest.fixture
def cluster(slurm_conf: str, postgres_url: str, discs: Path, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(slurm_conf, postgres_url, discs, tmp_path)
    yield cluster
    (tmp_path / "transcript.txt").write_text("\n".join(cluster.transcript) + "\n")
    if cluster.study is not None:
        cluster.study._storage.remove_session()
        cluster.study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    cluster.call("scancel", "--user=root")


def test_two_nodes_share_a_study_through_a_cancelled_and_a_preempted_job(
    cluster: Cluster,
) -> None:
    both = cluster.submit()
    extra = cluster.submit("--nodes=1", "--gpus-per-node=0", "--nodelist=n1")
    cluster.until(
        "three drivers have a trial each", lambda: cluster.trials(TrialState.RUNNING) > 2
    )
    cluster.call("scancel", extra)
    cluster.until(f"scancel {extra}: it is gone", lambda: "CANCELLED" in cluster.state(extra))
    urgent = cluster.call(
        "sbatch", "--parsable", "-p", "urgent", "-w", "n2", "-c", 2, "--wrap", "sleep 2",
        "--output", "/dev/null",
    )  # fmt: skip
    cluster.until(
        f"job {urgent} preempts job {both}", lambda: cluster.state(both).startswith("PENDING")
    )
    assert cluster.trials(TrialState.COMPLETE) < NUM_TRIALS
    cluster.until(f"job {urgent} is done", lambda: "COMPLETED" in cluster.state(urgent))
    cluster.until(f"job {both} runs again", lambda: cluster.state(both).startswith("RUNNING"))
    cluster.until(f"job {both} is done", lambda: "COMPLETED" in cluster.state(both))
    cluster.check_exactly_n()


def processes_of(job: str, mark: str) -> list[int]:
    """Return a job's processes on its node: its steps, and all of their descendants.

    Another cluster of this machine may have a job of that number: `mark` is in the environment
    of ours.
    """
    listing = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listing.stdout.splitlines()]
    steps = {int(pid) for pid, _, command in rows if command.startswith(f"slurmstepd: [{job}.")}
    found = {
        int(parent)
        for pid, parent, _ in rows
        if int(parent) in steps and mark in environment_of(int(pid))
    }
    while more := {int(pid) for pid, parent, _ in rows if int(parent) in found} - found:
        found |= more
    return sorted(found)


def environment_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:  # gone
        return ""


@pytest.mark.slow
def test_a_lost_nodes_trial_is_taken_over(cluster: Cluster) -> None:
    cluster.submit("--nodes=1", "--nodelist=n1")
    lost = cluster.submit("--nodes=1", "--nodelist=n2")
    cluster.until("both nodes have a trial", lambda: cluster.trials(TrialState.RUNNING) > 1)
    slurmd = Path(cluster.conf).parents[1] / "run" / "slurmd.n2.pid"
    os.kill(int(slurmd.read_text()), signal.SIGKILL)
    for pid in processes_of(lost, cluster.conf):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    cluster.say("node n2 is lost: slurmd and all of its processes are killed")
    cluster.until(
        "the other node finishes the study",
        lambda: cluster.trials(TrialState.COMPLETE) == NUM_TRIALS,
    )
    cluster.check_exactly_n()
