"""What a search does with an engine that knows the contract only, or does not say so."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
from support import STANDIN, Run, list_acc, one_error, optimize, start, wait_for

# Asked what it can do it is killed the first time, as by a machine that is short of memory.
KILLED_ONCE = """\
#!/bin/sh
if [ "$1" = --capabilities ] && [ ! -e asked ]; then touch asked; kill -9 $$; fi
exec {python} {standin} {settings} "$@"
"""


def recorded(run: Run, folder: Path) -> dict[str, object]:
    shown = run("rml-study", "show", "--trial", 0, "--json", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    answer: dict[str, object] = json.loads(shown.stdout)
    return answer


def test_a_plain_engine_is_said_to_be_one_and_what_it_got_is_recorded(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    worker = f"{sys.executable} {STANDIN}"
    result = run("rml-optimize", *optimize(discs, "--num-trials", 1, "--worker", worker))
    assert result.returncode == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "knows the contract only: asked what it can do, it ended with exit code 64" in said
    assert "does not get what it does not know: seed, metrics, checkpoints.keep" in said
    assert list_acc(tmp_path)[0]["seed"] is None
    assert "seed" not in json.dumps(recorded(run, tmp_path).get("config", {}))


@pytest.mark.parametrize("mode", [(), ("--dry-run",)])
@pytest.mark.parametrize("searched", ["precision=fp32,bf16", "data.tiles.overlap=0.0,0.5"])
def test_a_setting_that_the_engine_does_not_know_is_not_searched(
    discs: Path, run: Run, searched: str, mode: tuple[str, ...]
) -> None:
    worker = f"{sys.executable} {STANDIN}"
    fixed = ("--set", "data.tiles.size=[32,32]") if "tiles" in searched else ()
    result = run(
        "rml-optimize",
        *optimize(discs, "--worker", worker, "--search", searched, *fixed, *mode),
    )
    key = searched.split("=")[0]
    assert f"--search {key}: this worker does not know it" in one_error(result)


def test_a_worker_that_is_killed_at_the_question_still_gets_its_seed(
    discs: Path, run: Run, tmp_path: Path
) -> None:
    settings, worker = tmp_path / "settings.json", tmp_path / "worker"
    settings.write_text(json.dumps({"capabilities": ["seed"]}))
    text = KILLED_ONCE.format(python=sys.executable, standin=STANDIN, settings=settings)
    worker.write_text(text.replace("asked", str(tmp_path / "asked")))
    worker.chmod(0o755)
    result = run("rml-optimize", *optimize(discs, "--num-trials", 1, "--worker", worker))
    assert result.returncode == 0, result.stderr
    assert "was ended by signal 9; it is asked again" in " ".join(result.stdout.split())
    config = json.loads(next(tmp_path.glob("runs/*/trial_00000/*/config.json")).read_text())
    assert config["neural_network"]["seed"] == list_acc(tmp_path)[0]["seed"] is not None


def test_a_search_that_waits_for_an_answer_can_be_stopped(discs: Path, tmp_path: Path) -> None:
    worker = tmp_path / "worker"
    worker.write_text(f"#!/bin/sh\ntouch {tmp_path / 'asked'}\nsleep 100\n")
    worker.chmod(0o755)
    process = start(tmp_path, *optimize(discs, "--worker", worker))
    wait_for((tmp_path / "asked").exists)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "Traceback" not in output
