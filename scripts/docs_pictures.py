"""Makes the pictures of docs/pictures/, and runs docs/notebook.ipynb, from the synthetic demo.

    python scripts/docs_pictures.py [--demo FOLDER] [--only-pictures]

FOLDER is the output folder of `rml-optimize --study demo --num-trials 50 --output-dir FOLDER`;
without it that search is run first, which takes some minutes. All but the montage are what
`rml-study` writes, in fewer colours. Figures differ from run to run, and so do the pictures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import nbclient
import nbformat
import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/pictures"
NOTEBOOK = ROOT / "docs/notebook.ipynb"
BIN = Path(sys.executable).parent
PLOTS = ("history", "parameters", "importance", "curves")
NUM_CASES = 6
CASE_PX = 256
MAX_BYTES = 150_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--demo", type=Path, metavar="FOLDER", help="of a finished demo")
    parser.add_argument("--only-pictures", action="store_true", help="leave the notebook alone")
    arguments = parser.parse_args()
    demo = arguments.demo
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if demo is None:
            demo = work / "demo"
            call("rml-optimize", "--study", "demo", "--num-trials", "50", "--output-dir", demo)
        call("rml-study", "plot", "--output-dir", demo, "--to", work / "plots")
        for plot in PLOTS:
            store(Image.open(work / "plots" / f"{plot}.png"), plot)
        store(montage(demo, work / "score"), "overlays")
        if not arguments.only_pictures:
            execute(work)


def call(command: str, *arguments: str | Path) -> None:
    subprocess.run([str(BIN / command), *map(str, arguments)], check=True)


def store(picture: Image.Image, name: str) -> None:
    """Write a picture in 64 colours, which is less than half of its bytes."""
    path = PICTURES / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    picture.convert("RGB").quantize(64).save(path, optimize=True)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise SystemExit(f"{path}: {size} bytes, more than {MAX_BYTES}")


def montage(demo: Path, score: Path) -> Image.Image:
    """Return the overlays of some test images, from the worst to the best, side by side."""
    (test,) = demo.glob("runs/*/data/test")
    call(
        "rml-study", "score", "--output-dir", demo, "--images", test / "inputs",
        "--targets", test / "targets", "--overlays", "--out", score,
    )  # fmt: skip
    rows = (score / "cases.csv").read_text(encoding="utf-8").splitlines()[1:]
    names = [rows[round(i)].split(",")[0] for i in np.linspace(0, len(rows) - 1, NUM_CASES)]
    pictures = []
    for name in names:
        image = cv2.imread(str(score / "overlays" / f"{Path(name).stem}.png"))
        assert image is not None
        image = cv2.resize(image, (CASE_PX, CASE_PX), interpolation=cv2.INTER_NEAREST)
        pictures.append(cv2.copyMakeBorder(image, 4, 4, 4, 4, cv2.BORDER_CONSTANT))
    half = NUM_CASES // 2
    rows_of_pictures = [np.hstack(pictures[:half]), np.hstack(pictures[half:])]
    return Image.fromarray(np.ascontiguousarray(np.vstack(rows_of_pictures)[..., ::-1]))


def execute(work: Path) -> None:
    """Run the notebook in an empty folder, and keep what it shows."""
    notebook = nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(
        notebook, kernel_name="python3", coalesce_streams=True,
        resources={"metadata": {"path": str(work)}},
    ).execute()  # fmt: skip
    data = "demo/runs/demo/data"  # stands in a table
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran, which differs each time
        if "outputs" in cell:  # warnings of packages are no part of it
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
        for output in cell.get("outputs", ()):
            if "text" in output:  # without the places of this machine
                text = output.text.replace(f"{work}/{data}", data.ljust(len(f"{work}/{data}")))
                output.text = text.replace(f"{work}/", "").replace(f"{BIN}/", "")
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
