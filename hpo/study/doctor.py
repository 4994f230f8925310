"""`rml-study doctor`: whether this machine can take part in a study."""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import shutil
import statistics
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Engine, select

from hpo.command_line import as_options
from hpo.errors import HpoError, UsageError
from hpo.launchers import DEFAULT_IMAGE
from hpo.launchers.slots import SlotRequest, usable_gpus
from hpo.store.databaseurl import DATABASE_FILE, FILE_VARIABLE, URL_VARIABLE
from hpo.store.schema import OtherDatabaseError
from hpo.study.common import choose_study, database_url, reading, say, show_json
from hpo.study.enginecheck import check_engine
from hpo.study.finding import Finding
from hpo.study.options import Artifacts, AsJson, StudyOptions
from hpo.study.queries import StudyReader, study_names
from trainer.errors import TrainerError
from trainer.wording import counted

MAX_LATENCY_S = 0.05  # each report waits for it
MAX_SKEW_S = 2.0
LOW_DISK_GB, FULL_DISK_GB = 10, 1


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Options of `rml-study doctor`."""

    data: Annotated[Path | None, typer.Option("--data", help="Data folder (default: ./data)")] = (
        None
    )
    docker_image: Annotated[str, typer.Option("--docker-image", help="Image of the workers")] = (
        DEFAULT_IMAGE
    )
    artifacts: Artifacts = None
    as_json: AsJson = False
    study: StudyOptions


@as_options
def doctor(options: DoctorOptions) -> None:
    """Check database, clock, container engine, image, GPUs, data and disk of this machine.

    One line each, with the remedy. Exit code 1 if anything fails.
    """
    data, output_dir = options.data, options.study.output_dir
    findings = [
        *_check_database(options.study),
        *_check_workers(options.docker_image, [data or Path("data"), output_dir]),
        _check_local_worker(),
        _check_data(data),
        _check_disk(output_dir),
    ]
    if options.artifacts is not None:
        findings.append(_check_artifacts(options.artifacts))
    if options.as_json:
        show_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            say(f"{finding.verdict:<5}{finding.topic:<12}{finding.text}")
    if any(finding.verdict == "FAIL" for finding in findings):
        raise typer.Exit(1)


def _check_database(options: StudyOptions) -> Iterator[Finding]:
    named = (
        options.storage
        or options.storage_file
        or os.environ.get(FILE_VARIABLE)
        or os.environ.get(URL_VARIABLE)
    )
    if not named and not (options.output_dir / DATABASE_FILE).exists():
        yield Finding(
            "database", "OK", f"none named and no {DATABASE_FILE} here: a search makes one"
        )
        return
    try:
        with reading(database_url(options)) as engine:
            latency_s = _latency(engine)
            slow = latency_s > MAX_LATENCY_S
            remedy = "; each report waits so long: use a server that is nearer" if slow else ""
            kind = engine.url.get_backend_name()
            yield Finding(
                "database",
                "WARN" if slow else "OK",
                f"{kind} answers in {latency_s * 1000:.1f} ms, {_count_studies(engine)}{remedy}",
            )
            if options.study_name is not None:
                choose_study(options.study_name, list(study_names(engine)))
                yield Finding("study", "OK", f"{options.study_name} is in the database")
            yield _check_clock(engine)
    except UsageError as error:
        yield Finding("study", "FAIL", str(error))
    except OtherDatabaseError as error:
        yield Finding("database", "FAIL", str(error))
    except HpoError as error:
        yield Finding("database", "FAIL", f"{error}; see --storage, and that its server runs")


def _latency(engine: Engine) -> float:
    times = []
    with engine.connect() as connection:
        for _ in range(7):
            start = time.perf_counter()
            connection.execute(select(1)).all()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _count_studies(engine: Engine) -> str:
    number = len(study_names(engine))
    if not number:
        return "no studies yet"
    return f"{number} {'study' if number == 1 else 'studies'}"


def _check_clock(engine: Engine) -> Finding:
    begin = dt.datetime.now(dt.UTC)
    now = StudyReader(engine, -1).now()
    end = dt.datetime.now(dt.UTC)
    here = (begin + (end - begin) / 2).replace(tzinfo=None)
    # The database's session may be in another time zone; those differ by quarters of an hour.
    quarter_s = 900.0
    skew_s = (here - now).total_seconds()
    skew_s -= quarter_s * round(skew_s / quarter_s)
    if abs(skew_s) <= MAX_SKEW_S:
        return Finding("clock", "OK", f"{abs(skew_s):.1f} s from the database's")
    return Finding(
        "clock",
        "WARN",
        f"{abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} the database's, so "
        "durations are wrong: synchronise the clocks (chrony, ntpd)",
    )


def _check_gpus() -> Generator[Finding, None, bool]:
    """Yield one line on all that can be used, and one on each that cannot; return if any can."""
    lines: list[str] = []
    try:
        usable = usable_gpus(SlotRequest(), lines.append)
    except HpoError as error:
        yield Finding("GPUs", "FAIL", str(error))
        return False
    names = ", ".join(sorted({gpu.name for gpu in usable}))
    if usable:
        yield Finding("GPUs", "OK", f"{len(usable)}: {names}")
    elif not lines:
        yield Finding("GPUs", "WARN", "none here: trials run on the CPU")
    for line in lines:
        yield Finding("GPUs", "WARN", line)
    return bool(usable)


def _check_workers(image: str, folders: list[Path]) -> Iterator[Finding]:
    has_gpus = yield from _check_gpus()
    there = [folder.absolute() for folder in folders if folder.exists()]
    yield from check_engine(image, there, has_gpus=has_gpus)


def _check_local_worker() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding(
            "worker", "WARN", "PyTorch is not installed: pip install torch, or use containers"
        )
    return Finding("worker", "OK", "rmldnn can run as a local process")


def _check_data(data: Path | None) -> Finding:
    from hpo.dataset.datafolder import find_data

    if data is None and not Path("data").exists():
        return Finding("data", "WARN", "no folder data/ here: name it with --data")
    folder = data or Path("data")
    try:
        found = find_data(folder, needs_test=False)
        count = sum(1 for _ in (found.root / found.train.inputs).iterdir())
    except (HpoError, TrainerError) as error:
        return Finding("data", "FAIL", str(error))
    except OSError as error:
        return Finding("data", "FAIL", f"{folder}: {error.strerror}; check its permissions")
    test = "" if found.test else ", no test set: use --select-on validation"
    return Finding("data", "OK", f"{folder}: {counted(count, 'training image')}{test}")


def _check_disk(output_dir: Path) -> Finding:
    folder = output_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    text = f"{free_gb:.1f} GB free for {output_dir.absolute()}"
    probe = folder / f".rml-doctor-{time.time_ns()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        return Finding("disk", "FAIL", f"{folder}: {error.strerror}; choose another --output-dir")
    if free_gb < FULL_DISK_GB:
        return Finding("disk", "FAIL", f"{text}: remove something, or see rml-study clean")
    if free_gb < LOW_DISK_GB:
        return Finding("disk", "WARN", f"{text}: checkpoints may fill it; see rml-study clean")
    return Finding("disk", "OK", text)


def _check_artifacts(location: str) -> Finding:
    import tempfile

    from hpo.results.artifacts import open_model_store

    try:
        model_store = open_model_store(location)
        name = f"doctor-{time.time_ns()}.tar"
        with tempfile.TemporaryDirectory(prefix="rml-doctor-") as folder:
            probe = Path(folder)
            (probe / "sent").mkdir()
            (probe / "got").mkdir()
            (probe / "sent/probe").write_text(name)
            model_store.put(name, probe / "sent", ["probe"])
            is_back = model_store.get(name, probe / "got", ["probe"])
            model_store.remove(name)
    except HpoError as error:
        return Finding("artifacts", "FAIL", str(error))
    if not is_back:
        return Finding("artifacts", "FAIL", f"{location} loses what is written; check it")
    return Finding("artifacts", "OK", f"{location} takes and gives")
