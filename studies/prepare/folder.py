"""Any folder of pairs: images by a glob, masks by a pattern with `{stem}` in it."""

from __future__ import annotations

import glob
import re
from functools import partial
from pathlib import Path

import numpy as np

from studies.prepare.samples import Content, Found, Sample, Skipped, plain_name, refuse_volume
from trainer.data.images import SUFFIXES, Array, read_mask
from trainer.errors import DataError


def find_samples(inputs: str, targets: str, *, group: str | None, out: Path) -> Found:
    """Pair the files that match `inputs` with their masks.

    Args:
        inputs: glob of the images, `**` for any depth.
        targets: pattern of an image's mask: `{stem}`, `{name}` (with suffix) and `{parent}`
            (folder's name) are the image's; with `*`, several masks of {0, 255} are joined.
        group: regular expression on an image's path below the fixed part of `inputs`; what it
            matches, or its first group, is the patient.
        out: where the result goes; files below it are no inputs.

    Raises:
        DataError: nothing matches, a pattern cannot be used, or a file is a volume.
    """
    if not re.search(r"\{(stem|name)\}", targets):
        raise DataError(f"--targets {targets!r}: expected {{stem}} or {{name}} in it")
    fields = set(re.findall(r"\{(\w*)\}", targets)) - {"stem", "name", "parent"}
    if fields:
        raise DataError(
            f"--targets {targets!r}: unknown {{{min(fields)}}}; known: stem, name, parent"
        )
    # glob and not Path.glob, which refuses absolute patterns
    files = [Path(name) for name in sorted(glob.glob(inputs, recursive=True))]  # noqa: PTH207
    files = [path for path in files if path.is_file() and not _is_below(path, out)]
    if not files:
        raise DataError(f"--inputs {inputs!r}: no such files")
    pattern = _compile(group)
    root = _fixed_part(inputs)
    has_twins = len({path.stem for path in files}) < len(files)
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    used: dict[str, Path] = {}
    for path in files:
        refuse_volume(path)
        if path.suffix.lower() not in SUFFIXES:
            skipped.append(Skipped(str(path), f"no image; read are {', '.join(SUFFIXES)}"))
            continue
        masks = _masks_of(path, targets)
        if not masks:
            skipped.append(Skipped(str(path), f"no mask {_fill(targets, path)}"))
            continue
        below = path.relative_to(root)
        name = plain_name("__".join(below.with_suffix("").parts) if has_twins else path.stem)
        other = used.setdefault(name, path)
        if other is not path:
            skipped.append(Skipped(str(path), f"same name as {other}: {name}"))
            continue
        samples.append(
            Sample(
                name=name,
                group=_group_of(below.as_posix(), pattern) or name,
                sources=(path, *masks),
                read=partial(_read, path, masks),
            )
        )
    return Found(samples, skipped, num_classes=None)


def join_masks(files: tuple[Path, ...]) -> Array:
    """Return the union of several binary masks, {0, 255}.

    Raises:
        DataError: one is not binary, or they differ in size.
    """
    joined: Array | None = None
    for file in files:
        mask = read_mask(file)
        values = set(np.unique(mask).tolist())
        if not (values <= {0, 255} or values <= {0, 1}):
            raise DataError(f"{file}: values {sorted(values)[:8]}; only masks of {{0, 255}} join")
        binary = np.where(mask > 0, 255, 0).astype(np.uint8)
        if joined is not None and joined.shape != binary.shape:
            raise DataError(f"{file}: another size than {files[0].name}")
        joined = binary if joined is None else np.maximum(joined, binary)
    assert joined is not None
    return joined


def _read(path: Path, masks: tuple[Path, ...]) -> Content:
    return Content(path, masks[0] if len(masks) == 1 else join_masks(masks))


def _is_below(path: Path, folder: Path) -> bool:
    return path.absolute().is_relative_to(folder.absolute())


def _fixed_part(pattern: str) -> Path:
    """Return the folders of a glob before its first wildcard."""
    parts: list[str] = []
    for part in Path(pattern).parent.parts:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _fill(targets: str, path: Path) -> str:
    filled = targets
    for key, value in (("stem", path.stem), ("name", path.name), ("parent", path.parent.name)):
        filled = filled.replace(f"{{{key}}}", value)
    return filled


def _masks_of(path: Path, targets: str) -> tuple[Path, ...]:
    escaped = targets
    for key, value in (("stem", path.stem), ("name", path.name), ("parent", path.parent.name)):
        escaped = escaped.replace(f"{{{key}}}", glob.escape(value))
    found = (Path(name) for name in sorted(glob.glob(escaped, recursive=True)))  # noqa: PTH207
    return tuple(mask for mask in found if mask.is_file() and mask != path)


def _compile(group: str | None) -> re.Pattern[str] | None:
    try:
        return None if group is None else re.compile(group)
    except re.error as error:
        raise DataError(f"--group {group!r}: not a regular expression ({error})") from None


def _group_of(path: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is None:
        return ""
    match = pattern.search(path)
    if match is None:
        raise DataError(f"--group {pattern.pattern!r} does not match {path!r}")
    return str(match[1] if pattern.groups else match[0])
