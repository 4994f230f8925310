"""Which GPUs real drivers take: the real NVML binding on a stand-in of the library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import (
    BIN,
    STANDIN,
    clean_environment,
    one_error,
    require,
    standin_settings,
    states,
)

from hpo.launchers.gpulocks import GpuLocks, lock_folder
from hpo.launchers.slots import reserve_slots

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

    def try_to_use(
        self, gpus: str = "", *, forbidden: str = "", traces: str = "", **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """Reserve slots where a device is `forbidden`, with `traces` of a GPU: pci, driver."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o755)
            for part in ("dev", "driver", "pci"):
                (folder / part).mkdir()
            if forbidden:
                (folder / "dev" / forbidden).touch(0o000)
            if traces == "driver":
                (folder / "driver/0000:65:00.0").mkdir()
            if traces == "pci":
                for device, vendor in (("0000:01:00.0", "0x8086"), ("0000:65:00.0", "0x10de")):
                    (folder / "pci" / device).mkdir()
                    (folder / "pci" / device / "vendor").write_text(f"{vendor}\n")
                    (folder / "pci" / device / "class").write_text("0x030200\n")
            return subprocess.run(
                [sys.executable, "-c", TRY_TO_USE, folder, gpus], env=self.environment(**changes),
                capture_output=True, text=True, check=True,
            )  # fmt: skip

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
from hpo.plan.options import WorkerOptions
from hpo.launchers.slots import reserve_slots
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
# Another user's driver, where devices and traces of GPUs are what a test lays out.
TRY_TO_USE = """
import os, sys
from pathlib import Path
import pynvml
from hpo.launchers import gpus
from hpo.errors import HpoError
from hpo.plan.options import WorkerOptions
from hpo.launchers.slots import reserve_slots
machine = Path(sys.argv[1])
gpus.DEVICES, gpus.LOADED, gpus.PCI = (machine / n for n in ("dev", "driver", "pci"))
if os.geteuid() == 0:
    try:
        pynvml.nvmlInit()  # loads a library that only root may read here
    except pynvml.NVMLError:
        pass
    os.seteuid(65534)  # root may open everything
try:
    found = reserve_slots(WorkerOptions(gpus=sys.argv[2] or None))
    print(sorted({uuid for slot in found.slots for uuid in slot.gpu_uuids}))
except HpoError as error:
    print(error)
"""
HOLD = """
import json, sys
from hpo.plan.options import WorkerOptions
from hpo.launchers.slots import reserve_slots
found = reserve_slots(WorkerOptions(**json.loads(sys.argv[1])))
print(found.text, flush=True)
sys.stdin.read()
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
        (None, {"gpus": "MIG-e"}, ["e"]),
        (None, {"gpu": False, "jobs": 1}, [""]),
        (None, {"jobs": 1}, ["a"]),
        (None, {"jobs": 6}, ["a", "c", "d", "e", "a", "c"]),
        (None, {"gpus": "0,2", "trials_per_gpu": 2}, ["a", "c", "a", "c"]),
        (None, {"jobs": 2, "trials_per_gpu": 2}, ["a", "a"]),
    ]
    answers = reserve(machine, *((cuda, options) for cuda, options, _ in cases))
    assert answers == [(slots, 1) for _, _, slots in cases]


def test_a_trial_can_have_several_gpus_and_one_process_on_each(machine: Machine) -> None:
    all_three = {"gpus": "0,1,2", "gpus_per_trial": 2}
    two, three, named, both = reserve(
        machine,
        (None, {"gpus_per_trial": 2}),
        (None, {"gpus_per_trial": 3}),
        (None, all_three),
        (None, {"gpus_per_trial": 2, "trials_per_gpu": 2}),
    )
    assert two == (["ac"], 2)  # not d and e: a process uses one instance alone
    assert "--gpus-per-trial 3: 2 GPU(s) are free here" in three
    assert f"{machine.uuids['d']} (a process uses one MIG instance" in three
    assert named == (["ab"], 2)
    assert "exclude each other" in both


def test_a_gpu_too_few_for_another_trial_is_left_to_others(machine: Machine) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, json.dumps({"gpus": "0,1,2", "gpus_per_trial": 2})],
        env=machine.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert first.stdout is not None
    said = first.stdout.readline()
    assert f"{machine.uuids['c']} (too few for another 2)" in said
    assert reserve(machine, (None, {"gpus": machine.uuids["c"]})) == [(["c"], 1)]
    first.communicate("")


@pytest.mark.parametrize("unlinked", [False, True])
def test_a_gpu_is_held_whatever_becomes_of_its_lock_file(machine: Machine, unlinked: bool) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, json.dumps({"gpus": "0"})],
        env=machine.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert first.stdout is not None
    first.stdout.readline()
    if unlinked:  # a tmp cleaner, or logind
        (lock_folder() / f"rml-gpu-{machine.uuids['a']}.lock").unlink()
    (answer,) = reserve(machine, (None, {"gpus": "0"}))
    assert "another search has it" in answer
    first.communicate("")
    assert reserve(machine, (None, {"gpus": "0"})) == [(["a"], 1)]


def test_a_gpu_that_cannot_be_used_is_named_and_the_others_are_used(machine: Machine) -> None:
    a, b, c, *_ = machine.uuids.values()
    for gpus, devices, line in (
        (f"{a}:0 {b}:0:lost {c}:0", "", "GPU 1 is left out: NVML: GPU is lost"),
        (f"{a}:0 {b}:0:uuid {c}:0", "", "GPU 1 is left out: NVML: Not Supported"),
        (f"{a}:0 {b}:0 {c}:0", "nvidia1", f"GPU 1 ({b}) is left out: you may not open"),
    ):
        machine.gpus = gpus
        result = machine.try_to_use(forbidden=devices)
        assert machine.names(result.stdout) == "ac", result.stderr
        assert result.stderr.count("warning: ") == 1
        assert line in result.stderr
    machine.gpus = f"{a}:0:name {b}:0:lost"
    assert machine.names(machine.try_to_use().stdout) == "a"  # a query that nobody needs
    # the user's own words, where the index of a card stays what it was
    assert "--gpus: GPU 1 cannot be used: NVML: GPU is lost" in machine.try_to_use("1").stdout
    result = machine.try_to_use(CUDA_VISIBLE_DEVICES="0")
    assert (machine.names(result.stdout), result.stderr) == ("a", "")  # it was not asked for


def test_no_search_goes_to_the_cpu_where_a_gpu_should_be(machine: Machine) -> None:
    version_mismatch, not_loaded, no_library = "18", "9", "12"
    no_gpu, pci, driver = "", "pci", "driver"
    cases = [
        (
            {"FAKE_NVML_ERROR": version_mismatch},
            no_gpu,
            "NVML: RM has detected an NVML/RM version",
        ),
        ({"FAKE_NVML_ERROR": not_loaded}, pci, "0000:65:00.0 is there, but NVML: Driver Not Loa"),
        (
            {"FAKE_NVML_ERROR": no_library},
            driver,
            "0000:65:00.0 is there, but NVML: NVML Shared Library",
        ),
        ({"FAKE_GPUS": "GPU-x:0:lost"}, no_gpu, "GPU 0: NVML: GPU is lost"),
        ({"CUDA_VISIBLE_DEVICES": "7"}, no_gpu, "CUDA_VISIBLE_DEVICES=7 names none of 0 = GPU-a"),
    ]
    for changes, traces, reason in cases:
        result = machine.try_to_use(traces=traces, **changes)
        assert "no GPU can be used here" in result.stdout, (changes, result)
        assert reason in result.stdout
        assert "say --no-gpu to use the CPU" in result.stdout
    on_purpose = machine.try_to_use(
        traces=driver, CUDA_VISIBLE_DEVICES="", FAKE_NVML_ERROR=no_library
    )
    assert (on_purpose.stdout, on_purpose.stderr) == ("[]\n", "")
    no_driver = machine.try_to_use(
        traces=pci, FAKE_NVML_ERROR=no_library
    )  # a desktop, by other drivers
    assert no_driver.stdout == "[]\n"
    assert "warning: trials run on the CPU: PCI device 0000:65:00.0 is" in no_driver.stderr
    login_node = machine.try_to_use(FAKE_NVML_ERROR=not_loaded)
    assert (login_node.stdout, login_node.stderr) == ("[]\n", "")


def test_a_search_says_that_it_would_be_on_the_cpu(machine: Machine) -> None:
    def search(*extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            machine.command("--dry-run", *extra), cwd=machine.folder,
            env=machine.environment(FAKE_NVML_ERROR="18"), capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    assert "say --no-gpu to use the CPU" in one_error(search())
    confirmed = search("--no-gpu")
    assert confirmed.returncode == 0, confirmed.stderr


def test_wrong_names_and_contradictions_are_said(machine: Machine) -> None:
    unknown, several, card, empty, none, refused = reserve(
        machine,
        (None, {"gpus": "7"}),
        (None, {"gpus": "GPU"}),
        (None, {"gpus": "3"}),
        (None, {"gpus": " "}),
        ("", {"gpus": "0"}),
        (None, {"gpus": "0", "gpu": False}),
    )
    assert "--gpus: '7' names no GPU here" in unknown
    assert "--gpus: 'GPU' names no GPU here, or several" in several
    assert f"'3' is a partitioned card (MIG); name its instances: {machine.uuids['d']}" in card
    assert "--gpus: names no GPU; --no-gpu uses the CPU" in empty
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
    from hpo.plan.options import WorkerOptions

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6, 8, 9})
    found = reserve_slots(WorkerOptions(gpu=False, jobs=2))
    assert [(slot.cores, slot.num_threads) for slot in found.slots] == [((3, 5), 2), ((6, 8), 2)]
    for jobs in (1, 6):  # nobody to push, or no core for each
        assert {slot.cores for slot in reserve_slots(WorkerOptions(jobs=jobs)).slots} == {()}


def test_a_worker_that_cannot_see_its_gpu_does_not_train_on_the_cpu(machine: Machine) -> None:
    result = subprocess.run(
        machine.command("--gpus", "0", "--launcher", "local", "--output-dir", machine.folder),
        env=machine.environment(), capture_output=True, text=True, check=False,
        cwd=machine.folder,
    )  # fmt: skip
    said = one_error(result)
    assert f"CUDA_VISIBLE_DEVICES gives {machine.uuids['a']}, but torch sees no GPU" in said
    assert "rml-optimize: --no-gpu" in said


def test_a_gpu_that_fails_its_worker_is_left_out_and_loses_no_trial(machine: Machine) -> None:
    worker, settings = machine.folder / "worker", machine.folder / "settings.json"
    settings.write_text(json.dumps({"capabilities": ["device"], "epoch_s": 0.1}))
    # as torch says it where NVML is content with a card and CUDA is not
    worker.write_text(
        f"""#!/bin/sh
        case "$1 $CUDA_VISIBLE_DEVICES" in
            --config*{machine.uuids["a"]})
                echo "rmldnn: error: device: it must be reset" >&2
                exit 5
        esac
        exec {sys.executable} {STANDIN} {settings} "$@"
        """
    )
    worker.chmod(0o755)

    def search(gpus: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            machine.command("--gpus", gpus, "--worker", worker, "--select-on", "validation",
                            "--output-dir", machine.folder / gpus),
            env=machine.environment(), capture_output=True, text=True, check=False,
            cwd=machine.folder,
        )  # fmt: skip

    some = search("0,2")
    assert some.returncode == 0, some.stdout + some.stderr
    line = f"left out from now on: {machine.uuids['a']}: device: it must be reset"
    assert some.stdout.count(line) == 1
    assert set(states(machine.folder / "0,2").values()) == {"COMPLETE"}
    assert "used for this only" in some.stdout  # the final test, on the GPU that is left
    said = one_error(search("0"))
    assert f"no GPU can be used here ({machine.uuids['a']}: device: it must be reset)" in said
    assert set(states(machine.folder / "0").values()) == {"WAITING"}
