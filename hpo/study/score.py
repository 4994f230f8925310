"""`rml-study score`: the best model's score on images with masks, image by image."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hpo.command_line import as_options
from hpo.errors import HpoError
from hpo.results.metrics import parse_dice
from hpo.study.common import say, show_table
from hpo.study.options import Artifacts, StudyOptions
from hpo.study.predict import segment
from hpo.study.workers import WorkerOptions
from hpo.worker_files import remove
from trainer import rundir
from trainer.wording import counted

TABLE = "cases.csv"  # the worker's, see trainer.commands.cases
MAX_ROWS = 20


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Options of `rml-study score`."""

    images: Annotated[Path, typer.Option("--images", help="Folder of images, of any size")]
    targets: Annotated[Path, typer.Option("--targets", help="Folder of their masks")]
    overlays: Annotated[
        bool, typer.Option("--overlays", help="Keep pictures with mask and prediction")
    ] = False
    out: Annotated[Path, typer.Option("--out", help="New folder for the results")] = Path("score")
    artifacts: Artifacts = None
    study: StudyOptions
    workers: WorkerOptions


@as_options
def score(options: ScoreOptions) -> None:
    """Score the study's best model on images with masks, the worst image first.

    Compares at the images' own size and writes cases.csv, with --overlays also overlays/: the
    prediction is tinted, the mask's outline is dashed.
    """
    segment(options, options.targets)
    out = options.out
    unwanted = [rundir.PREDICTIONS, "masks", *([] if options.overlays else ["overlays"])]
    for name in unwanted:
        remove(out / name)
    text = rundir.read_untrusted(out / TABLE).decode(errors="replace")
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
        shown, summary = [_shown(row) for row in rows[:MAX_ROWS]], _summary(rows)
    except (LookupError, TypeError, ValueError, AttributeError, csv.Error):
        raise HpoError(f"{out / TABLE}: the worker left no table of images") from None
    show_table(shown)
    if len(rows) > MAX_ROWS:
        say(f"… and {len(rows) - MAX_ROWS} better ones")
    say(summary)
    say(f"wrote {out / TABLE}" + (f" and {out / 'overlays'}/" if options.overlays else ""))


def _classes(row: Mapping[str, str]) -> list[str]:
    return [key.removesuffix("_dice") for key in row if key.endswith("_dice")]


def _shown(row: Mapping[str, str]) -> dict[str, object]:
    classes = _classes(row)
    of_classes = (
        {name: parse_dice(row[f"{name}_dice"]) for name in classes} if len(classes) > 1 else {}
    )
    return {"Dice": parse_dice(row["dice"]), **of_classes, "image": row["name"]}


def _summary(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the Dice of each class, of the pixels of all images pooled, and the images' mean."""
    parts = []
    for name in _classes(rows[0]):
        both, predicted, target = (
            sum(int(row[f"{name}_{key}"]) for row in rows)
            for key in ("intersection", "predicted", "target")
        )
        pooled = 2 * both / (predicted + target) if predicted + target else 1.0
        parts.append(f"{name} {pooled:.4f}")
    mean = math.fsum(parse_dice(row["dice"]) for row in rows) / len(rows)
    return (
        f"Dice of all pixels pooled: {', '.join(parts)}; mean over images {mean:.4f}, of "
        f"{counted(len(rows), 'image')}"
    )
