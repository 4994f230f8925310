"""Which GPUs real drivers take: the real NVML binding on a stand-in of the library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import BIN, STANDIN, clean_environment, one_error, require, standin_settings

from hpo.gpulocks import GpuLocks, lock_folder
from hpo.slots import reserve_slots

SOURCE = Path(__file__).parents[1] / "launchers" / "fake_nvml.c"
SMALL = ("--layers", "unet:width=4,depth=2", "--resize", "32,32", "--num-epochs", "1")


@dataclass
class Machine:
    """A machine with GPUs that nobody else's test has: a to d, d in two MIG instances.

    Somebody computes on b, which is why nobody else should.
    """

    library: Path
    data: Path
    folder: Path

    def __post_init__(self) -> None:
        mark = uuid.uuid4().hex[:8]
        self.uuids = {n: f"GPU-{n}-{mark}" for n in "abc"} | {n: f"MIG-{n}-{mark}" for n in "de"}
        a, b, c, d, e = self.uuids.values()
        self.gpus = f"{a}:0 {b}:2 {c}:0 GPU-{mark}:0={d}:0,{e}:0"

    def command(self, *arguments: object) -> list[str]:
        arguments = (*SMALL, "--data", self.data, "--num-trials", 4, *arguments)
        return [str(BIN / "rml-optimize"), *map(str, arguments)]

    def environment(self, **changes: str) -> dict[str, str]:
        path = {"LD_LIBRARY_PATH": str(self.library), "FAKE_GPUS": self.gpus}
        kept = {k: v for k, v in clean_environment().items() if k != "CUDA_VISIBLE_DEVICES"}
        return kept | path | changes

    def names(self, text: str) -> str:
        return "".join(name for name, found in self.uuids.items() if found in text)


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libnvidia-ml.so.1 that lists the GPUs of $FAKE_GPUS."""
    if shutil.which("cc") is None:
        require("cc", "no C compiler for the stand-in of NVML")
    folder = tmp_path_factory.mktemp("nvml")
    target = folder / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", target, SOURCE], check=True)
    return folder


@pytest.fixture
def machine(nvml: Path, discs: Path, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(nvml, discs, tmp_path)
    yield machine
    for name in machine.uuids.values():
        (lock_folder() / f"rml-gpu-{name}.lock").unlink(missing_ok=True)


RESERVE = """
import json, os, sys
from hpo.errors import HpoError
from hpo.options import WorkerOptions
from hpo.slots import reserve_slots
answers = []
for cuda, options in json.loads(sys.argv[1]):
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if cuda is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = cuda
    try:
        found = reserve_slots(WorkerOptions(**options))
    except HpoError as error:
        answers.append(str(error))
    else:
        answers.append([[slot.gpu_uuids for slot in found.slots], found.num_procs])
        found.close()
print(json.dumps(answers))
"""
Question = tuple[str | None, dict[str, object]]


def reserve(machine: Machine, *questions: Question) -> list[str | tuple[list[str], int]]:
    """Divide the machine in a process of its own: each slot's GPUs and processes, or the error."""
    result = subprocess.run(
        [sys.executable, "-c", RESERVE, json.dumps(questions)],
        env=machine.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [
        answer
        if isinstance(answer, str)
        else ([machine.names(" ".join(gpus)) for gpus in answer[0]], answer[1])
        for answer in json.loads(result.stdout)
    ]


def test_slots_are_the_free_or_named_gpus(machine: Machine) -> None:
    cases: list[tuple[str | None, dict[str, object], list[str]]] = [
        (None, {}, ["a", "c", "d", "e"]),  # not b: somebody computes there
        (None, {"gpus": "1"}, ["b"]),  # unless named,
        ("1", {}, ["b"]),  # by a scheduler, say
        ("", {"jobs": 1}, [""]),
        ("2,0", {}, ["c", "a"]),
        ("GPU-a,MIG-e", {}, ["a", "e"]),
        ("2,0", {"gpus": "0"}, ["a"]),
        (None, {"gpus": "3"}, ["d", "e"]),
        (None, {"gpu": False, "jobs": 1}, [""]),
        (None, {"jobs": 1}, ["a"]),
        (None, {"jobs": 6}, ["a", "c", "d", "e", "a", "c"]),
        (None, {"gpus": "0,2", "trials_per_gpu": 2}, ["a", "c", "a", "c"]),
        (None, {"jobs": 2, "trials_per_gpu": 2}, ["a", "a"]),
    ]
    answers = reserve(machine, *((cuda, options) for cuda, options, _ in cases))
    assert answers == [(slots, 1) for _, _, slots in cases]


def test_a_trial_can_have_several_gpus_and_one_process_on_each(machine: Machine) -> None:
    two, three, five, both = reserve(
        machine,
        (None, {"gpus_per_trial": 2}),
        (None, {"gpus_per_trial": 3}),
        (None, {"gpus_per_trial": 5}),
        (None, {"gpus_per_trial": 2, "trials_per_gpu": 2}),
    )
    assert two == (["ac", "de"], 2)
    assert three == (["acd"], 3)
    assert "4 GPU(s) are free here" in five
    assert "exclude each other" in both


def test_wrong_names_and_contradictions_are_said(machine: Machine) -> None:
    unknown, several, none, refused = reserve(
        machine,
        (None, {"gpus": "7"}),
        (None, {"gpus": "GPU"}),
        ("", {"gpus": "0"}),
        (None, {"gpus": "0", "gpu": False}),
    )
    assert "--gpus: '7' names no GPU here" in unknown
    assert "--gpus: 'GPU' names no GPU here, or several" in several
    assert "--gpus: no NVIDIA GPU is visible" in none
    assert "--gpus has no effect with --no-gpu" in refused


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_drivers_of_two_databases_never_share_a_gpu(machine: Machine) -> None:
    first, second, third = (machine.folder / name for name in ("first", "second", "third"))
    settings = standin_settings(machine.folder, {"epoch_s": 60})
    holder = subprocess.Popen(
        machine.command("--gpus", "0,2", "--worker", settings, "--output-dir", first,
                        "--study-name", "s"),
        env=machine.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=machine.folder,
    )  # fmt: skip
    try:
        wait_for(first / "runs/s/trial_00001/attempt_1/config.json", holder)
        other = subprocess.run(
            machine.command("--worker", f"{sys.executable} {STANDIN}", "--output-dir", second),
            env=machine.environment(), capture_output=True, text=True, check=False,
            cwd=machine.folder,
        )  # fmt: skip
        assert other.returncode == 0, other.stdout + other.stderr
        said = "".join(other.stdout.split()).replace("|", "")  # the table wraps
        assert f"{machine.uuids['a']}(anothersearchhasit)" in said
        assert f"{machine.uuids['b']}(anotherprogramcomputesonit)" in said
        assert "2atatimeonFakeGPU" in said
        refused = subprocess.run(
            machine.command("--gpus", machine.uuids["a"], "--output-dir", third),
            env=machine.environment(), capture_output=True, text=True, check=False,
            cwd=machine.folder,
        )  # fmt: skip
        assert "another search has it" in one_error(refused)
    finally:
        holder.kill()  # without a chance to give anything back
        holder.communicate()
    again = subprocess.run(
        machine.command("--dry-run", "--gpus", machine.uuids["a"], "--output-dir", third),
        env=machine.environment(), capture_output=True, text=True, check=False,
        cwd=machine.folder,
    )  # fmt: skip
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_users_lock_holds_and_is_given_back(machine: Machine) -> None:
    name = machine.uuids["a"]

    def take(user: int) -> bool:
        pid = os.fork()
        if pid == 0:  # a driver of another user, with the strictest umask
            os.umask(0o077)
            os.setgid(user)
            os.setuid(user)
            os._exit(0 if GpuLocks().take(name) else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    assert take(65534)  # its file is nobody's and stays
    locks = GpuLocks()
    assert locks.take(name)
    assert not take(65534)
    assert not take(1234)
    locks.close()
    assert take(1234)


def test_traps_in_the_shared_folder_are_refused(machine: Machine, tmp_path: Path) -> None:
    from hpo.errors import UsageError

    victim = tmp_path / "victim"
    victim.write_text("untouched")
    path = lock_folder() / f"rml-gpu-{machine.uuids['a']}.lock"
    for lay in (lambda: path.symlink_to(victim), lambda: os.mkfifo(path), path.mkdir):
        lay()
        with pytest.raises(UsageError, match=r"is not a lock of rml-optimize's"):
            GpuLocks().take(machine.uuids["a"])
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert victim.read_text() == "untouched"


def test_cpu_slots_share_the_cores_and_their_workers_are_pinned(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpo.options import WorkerOptions

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6, 8, 9})
    found = reserve_slots(WorkerOptions(gpu=False, jobs=2))
    assert [(slot.cores, slot.num_threads) for slot in found.slots] == [((3, 5), 2), ((6, 8), 2)]
    for jobs in (1, 6):  # nobody to push, or no core for each
        assert {slot.cores for slot in reserve_slots(WorkerOptions(jobs=jobs)).slots} == {()}
