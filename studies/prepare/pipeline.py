"""Prepares a data folder: stage, look for near-duplicates, split, and put in place as a whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from studies.prepare.groups import write_groups
from studies.prepare.samples import NUM_NAMES_SHOWN, Found, Skipped, shown
from studies.prepare.similarity import similar_pairs
from studies.prepare.split import draw_test_groups, merge_groups
from studies.prepare.staging import Staged, key_of, stage
from trainer.bounded import read_bytes
from trainer.data.locks import FileLock
from trainer.errors import DataError
from trainer.wording import counted

VERSION = 1  # raise it with any change of what is written: older folders are then refused
MANIFEST = "prepared.json"
MAX_MANIFEST_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to prepare.

    Attributes:
        study: which archive, for the manifest.
        out: the data folder to make.
        test_fraction: share of the images in the test part, unless the publisher split them.
        seed: of the split.
        stop_on_error: end at the first file that cannot be used, instead of listing it.
        options: the archive's own options, for the manifest.
        roots: where the files are; links that lead out of them are not followed.
    """

    study: str
    out: Path
    test_fraction: float = 0.1
    seed: int = 0
    stop_on_error: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    roots: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What came out; also the manifest in the prepared folder.

    Attributes:
        groups: patients, or images where no patients are known, before merging.
        near_duplicates: names that show nearly the same; each list is on one side.
        torn: near-duplicates that the publisher's own split has on both sides.
        was_there: the folder had been prepared before, with the same settings.
    """

    out: str
    study: str
    num_train: int
    num_test: int
    num_groups: int
    near_duplicates: list[list[str]]
    torn: list[list[str]]
    skipped: list[Skipped]
    notes: list[str]
    was_there: bool = False


def prepare(
    found: Found,
    settings: Settings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Write `out`/{train,test}/{inputs,targets}, `prepared.json` and `groups.csv`.

    A run that was killed goes on where it was: what is staged is not read again. The folder
    appears as a whole, by one rename.

    Raises:
        DataError: nothing usable, a file that cannot be used (with `stop_on_error`), or `out`
            holds something else.
    """
    found = _without_foreign(found, settings.roots)
    if settings.stop_on_error and found.skipped:
        first = found.skipped[0]
        raise DataError(f"{first.file}: {first.reason}")
    if not found.samples:
        raise DataError(f"no image with a mask can be used{_reasons(found.skipped)}")
    out = settings.out.absolute()
    identity = _identity(found, settings)
    finished = _finished(out, identity)
    if finished is not None:
        return finished
    aside = out.with_name(f".{out.name}.partial")
    aside.mkdir(parents=True, exist_ok=True)
    lock = FileLock.try_take(aside / "lock")
    if lock is None:
        raise DataError(f"--out: {out}: another process is preparing it just now")
    try:
        return _prepare(found, settings, (out, aside), identity, progress)
    finally:
        lock.release()


def _without_foreign(found: Found, roots: Sequence[Path]) -> Found:
    """Leave out samples of files that links bring from elsewhere, as an archive can have them."""
    inside = [root.resolve() for root in roots]
    kept, skipped = [], [*found.skipped]
    for sample in found.samples:
        foreign = next((path for path in sample.sources if inside and _leaves(path, inside)), None)
        if foreign is None:
            kept.append(sample)
            continue
        reason = (
            f"is a link that leaves {' and '.join(map(str, roots))}; put the file itself there"
        )
        skipped.append(Skipped(str(foreign), reason))
    return replace(found, samples=kept, skipped=skipped)


def _leaves(path: Path, inside: Sequence[Path]) -> bool:
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # a circle of links; Python 3.11 says RuntimeError
        return True
    return not any(real.is_relative_to(root) for root in inside)


def _prepare(
    found: Found,
    settings: Settings,
    folders: tuple[Path, Path],
    identity: str,
    progress: Callable[[int, int], None],
) -> Prepared:
    out, aside = folders
    staged, unreadable = stage(
        found, aside, stop_on_error=settings.stop_on_error, progress=progress
    )
    skipped = [*found.skipped, *unreadable]
    if not staged:
        raise DataError(
            f"none of {counted(len(found.samples), 'image')} can be used{_reasons(skipped)}"
        )
    pairs = similar_pairs([entry.small for entry in staged])
    groups = [entry.sample.group for entry in staged]
    across = [(i, j) for i, j in pairs if groups[i] != groups[j]]
    merged = merge_groups(groups, across)
    parts = _parts(staged, merged, settings)
    if parts is None:
        raise DataError(f"{settings.out}: {_undivided(staged, across)}{_reasons(skipped)}")
    tree = aside / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for entry, part in zip(staged, parts, strict=True):
        for file, kind in ((entry.image, "inputs"), (entry.mask, "targets")):
            target = tree / part / kind / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(file, target)
    result = Prepared(
        out=str(out),
        study=settings.study,
        num_train=parts.count("train"),
        num_test=parts.count("test"),
        num_groups=len(set(groups)),
        near_duplicates=_clusters(staged, merged, across),
        torn=[
            [staged[i].sample.name, staged[j].sample.name]
            for i, j in across
            if parts[i] != parts[j]
        ],
        skipped=skipped,
        notes=found.notes,
    )
    names = (entry.sample.name for entry in staged)
    write_groups(tree, zip(names, merged, parts, strict=True))
    manifest = {
        "version": VERSION,
        "identity": identity,
        "options": {
            "test_fraction": settings.test_fraction,
            "seed": settings.seed,
            **settings.options,
        },
        **{key: value for key, value in asdict(result).items() if key != "was_there"},
    }
    (tree / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    if out.is_dir():
        out.rmdir()  # empty, as was seen above
    tree.rename(out)
    shutil.rmtree(aside, ignore_errors=True)
    return result


def _parts(staged: list[Staged], merged: list[str], settings: Settings) -> list[str] | None:
    """Return the part of each sample, None where all belong together."""
    if all(entry.sample.part for entry in staged):
        return [str(entry.sample.part) for entry in staged]
    strata = {group: entry.sample.stratum for group, entry in zip(merged, staged, strict=True)}
    chosen = draw_test_groups(merged, strata, fraction=settings.test_fraction, seed=settings.seed)
    if not chosen:
        return None
    return ["test" if group in chosen else "train" for group in merged]


def _undivided(staged: list[Staged], across: list[tuple[int, int]]) -> str:
    """Say why no test part can be drawn."""
    if len(staged) == 1:
        return f"only {staged[0].sample.name} can be used; a test part needs a second image"
    groups = {entry.sample.group for entry in staged}
    if len(groups) == 1:
        return (
            f"all {len(staged)} images are of one group ({min(groups)}); a test part needs a "
            "second one"
        )
    examples = [f"{staged[i].sample.name} ~ {staged[j].sample.name}" for i, j in across]
    of_groups = "" if len(groups) == len(staged) else f" of {len(groups)} groups"
    return (
        f"near-duplicates join all {len(staged)} images{of_groups}, so that none is left to test "
        f"on: {shown(examples)}; keep one of each, or, if they only look alike, make "
        "train/{inputs,targets} and test/{inputs,targets} by hand"
    )


def _reasons(skipped: Sequence[Skipped]) -> str:
    """List the first files that were left out, a line each."""
    lines = [
        f"left out: {entry.file}: {entry.reason.removeprefix(f'{entry.file}: ')}"
        for entry in skipped[:NUM_NAMES_SHOWN]
    ]
    if len(skipped) > NUM_NAMES_SHOWN:
        lines.append(f"… ({len(skipped)} in all)")
    return "".join(f"\n  {line}" for line in lines)


def _clusters(
    staged: list[Staged], merged: list[str], across: list[tuple[int, int]]
) -> list[list[str]]:
    clusters: dict[str, set[str]] = {}
    for pair in across:
        for index in pair:
            clusters.setdefault(merged[index], set()).add(staged[index].sample.name)
    return sorted(sorted(names) for names in clusters.values())


def _identity(found: Found, settings: Settings) -> str:
    digest = hashlib.sha256(
        json.dumps(
            [VERSION, settings.study, settings.test_fraction, settings.seed,
             dict(settings.options), found.num_classes], sort_keys=True
        ).encode()
    )  # fmt: skip
    for sample in found.samples:
        digest.update(f"{sample.name}\0{sample.group}\0{key_of(sample)}\0".encode())
    return digest.hexdigest()[:16]


def _finished(out: Path, identity: str) -> Prepared | None:
    """Return what an earlier run left in `out`, None where it is free.

    Raises:
        DataError: `out` holds something else.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"--out: {out} is a file; name a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return None
    try:
        manifest = json.loads(read_bytes(out / MANIFEST, MAX_MANIFEST_BYTES).decode())
        if manifest["identity"] == identity:
            fields = {
                key: manifest[key] for key in Prepared.__dataclass_fields__ if key in manifest
            }
            fields["skipped"] = [Skipped(**entry) for entry in manifest["skipped"]]
            fields["out"] = str(out)
            return Prepared(**fields, was_there=True)
        reason = "was prepared from other files or with other settings"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        reason = "holds something else"
    raise DataError(f"--out: {out} {reason}; name another folder, or remove it")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
