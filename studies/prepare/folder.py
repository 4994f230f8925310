"""Any folder of pairs: images by a glob, masks by a pattern with `{stem}` in it."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from studies.prepare.colours import parse_colours, recode
from studies.prepare.samples import Content, Found, Sample, Skipped, plain_name, refuse_volume
from trainer.data.images import SUFFIXES, Array, read_mask
from trainer.errors import DataError

_CAPTURES = re.compile(r"\{(\w+)\}")


def find_samples(
    inputs: str, targets: str, *, group: str | None, out: Path, colours: str | None = None
) -> Found:
    """Pair the files that match `inputs` with their masks.

    Args:
        inputs: glob of the images, `**` for any depth; `{id}` (any name) is like `*` and
            stands for the same text in `targets`.
        targets: pattern of an image's mask: `{stem}`, `{name}` (with suffix) and `{parent}`
            (folder's name) are the image's; with `*`, several masks of {0, 255} are joined.
        group: regular expression on an image's path below the fixed part of `inputs`; what it
            matches, or its first group, is the patient.
        out: where the result goes; files below it are no inputs.
        colours: the colour of each class, of masks of colours; see `parse_colours`.

    Raises:
        DataError: nothing matches, a pattern cannot be used, or a file is a volume.
    """
    table = None if colours is None else parse_colours(colours)
    captured = _CAPTURES.findall(inputs)
    fields = set(_CAPTURES.findall(targets))
    if not fields & {"stem", "name", *captured}:
        raise DataError(f"--targets {targets!r}: expected {{stem}} or {{name}} in it")
    if unknown := fields - {"stem", "name", "parent", *captured}:
        raise DataError(
            f"--targets {targets!r}: unknown {{{min(unknown)}}}; known: stem, name, parent"
            + "".join(f", {name}" for name in captured)
        )
    root = fixed_part(inputs)
    for pattern_of in (inputs, targets):
        if "**" in pattern_of:
            _refuse_circles(fixed_part(pattern_of))
    named, inputs = _named(inputs), _CAPTURES.sub("*", inputs)
    # glob and not Path.glob, which refuses absolute patterns
    files = [Path(name) for name in sorted(glob.glob(inputs, recursive=True))]  # noqa: PTH207
    files = [path for path in files if path.is_file() and not _is_below(path, out)]
    if not files:
        raise DataError(f"--inputs {inputs!r}: no such files")
    pattern = _compile(group)
    has_twins = len({path.stem for path in files}) < len(files)
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    used: dict[str, Path] = {}
    for path in files:
        refuse_volume(path)
        if path.suffix.lower() not in SUFFIXES:
            skipped.append(Skipped(str(path), f"no image; read are {', '.join(SUFFIXES)}"))
            continue
        match = named.fullmatch(path.name)
        if match is None:  # a name that is captured twice has two values
            continue
        of_image = _filled(targets, match.groupdict(), escape=False)
        masks = _masks_of(path, _filled(targets, match.groupdict(), escape=True))
        if not masks:
            skipped.append(Skipped(str(path), f"no mask {_fill(of_image, path)}"))
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
                read=partial(_read, path, masks, table),
            )
        )
    return Found(samples, skipped, num_classes=None)


def _refuse_circles(root: Path) -> None:
    """Refuse folders that are links where `**` goes through all: two circles take for ever.

    Raises:
        DataError: names the first.
    """
    for here, folders, _ in os.walk(root):
        for name in folders:
            path = Path(here, name)
            if path.is_symlink():
                raise DataError(f"{path}: a folder that is a link, below {root}/**; remove it")


def _named(inputs: str) -> re.Pattern[str]:
    """Return what takes the captured names out of a file's name."""
    seen: set[str] = set()
    pattern = ""
    for part in re.split(r"(\{\w+\}|\*|\?|\[[^]]*\])", Path(inputs).name):
        name = part[1:-1] if _CAPTURES.fullmatch(part) else ""
        if name in seen:
            pattern += f"(?P={name})"
        elif name:
            seen.add(name)
            pattern += f"(?P<{name}>.+)"
        else:
            wild = {"*": ".*", "?": "."}
            pattern += part if part.startswith("[") else wild.get(part, re.escape(part))
    return re.compile(pattern)


def _filled(targets: str, captured: Mapping[str, str], *, escape: bool) -> str:
    for name, value in captured.items():
        targets = targets.replace(f"{{{name}}}", glob.escape(value) if escape else value)
    return targets


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


def _read(path: Path, masks: tuple[Path, ...], table: Mapping[int, int] | None) -> Content:
    if table is not None:
        if len(masks) > 1:
            raise DataError(f"{path}: {len(masks)} masks; those of --colors are not joined")
        return Content(path, recode(masks[0], table))
    return Content(path, masks[0] if len(masks) == 1 else join_masks(masks))


def _is_below(path: Path, folder: Path) -> bool:
    return path.absolute().is_relative_to(folder.absolute())


def fixed_part(pattern: str) -> Path:
    """Return the folders of a pattern before its first wildcard or {name}."""
    parts: list[str] = []
    for part in Path(pattern).parent.parts:
        if glob.has_magic(part) or "{" in part:
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
