"""Tries every kind of file and every habit, and writes the tables of docs/reading.md.

    python tests/reading/reading_table.py --before TREE

TREE is a checkout of another version, for the column "before".
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TREE = HERE.parents[1]
sys.path[:0] = [str(TREE), str(TREE / "tests"), str(HERE)]

from file_kinds import KINDS, Array, FileKind  # noqa: E402
from habits import HABITS, SEARCH, Habit, discs  # noqa: E402

LIMIT_S = 60  # of a command
MAX_SHOWN = 230
FRAMES = " |│╭╮╰╯─"  # of tables and boxes
PAGE = TREE / "docs/reading.md"
FILES = "Files"
NUM_PIXELS = 2

# Run by the Python of the tree whose reading is looked at.
READER = """
import json, pickle, sys
from pathlib import Path
import numpy as np

def image(path):
    from trainer.data.images import read_image
    return read_image(path, gray=False)[..., ::-1]

def mask(path):
    from trainer.data.images import read_mask
    return read_mask(path)

def slice_(path):
    from studies.sunnybrook.dicom import read_slice
    return read_slice(path, window="range")

def array(path):
    from trainer.data.arrays import ArrayFiles, list_sources
    kind = "hdf5" if path.suffix == ".h5" else "numpy"
    (source,), _ = list_sources(path, kind, "data.input_path")
    files = ArrayFiles()
    return files.read(source, tuple(slice(0, n) for n in source.shape))

def resized(path):
    from trainer.data.geometry import ReadingStep, read_through
    return read_through(mask(path), (ReadingStep("resize", (7, 9)),), nearest=True)

READ = {"image": image, "mask": mask, "resized": resized, "DICOM": slice_, "array": array}
found = []
for use, name in json.loads(sys.argv[1]):
    try:
        found.append(np.ascontiguousarray(READ[use](Path(name))))
    except Exception as error:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        known = kinds & {"TrainerError", "HpoError", "PrepareError", "UsageError"}
        found.append(("" if known else "traceback: ") + str(error))
Path(sys.argv[2]).write_bytes(pickle.dumps(found))
"""


@dataclass(frozen=True)
class Tried:
    """What a command ended with."""

    code: int
    output: str
    left: str = ""  # what the case looked at, the first line of the output

    def is_as_meant(self, habit: Habit) -> bool:
        return (
            self.code == habit.code
            and "Traceback" not in self.output
            and re.search(habit.says, self.output) is not None
        )

    def shown(self, habit: Habit) -> str:
        """Return the line that counts, or what else was said last."""
        if "Traceback" in self.output:
            return f"a traceback, exit code {self.code}"
        found = re.search(habit.says, self.output)
        chosen = "" if found is None else self._line_at(found.end() - 1)
        lines = [plain for line in self.output.splitlines() if (plain := line.strip(FRAMES))]
        errors = [text for text in lines if re.search(r"error:|PROBLEM|No such option", text)]
        warnings = [text for text in lines if "warning" in text]
        left = [self.left] if self.left else []
        chosen = chosen or (errors or left or warnings or lines[-1:] or [""])[0]
        if chosen.startswith("contact sheet:"):
            return "not a word of it"
        said = " ".join(chosen.strip(FRAMES).split())
        said = re.sub(r"^(rmldnn: |\[[^]]*\] )?(error: )?", "", said)
        said = said.replace(" | ", ": ", 1)  # of the plan's table
        return shortened(said) + (f" (exit code {self.code})" if self.code else "")

    def _line_at(self, place: int) -> str:
        start = self.output.rfind("\n", 0, place) + 1
        return self.output[start:].partition("\n")[0]


class Version:
    """The product in one checkout, tried in folders of its own."""

    def __init__(self, tree: Path, scratch: Path) -> None:
        self._tree = tree
        self._scratch = scratch
        project = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
        self._programs: dict[str, str] = project["scripts"]  # program -> module:function
        self._environment = {
            **os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "COLUMNS": "2000",
            "RML_CACHE_DIR": str(scratch / "cache"),
        }  # fmt: skip

    def read(self, kinds: list[FileKind]) -> tuple[list[Array], list[Array | str]]:
        """Return what the libraries decode, and what we read or say."""
        files = [self._made(str(n)) / f"a{kind.suffix}" for n, kind in enumerate(kinds)]
        for kind, path in zip(kinds, files, strict=True):
            kind.write(path)
        names = [(kind.use, str(path)) for kind, path in zip(kinds, files, strict=True)]
        out = self._scratch / "read.pickle"
        subprocess.run(
            [sys.executable, "-c", READER, json.dumps(names), str(out)],
            env=self._environment, check=True, cwd=self._scratch,
        )  # fmt: skip
        found = [
            entry.replace(f"{path.parent}/", "") if isinstance(entry, str) else entry
            for path, entry in zip(files, pickle.loads(out.read_bytes()), strict=True)
        ]
        libraries = [kind.library[1](path) for kind, path in zip(kinds, files, strict=True)]
        return libraries, found

    def try_out(self, habit: Habit) -> Tried:
        """Write and type a case's steps in an empty folder."""
        folder = self._made("habits") / "project"
        folder.mkdir()
        tried = Tried(0, "")
        for index, step in enumerate(habit.steps):
            if not isinstance(step, str):
                step(folder)
            elif step == "model":
                shutil.copytree(self._model(), folder, dirs_exist_ok=True)
            else:
                is_last = index == len(habit.steps) - 1
                tried = self._type(step, folder, habit.environment if is_last else {})
        left = ""
        if tried.code == 0:
            try:
                left = habit.look(folder)
            except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
                left = f"{type(error).__name__}: {error}"
        output = "\n".join(text for text in (left, tried.output) if text)
        shutil.rmtree(folder)
        return Tried(tried.code, output.replace(f"{folder}/", ""), left)

    def _type(self, command: str, folder: Path, environment: dict[str, str]) -> Tried:
        program, *arguments = shlex.split(command)
        try:
            ended = self._ended(program, arguments, folder, self._environment | environment)
        except subprocess.TimeoutExpired:
            return Tried(124, f"no end within {LIMIT_S} s")
        return Tried(ended.returncode, f"{ended.stdout}\n{ended.stderr}")

    def _ended(
        self, program: str, arguments: list[str], folder: Path, environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        module = self._programs[program].partition(":")[0]
        run = f"import sys; from {module} import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-c", run, *arguments], cwd=folder, env=environment,
            capture_output=True, text=True, errors="replace", timeout=LIMIT_S, check=False,
        )  # fmt: skip

    def _model(self) -> Path:
        """Return a folder with data/ and the best_model/ of a search on it, made once."""
        folder = self._scratch / "model"
        if not folder.exists():
            folder.mkdir(parents=True)
            discs(folder)
            self._type(SEARCH, folder, {})
        return folder

    def _made(self, name: str) -> Path:
        (self._scratch / name).mkdir(parents=True, exist_ok=True)
        return self._scratch / name


def shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def is_right(kind: FileKind, library: Array, found: Array | str) -> bool:
    """Say whether a file was read as its library does, or refused where that is meant."""
    if isinstance(found, str):
        return bool(kind.refused) and kind.refused in found and not found.startswith("traceback")
    if kind.refused:
        return False
    return _same(library, found, kind)


def _same(library: Array, found: Array, kind: FileKind) -> bool:
    tolerance = 2 if kind.suffix in (".jpg", ".jfif") else 0  # two decoders of JPEG
    expected = library if library.ndim == found.ndim else library[..., np.newaxis]
    if found.shape[: library.ndim] != library.shape[: found.ndim]:
        return False
    return bool(np.abs(found.astype(float) - expected.astype(float)).max() <= tolerance)


def pixels(array: Array) -> str:
    """Show the first pixels of an image, or the values of a mask."""
    size = "×".join(map(str, array.shape[:2]))
    first = array.reshape(-1, *array.shape[2:])[:NUM_PIXELS]
    texts = [str(tuple(p.tolist())) if p.ndim else f"{p.item():g}" for p in first]
    return f"{size}: {' '.join(texts)} …"


def values(array: Array) -> str:
    found, counts = np.unique(array, return_counts=True)
    size = "×".join(map(str, array.shape[:2]))
    shown = [f"{v:g} ({n})" for v, n in zip(found[:4].tolist(), counts[:4].tolist(), strict=True)]
    return f"{size}: {', '.join(shown)}{' …' if len(found) > 4 else ''}"


def file_rows(versions: list[Version]) -> list[list[str]]:
    columns = [version.read(KINDS) for version in versions]
    rows = []
    for index, kind in enumerate(KINDS):
        show = values if kind.use in ("mask", "resized") else pixels
        library = columns[-1][0][index]
        row = [kind.name, f"{kind.library[0]}: {show(library)}"]
        for _, found in columns:
            entry = found[index]
            if isinstance(entry, str):
                row.append(shortened(entry.partition("\n")[0]))
            else:
                row.append("the same" if _same(library, entry, kind) else show(entry))
        rows.append([*row, "yes" if is_right(kind, library, columns[-1][1][index]) else "**no**"])
    return rows


def habit_rows(versions: list[Version]) -> list[tuple[str, list[str]]]:
    rows = []
    for title, habit in HABITS:
        tried = [version.try_out(habit) for version in versions]
        cells = [entry.shown(habit) for entry in tried]
        rows.append(
            (title, [habit.name, *cells, "yes" if tried[-1].is_as_meant(habit) else "**no**"])
        )
        sys.stderr.write(f"{habit.name}: {rows[-1][1][-1]}\n")
    return rows


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in row) + " |"
        for row in lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the tables of docs/reading.md anew.")
    parser.add_argument("--before", type=Path, help="checkout of another version")
    arguments = parser.parse_args()
    trees = [*([arguments.before.resolve()] if arguments.before else []), TREE]
    heads = ["before", "now"][-len(trees) :]
    with tempfile.TemporaryDirectory() as scratch:
        versions = [Version(tree, Path(scratch) / str(n)) for n, tree in enumerate(trees)]
        files, habits = file_rows(versions), habit_rows(versions)
    tables = {FILES: table(["file", "what its library decodes", *heads, "as meant"], files)}
    for title in dict.fromkeys(title for title, _ in habits):
        rows = [row for name, row in habits if name == title]
        tables[title] = table(["case", *heads, "as meant"], rows)
    start = PAGE.read_text(encoding="utf-8").partition(f"## {FILES}\n")[0].rstrip()
    text = "".join(f"\n\n## {title}\n\n{rows}" for title, rows in tables.items())
    PAGE.write_text(f"{start}{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
