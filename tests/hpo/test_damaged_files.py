"""Files that a crash, a bad disk or a stranger has damaged: one line that says which, and what."""

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import optuna
import pytest
from sqlalchemy import make_url

from hpo.console import run_app
from hpo.dataset.content_hashes import _read
from hpo.errors import StorageError, UsageError
from hpo.plan.promotion import share_of
from hpo.plan.studyfile import load_study
from hpo.store.damage import is_damage, refuse_damaged
from hpo.store.database import DatabaseRetry, close_storage, is_away, open_storage
from hpo.study.cli import make_app
from studies.prepare.folder import find_samples
from studies.prepare.pipeline import Settings, prepare
from trainer.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "s.db"
    storage = open_storage(f"sqlite:///{path}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    for _ in range(30):
        trial = study.ask()
        trial.suggest_float("optimizer.learning_rate", 0.01, 0.1)
        study.tell(trial, 0.5)
    close_storage(storage)
    return path


def test_damaged_page_is_named_with_the_remedy_by_every_command(database, capfd):
    with database.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096) * 4)
    url = f"sqlite:///{database}"
    with pytest.raises(StorageError, match=r"s\.db: the study's database is damaged.*doctor"):
        open_storage(url)
    trial = ["--trial", "1"]
    more = {"show": trial, "requeue": trial, "export": ["--to", "results"]}
    for name in ("list", "status", "show", "best", "export", "plot", "clean", "requeue"):
        words = [name, "--storage", url, *more.get(name, ())]
        assert run_app(make_app([name]), words) != 0, name
        lines = capfd.readouterr().err.splitlines()
        assert any("s.db" in line and "damaged" in line for line in lines), (name, lines)


def test_rows_that_make_no_sense_end_in_one_line(database, tmp_path, capfd):
    whole = tmp_path / "another.db"  # opened before, and not what is named
    close_storage(open_storage(f"sqlite:///{whole}"))
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE trials SET state = 'RUINED'")
    connection.close()
    url = f"sqlite:///{database}"
    code = run_app(make_app(["show"]), ["show", "--trial", "1", "--storage", url])
    said = capfd.readouterr().err
    assert code == 2 and "s.db: the study's database cannot be read" in said and "doctor" in said


class _Storage:
    """Optuna's, as a search uses it: all it asks runs inside our retry."""

    def __init__(self, database):
        url = f"sqlite:///{database}"
        self.rdb = open_storage(url)
        self.retry = DatabaseRetry(make_url(url), threading.Event(), print)

    def choose(self):
        return self.retry.call(share_of, 0)

    def read(self):
        return self.retry.call(self.rdb.get_all_trials, 1)


def test_fault_of_the_program_is_told_as_its_own(database, capfd):
    storage = _Storage(database)
    assert run_app(lambda **_: storage.choose(), []) == 1
    first, *_, last = capfd.readouterr().err.splitlines()
    assert first.startswith("Traceback")
    assert last.startswith("error: a fault of the program itself (ZeroDivisionError: ")
    assert "in hpo/plan/promotion.py, line " in last and "report it" in last
    close_storage(storage.rdb)


def test_fault_is_told_as_damage_where_the_file_is_damaged(database, capfd):
    storage = _Storage(database)
    close_storage(storage.rdb)
    with database.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096) * 4)
    assert run_app(lambda **_: storage.choose(), []) == 2
    assert "s.db: the study's database cannot be read" in capfd.readouterr().err


def test_row_that_makes_no_sense_is_told_as_damage_within_a_search(database, capfd):
    storage = _Storage(database)
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE trial_params SET distribution_json = '{\"name\": 7}'")
    connection.close()
    assert run_app(lambda **_: storage.read(), []) == 2
    assert "s.db: the study's database cannot be read" in capfd.readouterr().err
    close_storage(storage.rdb)


def test_whole_database_and_one_in_use_are_no_damage(database):
    refuse_damaged(make_url(f"sqlite:///{database}"))
    with sqlite3.connect(database) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        refuse_damaged(make_url(f"sqlite:///{database}"))
    connection.close()


def test_nobody_waits_for_a_damaged_file():
    from sqlalchemy.exc import DatabaseError, OperationalError

    damaged = sqlite3.DatabaseError("database disk image is malformed")
    assert not is_away(DatabaseError("SELECT", {}, damaged)) and is_damage(damaged)
    # a network disk that does not answer is waited for, too
    for reason in ("database is locked", "disk I/O error"):
        assert is_away(OperationalError("SELECT", {}, sqlite3.OperationalError(reason)))


@pytest.mark.parametrize(
    "content, said",
    [
        ("title = 'é'".encode("latin-1"), "not UTF-8"),
        (b"a = " + b"9" * 5000, "not TOML"),
        (b"a = " + b"[" * 5000, "not TOML"),
    ],
)
def test_study_file_that_is_none_is_one_line(content, said, tmp_path):
    (tmp_path / "study.toml").write_bytes(content)
    with pytest.raises(UsageError, match=f"study.toml: {said}"):
        load_study(tmp_path)


def test_pipe_among_the_images_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="not a regular file"):
        _read(tmp_path / "a.png")


def write_pairs(root: Path) -> None:
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24), np.uint8)
        for kind, image in (("x", pixels), ("y", np.uint8(255) * (pixels > 99))):
            (root / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / kind / f"{number}.png"), image)


def test_link_out_of_the_source_is_not_followed(tmp_path):
    write_pairs(tmp_path / "in")
    write_pairs(tmp_path / "out")
    inside, outside = tmp_path / "in/x/3.png", tmp_path / "out/x/5.png"
    inside.unlink()
    inside.symlink_to(outside)
    (tmp_path / "in/x/4.png").unlink()
    (tmp_path / "in/x/4.png").symlink_to("5.png")  # stays within
    found = find_samples(
        str(tmp_path / "in/x/*.png"), str(tmp_path / "in/y/{stem}.png"), group=None,
        out=tmp_path / "data",
    )  # fmt: skip
    roots = (tmp_path / "in/x", tmp_path / "in/y")
    result = prepare(found, Settings(study="folder", out=tmp_path / "data", roots=roots))
    assert [Path(entry.file).name for entry in result.skipped] == ["3.png"]
    assert "is a link that leaves" in result.skipped[0].reason
    assert result.num_train + result.num_test == 7


def test_folders_that_are_links_in_circles_are_refused(tmp_path):
    write_pairs(tmp_path / "in")
    for name in ("a", "b"):
        (tmp_path / "in" / name).symlink_to(".")
    with pytest.raises(DataError, match="a folder that is a link"):
        find_samples(str(tmp_path / "in/**/*.png"), "{stem}", group=None, out=tmp_path / "data")


def test_fuzz_of_all_readers_finds_nothing():
    """A hundred and fifty of the inputs of `make fuzz`."""
    script = str(ROOT / "scripts" / "fuzz.py")
    command = [sys.executable, script, "--seed", "5", "--count", "150", "--jobs", "2"]
    done = subprocess.run(
        [*command, "--workers", "5"], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "study's SQLite" in done.stdout and "seed 5: 0 failures" in done.stdout
