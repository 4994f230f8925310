"""A notebook, executed: a search with its progress, its study, its model, and an interrupt."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import SLOW, clean_environment, workers_of

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

SEARCH = """
from hpo import open_study, optimize
from trainer import load_model
result = optimize(data={data!r}, layers="unet:width=4,depth=2", num_trials=2, resize=(32, 32),
                  gpu=False, num_epochs=2, launcher="local", select_on="validation",
                  set={{"data.batch_size": 4}}, study_name="s", pruner="none")
"""
STUDY = """
opened = open_study(".")
assert len(opened.study.trials) == 2
table = opened.trials_dataframe()
table[["number", "state", "dice_dataset"]]
"""
MODEL = """
import numpy as np
from pathlib import Path
image = next(iter(sorted(Path({data!r}, "test/inputs").iterdir())))
found = load_model(opened.best_model).predict(image)
is_finite = bool(np.isfinite(found.probability).all())
print("mask", found.mask.shape, found.probability.shape, is_finite)
"""
INTERRUPT = """
import os, signal, threading, time
from pathlib import Path
def interrupt():
    while not list(Path("slow").rglob("out_test.txt")):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    optimize(data={data!r}, layers="unet:width=4,depth=2", num_trials=2, resize=(32, 32),
             gpu=False, num_epochs=200, worker={worker!r}, output_dir="slow")
except KeyboardInterrupt:
    print("interrupted, and the kernel lives")
"""
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""


def test_a_notebook_searches_looks_and_predicts(discs: Path, tmp_path: Path) -> None:
    worker = f"{sys.executable} {SLOW}"
    sources = [
        cell.format(data=str(discs), worker=worker) for cell in (SEARCH, STUDY, MODEL, INTERRUPT)
    ]
    cells = [
        {
            "cell_type": "code", "id": f"c{index}", "metadata": {}, "source": source,
            "outputs": [], "execution_count": None,
        }
        for index, source in enumerate(sources)
    ]  # fmt: skip
    path = tmp_path / "notebook.ipynb"
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook))
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, path], cwd=tmp_path, env=clean_environment(), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outputs = [
        "".join(
            "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
            for output in cell["outputs"]
        )
        for cell in json.loads(path.read_text())["cells"]
    ]
    assert "trial   1 complete" in outputs[0]
    assert "best model: best_model" in outputs[0]
    assert "dice_dataset" in outputs[1]
    assert outputs[2].strip() == "mask (32, 32) (1, 32, 32) True"
    assert "interrupted, and the kernel lives" in outputs[3]
    assert not workers_of(tmp_path / "slow")
