"""`rml-data prepare`: turns archives and folders of pairs into data folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hpo.command_line import HelpfulCommand, as_options
from hpo.console import console, counting
from hpo.data.plugins import PluginGroup, find_by_plugin
from trainer.plugins import DATASETS_GROUP, describe_plugin
from trainer.wording import counted

if TYPE_CHECKING:
    from studies.prepare.pipeline import Prepared
    from studies.prepare.samples import Found


class _Archives(PluginGroup):
    """Our own archives, then those of plug-ins."""

    def plugin_command(self, name: str) -> Any:
        return _plugin_command(name)


prepare_app = typer.Typer(
    cls=_Archives,
    no_args_is_help=True,
    help="Turn a publisher's archive, or any folder of pairs, into {train,test}/{inputs,targets}.",
)

NUM_LISTED = 20

Source = Annotated[
    Path, typer.Option("--source", help="The unpacked archive; nothing in it is changed")
]
Out = Annotated[Path, typer.Option("--out", help="The data folder to make, such as ./data")]
OnError = Annotated[
    Literal["skip", "stop"],
    typer.Option("--on-error", help="Leave out and list what cannot be used, or stop at it"),
]


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Split into training and test images"""

    test_fraction: Annotated[
        float,
        typer.Option("--test-fraction", min=0.01, max=0.9, help="Share of the images to test on"),
    ] = 0.1
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the split")] = 0


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Options of an archive whose publisher has split it."""

    source: Source
    out: Out
    on_error: OnError = "skip"


@dataclass(frozen=True, kw_only=True)
class ArchiveOptions(SourceOptions):
    """Options of an archive."""

    split: SplitOptions


@dataclass(frozen=True, kw_only=True)
class SunnybrookOptions(ArchiveOptions):
    """Options of `rml-data prepare sunnybrook`."""

    contours: Annotated[
        Literal["inner", "outer"], typer.Option("--contours", help="Endo- or epicardium")
    ] = "inner"
    channels: Annotated[
        Literal["gray", "rgb"], typer.Option("--channels", help="Of the images written")
    ] = "gray"
    window: Annotated[
        Literal["file", "range"],
        typer.Option("--window", help="What becomes 0 to 65535: the file's window, or its range"),
    ] = "file"


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """Options of `rml-data prepare folder`."""

    inputs: Annotated[str, typer.Option("--inputs", help="Glob of the images: 'x/*.tif'")]
    targets: Annotated[
        str,
        typer.Option("--targets", help="Their masks: 'y/{stem}_mask.png'; {name}, {parent}, *"),
    ]
    out: Out
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="REGEX", help="The patient in an image's path, below "
                     "the part of the glob without wildcards"),
    ] = None  # fmt: skip
    colors: Annotated[
        str | None,
        typer.Option("--colors", metavar="RRGGBB,…", help="The colour of each class in masks of "
                     "colours, background first; RRGGBB=255 for a value of its own"),
    ] = None  # fmt: skip
    on_error: OnError = "skip"
    split: SplitOptions


@prepare_app.command(cls=HelpfulCommand)
@as_options
def folder(options: FolderOptions) -> None:
    """Any folder of images with masks."""
    from studies.prepare.folder import find_samples

    found_by = {"inputs": options.inputs, "targets": options.targets, "group": options.group}
    _run(
        "folder",
        lambda: find_samples(
            options.inputs,
            options.targets,
            group=options.group,
            out=options.out,
            colours=options.colors,
        ),
        options,
        options.split,
        found_by | ({} if options.colors is None else {"colors": options.colors}),
    )


def _plain_archive(name: str, find: Callable[[Path], Found], about: str) -> typer.Typer:
    """Return an app with one command, for an archive that has no options of its own."""
    single = typer.Typer(add_completion=False)

    @single.command(name, help=about, cls=HelpfulCommand)
    @as_options
    def prepare_archive(options: ArchiveOptions) -> None:
        _run(name, lambda: find(options.source), options, options.split)

    return single


def _find_ours(name: str, source: Path) -> Found:
    archive = import_module(f"studies.{name}.archive")
    found: Found = archive.find_samples(source)
    return found


for _name, _about in (
    ("breast_cancer", "Breast ultrasound: Dataset_BUSI_with_GT/{benign,malignant,normal}."),
    ("brain_mri", "Brain MRI: kaggle_3m/TCGA_*, split by patient."),
    ("oxford_pets", "Cats and dogs: images/ and annotations/trimaps/."),
):
    prepare_app.add_typer(_plain_archive(_name, partial(_find_ours, _name), _about))


@prepare_app.command("sunnybrook", cls=HelpfulCommand)
@as_options
def sunnybrook(options: SunnybrookOptions) -> None:
    """Cardiac MRI: DICOM slices and contours as text files."""
    from studies.sunnybrook.archive import find_samples

    _run(
        "sunnybrook",
        lambda: find_samples(
            options.source,
            contours=options.contours,
            channels=options.channels,
            window=options.window,
        ),
        options,
        options.split,
        {key: getattr(options, key) for key in ("contours", "channels", "window")},
    )


@prepare_app.command("jsrt", cls=HelpfulCommand)
@as_options
def jsrt(options: SourceOptions) -> None:
    """Chest X-rays: the course's two .pth files, split 160 / 87."""
    from studies.jsrt.archive import find_samples

    _run("jsrt", lambda: find_samples(options.source), options, SplitOptions())


def _plugin_command(name: str) -> Any:
    """Return the command that prepares a plug-in's data set."""
    about = f"Your own: the plug-in {describe_plugin(DATASETS_GROUP, name)}."
    return typer.main.get_command(_plain_archive(name, partial(find_by_plugin, name), about))


def _run(
    study: str,
    find: Callable[[], Found],
    options: SourceOptions | FolderOptions,
    split: SplitOptions,
    found_by: dict[str, Any] | None = None,
) -> None:
    """Prepare a data folder of the samples that are found, and say what has become of them.

    Args:
        study: the archive's name, or "folder".
        found_by: the options that say which they are, for the folder's record.
    """
    from studies.prepare.pipeline import Settings, prepare

    settings = Settings(
        study=study,
        options=found_by or {},
        roots=_roots(options),
        out=options.out,
        test_fraction=split.test_fraction,
        seed=split.seed,
        stop_on_error=options.on_error == "stop",
    )
    with counting("preparing") as progress:
        result = prepare(find(), settings, progress)
    for line in describe_prepared(result):
        console.print(line, markup=False)


def _roots(options: SourceOptions | FolderOptions) -> tuple[Path, ...]:
    from studies.prepare.folder import fixed_part

    if isinstance(options, FolderOptions):
        return fixed_part(options.inputs), fixed_part(options.targets)
    return (options.source,)


def describe_prepared(result: Prepared) -> Iterator[str]:
    """Yield what a data folder has become, line by line."""
    yield (
        f"{result.out}: {result.num_train} training and {result.num_test} test images"
        + (", prepared before" if result.was_there else "")
    )
    if result.num_groups < result.num_train + result.num_test:
        yield f"split by group: {result.num_groups} of them, none in both parts"
    if result.near_duplicates:
        count = sum(map(len, result.near_duplicates))
        yield (
            f"near-duplicates: {counted(count, 'image')} in "
            f"{counted(len(result.near_duplicates), 'cluster')}"
            + ("" if result.torn else ", each kept on one side")
        )
    for names in result.torn[:NUM_LISTED]:
        yield (
            f"  warning: the publisher's split has {names[0]} and {names[1]} on different sides"
        )
    for note in result.notes:
        yield f"note: {note}"
    if result.skipped:
        yield f"left out: {len(result.skipped)}"
    for entry in result.skipped[:NUM_LISTED]:
        reason = entry.reason.removeprefix(f"{entry.file}: ")
        yield f"  {entry.file}: {reason}"
    if len(result.skipped) > NUM_LISTED:
        yield f"  … all of them are listed in {Path(result.out) / 'prepared.json'}"
