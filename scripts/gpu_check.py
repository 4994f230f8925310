#!/usr/bin/env python3
"""Tests and measures all of it on one GPU, in one call of under nine minutes.

    python scripts/gpu_check.py --out DIR [--data DIR]
    python scripts/gpu_check.py --out DIR --device cpu --quick    # tries the script itself

Runs from a checkout, whether or not the package is installed, and needs no network. Each part has
a time limit of its own: the tests of `tests/gpu`, those of the worker and its networks (as far as
what they compare with is installed), both benchmarks at the sizes of the goals, a short search.
DIR gets `summary.md` (also printed), `results.json` and `gpu_check.log` with all that was said.

Exit code 1 if a part failed; a goal that is missed is no failure.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_goals import Goal, goals, speed
from gpu_parts import ROOT, Part, Ran, run_part

LIMIT_S = 510  # of all parts together
SLOW_LIMIT_S = 300  # of each part, where the script itself is tried
UNET = "unet:width=16,depth=4"


@dataclass(frozen=True)
class Plan:
    """What is run, and what it is judged by."""

    parts: list[Part]
    goals: list[Goal]


@dataclass(frozen=True)
class Sizes:
    """How large everything is; the batch is that of `large` images, `small` ones take half."""

    networks: tuple[str, ...]
    large: int
    small: int
    batch: int
    repeats: int
    trials: int
    epochs: int
    tests: tuple[str, ...]


FULL = Sizes(("resunet", UNET), 256, 128, 32, 3, 3, 6, ("tests/trainer", "tests/networks"))
TINY = Sizes(("unet:width=4,depth=2",), 48, 32, 4, 1, 2, 2, ("tests/trainer/test_no_waiting.py",))


def make_plan(options: argparse.Namespace, data: Path, folder: Path) -> Plan:
    """Return the parts: at the goals' sizes, or as small as will do to try this script."""
    quick, device = options.quick, options.device
    sizes = TINY if quick else FULL
    unet = sizes.networks[-1]
    cores = 1 if quick else len(os.sched_getaffinity(0))

    def tests(name: str, paths: list[str], limit_s: float, processes: int) -> Part:
        report = folder / f"{name.replace(' ', '_')}.xml"
        words = ["-m", "pytest", *paths, "-v", "--tb=short", "-m", "not slow"]
        words += ["-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings="]
        words += ["--continue-on-collection-errors", f"--junitxml={report}"]
        if processes > 1 and importlib.util.find_spec("xdist"):
            words += ["-n", str(processes)]
        return Part(name, words, limit_s, report)

    def benchmark(name: str, file: str, limit_s: float, words: list[object]) -> Part:
        report = folder / f"{name.replace(' ', '_')}.json"
        words = [f"benchmarks/{file}", *words, "--device", device, "--json", report]
        return Part(name, [*map(str, words)], limit_s, report, num_lines=60)

    images: list[object] = ["--data", data]
    networks = [word for name in sizes.networks for word in ("--network", name)]
    large: list[object] = [*images, "--size", sizes.large, "--batch-size", sizes.batch]
    small: list[object] = [*images, "--size", sizes.small, "--batch-size", sizes.batch // 2]
    repeats = ["--repeats", sizes.repeats]
    study = ["--study", "breast_cancer", "--num-trials", "4", "--num-epochs", "4"]
    if quick:
        study = ["--layers", unet, "--resize", f"{sizes.large},{sizes.large}"]
        study += ["--num-trials", "2", "--num-epochs", "2", "--select-on", "validation"]
    parts = [
        tests("tests gpu", ["tests/gpu"], 90, min(4, cores)),
        tests("tests", [*sizes.tests], 140, min(14, cores)),
        benchmark(f"throughput {sizes.large}", "train_throughput.py", 80,
                  [*large, *networks, *repeats]),
        benchmark(f"throughput {sizes.small}", "train_throughput.py", 35,
                  [*small, "--network", unet, *repeats]),
        benchmark("search", "search_time.py", 120,
                  [*large, *networks, "--trials", sizes.trials, "--epochs", sizes.epochs]),
        Part("short search",
             ["-m", "hpo.cli", "--data", str(data), *study, "--launcher", "local",
              "--no-gpu" if device == "cpu" else "--gpu", "--output-dir", str(folder / "out")],
             45, num_lines=16),
    ]  # fmt: skip
    wanted = [
        speed(sizes.networks[0], sizes.large, sizes.batch, 1.05),
        speed(unet, sizes.large, sizes.batch, 1.2),
        speed(unet, sizes.small, sizes.batch // 2, 3.5),
    ]
    for network in sizes.networks:
        wanted += goals(network)
    return Plan(parts, wanted)


def summarize(
    machine: str, results: list[Ran], plan: Plan, found: dict[str, Any], judged: bool
) -> str:
    """Return the summary as Markdown."""
    lines = [f"# {machine}", "", "| part | result | seconds |", "|---|---|---|"]
    lines += [f"| {ran.part.name} | {ran.text} | {ran.seconds:.0f} |" for ran in results]
    lines += ["", "| goal | measured | reached |", "|---|---|---|"]
    lines += [goal.row(found, judged=judged) for goal in plan.goals]
    if not judged:
        lines += ["", "Tried at tiny sizes: the goals are those of a GPU at full size."]
    notes = [note for ran in results for note in ran.notes]
    if notes:
        lines += ["", "Tests that failed:", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def environment_of_checkout() -> Iterator[dict[str, str]]:
    """Give an environment in which the checkout's packages are imported, installed or not."""
    with tempfile.TemporaryDirectory() as name:
        paths = [str(ROOT)]
        try:
            importlib.metadata.version("rml-optimize")
        except importlib.metadata.PackageNotFoundError:  # the driver records its version
            known = Path(name) / "rml_optimize-0.dist-info"
            known.mkdir()
            (known / "METADATA").write_text(
                "Metadata-Version: 2.1\nName: rml-optimize\nVersion: 0\n"
            )
            paths.append(name)
        if before := os.environ.get("PYTHONPATH"):
            paths.append(before)
        yield os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "RML_CACHE_DIR": str(Path(name) / "cache"),
        }


def write_data(options: argparse.Namespace, folder: Path, environment: dict[str, str]) -> Path:
    """Write images where none are given: as many as the breast study has."""
    if options.data is not None:
        return Path(options.data).absolute()
    size, numbers = (48, (12, 6)) if options.quick else (256, (627, 70))
    lines = ["from pathlib import Path", "from pairs import write_images"]
    for part, number in zip(("train", "test"), numbers, strict=True):
        lines.append(f"write_images(Path({str(folder)!r}), {number}, {size}, part={part!r})")
    paths = os.pathsep.join([str(ROOT / "benchmarks"), environment["PYTHONPATH"]])
    command = [sys.executable, "-c", "\n".join(lines)]
    subprocess.run(command, env=environment | {"PYTHONPATH": paths}, check=True)
    return folder


def main() -> int:
    """Run all parts and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder for results")
    parser.add_argument("--data", help="folder with {train,test}/{inputs,targets}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, few tests")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began, results, found = time.monotonic(), [], {}
    with (
        environment_of_checkout() as environment,
        tempfile.TemporaryDirectory() as name,
        (options.out / "gpu_check.log").open("w", encoding="utf-8") as log,
    ):
        machine = subprocess.run(
            [sys.executable, "benchmarks/machine.py", options.device],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        print(machine, flush=True)
        data = write_data(options, Path(name) / "data", environment)
        plan = make_plan(options, data, Path(name))
        for part in plan.parts:
            limit_s = min(part.limit_s, began + LIMIT_S - time.monotonic())
            if options.quick:  # a busy machine is no failure
                limit_s = SLOW_LIMIT_S
            since = time.monotonic() - began
            print(f"[{since:4.0f} s] {part.name}: {limit_s:.0f} s at most", flush=True)
            ran = run_part(part, max(limit_s, 1), environment, log)
            results.append(ran)
            print(f"[{time.monotonic() - began:4.0f} s] {part.name}: {ran.text}", flush=True)
            if part.report is not None and not part.is_tests and part.report.exists():
                found[part.name] = json.loads(part.report.read_text())
            judged = options.device == "cuda" and not options.quick
            summary = summarize(machine, results, plan, found, judged)
            # after each part: what ends this script leaves what was found before
            (options.out / "summary.md").write_text(summary, encoding="utf-8")
            (options.out / "results.json").write_text(json.dumps(found, indent=1))
    print(f"\n{summary}", flush=True)
    return 0 if all(ran.ok for ran in results) else 1


if __name__ == "__main__":
    sys.exit(main())
