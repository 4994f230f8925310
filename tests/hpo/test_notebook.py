"""The notebook of the docs, executed: a search, its study, its model; then an interrupt."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import SLOW, clean_environment, workers_of

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[2] / "docs/notebook.ipynb"
INTERRUPT = """
import os, signal, threading, time
from pathlib import Path
def interrupt():
    while not list(Path("slow").rglob("out_test.txt")):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    optimize(data="demo/runs/demo/data", layers="unet:width=4,depth=2", num_trials=2,
             resize=(32, 32), gpu=False, num_epochs=200, worker={worker!r}, output_dir="slow")
except KeyboardInterrupt:
    print("interrupted, and the kernel lives")
"""
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""


def test_the_notebook_of_the_docs_runs_and_an_interrupt_leaves_its_kernel(tmp_path: Path) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    stored = [kinds(cell) for cell in notebook["cells"]]
    source = INTERRUPT.format(worker=f"{sys.executable} {SLOW}")
    interrupt = {"cell_type": "code", "id": "interrupt", "metadata": {}, "source": source}
    notebook["cells"].append(interrupt | {"outputs": [], "execution_count": None})
    path = tmp_path / "notebook.ipynb"
    path.write_text(json.dumps(notebook))
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, path], cwd=tmp_path, env=clean_environment(), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *cells, last = json.loads(path.read_text())["cells"]
    assert [kinds(cell) for cell in cells] == stored  # what a reader sees is what comes out
    outputs = "".join(text_of(cell) for cell in cells)
    assert "trial   3 complete" in outputs
    assert "best model: demo/best_model" in outputs
    assert "dice_dataset" in outputs
    assert "\x1b" not in outputs  # a notebook takes no line back, as a terminal does
    assert "('background', 'foreground') (64, 64) uint8 (1, 64, 64)" in outputs
    assert "interrupted, and the kernel lives" in text_of(last)
    assert not workers_of(tmp_path / "slow")


def kinds(cell: dict[str, Any]) -> list[list[str]]:
    """Return what a cell shows, each once: texts, tables, pictures; warnings aside."""
    outputs = [each for each in cell.get("outputs", ()) if each.get("name") != "stderr"]
    found = [sorted(output.get("data", ["text"])) for output in outputs]
    return [each for index, each in enumerate(found) if each not in found[:index]]


def text_of(cell: dict[str, Any]) -> str:
    outputs = cell.get("outputs", ())
    texts = (output.get("text") or output["data"].get("text/plain", "") for output in outputs)
    return "".join("".join(text) for text in texts)
