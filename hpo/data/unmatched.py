"""Says which images and masks of a part have no partner, or several, and what to do."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpo.dataset.datafolder import Part
from studies.prepare.samples import shown
from trainer.data.matching import Matching, relative
from trainer.wording import counted


def unmatched(root: Path, part: Part, found: Matching) -> Iterator[str]:
    """Yield a problem for each kind of file that is in no pair."""
    inputs, targets = root / part.inputs, root / part.targets
    if found.alone:
        yield (
            f"{part.inputs}: {len(found.alone)} without a mask: {_names(found.alone, inputs)}; "
            "add the masks, or move the images away"
        )
    if found.several:
        texts = [
            f"{relative(path, inputs)} ({', '.join(relative(mask, targets) for mask in masks)})"
            for path, masks in found.several
        ]
        yield (
            f"{part.inputs}: {counted(len(texts), 'image has', 'images have')} several masks: "
            f"{shown(texts)}; keep one of each{_joining(inputs, targets, found)}"
        )
    if found.unused:
        yield (
            f"{part.targets}: {len(found.unused)} without an image: "
            f"{_names(found.unused, targets)}; add the images, or move the masks away"
        )


def _names(paths: Sequence[Path], folder: Path) -> str:
    return shown([relative(path, folder) for path in paths])


def _joining(inputs: Path, targets: Path, found: Matching) -> str:
    """Return the command that joins the masks of each image, if one pattern finds just those."""
    masks_of = dict(found.several)
    masks_of |= {pair.input: [pair.target] for pair in found.pairs if pair.target}
    for path, masks in masks_of.items():
        named = targets.glob(f"{glob.escape(path.stem)}*")
        if set(named) != set(masks) or path.parent != inputs:
            return ", or join them: rml-data prepare folder --help"
    patterns = (f"{glob.escape(str(inputs))}/*", f"{glob.escape(str(targets))}/{{stem}}*")
    given = " ".join(
        f"{option} {shlex.quote(pattern)}"
        for option, pattern in zip(("--inputs", "--targets"), patterns, strict=True)
    )
    command = f"rml-data prepare folder {given} --out NEW"
    return f", or join masks of {{0, 255}} in a new data folder: {command}"
