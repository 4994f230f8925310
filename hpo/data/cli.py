"""The command `rml-data`: prepares data folders, and looks at them before anything is trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hpo.cli import counting
from hpo.console import console, run_app
from hpo.data.plugins import PluginGroup, find_by_plugin
from trainer.plugins import DATASETS_GROUP, describe_plugin

if TYPE_CHECKING:
    from hpo.data.check import DataCheck
    from studies.prepare.samples import Found

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
    help="Prepare data folders, and check them before anything is trained."
)  # fmt: skip


class _Archives(PluginGroup):
    """Our own archives, then those of plug-ins."""

    def plugin_command(self, name: str) -> Any:
        return _plugin_command(name)


prepare_app = typer.Typer(
    cls=_Archives,
    no_args_is_help=True,
    help="Turn a publisher's archive, or any folder of pairs, into {train,test}/{inputs,targets}.",
)
app.add_typer(prepare_app, name="prepare")

NUM_LISTED = 20
BARS = " ▁▂▃▄▅▆▇█"

Source = Annotated[
    Path, typer.Option("--source", help="The unpacked archive; nothing in it is changed")
]
Out = Annotated[Path, typer.Option("--out", help="The data folder to make, such as ./data")]
TestFraction = Annotated[
    float,
    typer.Option("--test-fraction", min=0.01, max=0.9, help="Share of the images to test on"),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the split")]
OnError = Annotated[
    Literal["skip", "stop"],
    typer.Option("--on-error", help="Leave out and list what cannot be used, or stop at it"),
]


@prepare_app.command()
def folder(  # noqa: PLR0913  # a command's options
    inputs: Annotated[str, typer.Option("--inputs", help="Glob of the images: 'x/*.tif'")],
    targets: Annotated[
        str,
        typer.Option("--targets", help="Their masks: 'y/{stem}_mask.png'; {name}, {parent}, *"),
    ],
    out: Out,
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="REGEX", help="The patient in an image's path, below "
                     "the part of the glob without wildcards"),
    ] = None,
    colors: Annotated[
        str | None,
        typer.Option("--colors", metavar="RRGGBB,…", help="The colour of each class in masks of "
                     "colours, background first; RRGGBB=255 for a value of its own"),
    ] = None,
    test_fraction: TestFraction = 0.1,
    seed: Seed = 0,
    on_error: OnError = "skip",
) -> None:  # fmt: skip
    """Any folder of images with masks."""
    from studies.prepare.folder import find_samples

    _run(
        "folder",
        lambda: find_samples(inputs, targets, group=group, out=out, colours=colors),
        _Choices(out, test_fraction, seed, on_error),
        {"inputs": inputs, "targets": targets, "group": group}
        | ({} if colors is None else {"colors": colors}),
    )


def _plain_archive(name: str, find: Callable[[Path], Found], about: str) -> typer.Typer:
    """Return an app with one command, for an archive that has no options of its own."""
    single = typer.Typer(add_completion=False)

    @single.command(name, help=about)
    def prepare_archive(
        source: Source,
        out: Out,
        test_fraction: TestFraction = 0.1,
        seed: Seed = 0,
        on_error: OnError = "skip",
    ) -> None:
        choices = _Choices(out, test_fraction, seed, on_error)
        _run(name, lambda: find(source), choices, {})

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


@prepare_app.command("sunnybrook")
def sunnybrook(  # noqa: PLR0913 - one parameter an option
    source: Source,
    out: Out,
    contours: Annotated[
        Literal["inner", "outer"], typer.Option("--contours", help="Endo- or epicardium")
    ] = "inner",
    channels: Annotated[
        Literal["gray", "rgb"], typer.Option("--channels", help="Of the images written")
    ] = "gray",
    window: Annotated[
        Literal["file", "range"],
        typer.Option("--window", help="What becomes 0 to 65535: the file's window, or its range"),
    ] = "file",
    test_fraction: TestFraction = 0.1,
    seed: Seed = 0,
    on_error: OnError = "skip",
) -> None:
    """Cardiac MRI: DICOM slices and contours as text files."""
    from studies.sunnybrook.archive import find_samples

    options = {"contours": contours, "channels": channels, "window": window}
    _run(
        "sunnybrook",
        lambda: find_samples(source, contours=contours, channels=channels, window=window),
        _Choices(out, test_fraction, seed, on_error),
        options,
    )


@prepare_app.command("jsrt")
def jsrt(source: Source, out: Out, on_error: OnError = "skip") -> None:
    """Chest X-rays: the course's two .pth files, split 160 / 87."""
    from studies.jsrt.archive import find_samples

    _run("jsrt", lambda: find_samples(source), _Choices(out, 0.1, 0, on_error), {})


def _plugin_command(name: str) -> Any:
    """Return the command that prepares a plug-in's data set."""
    about = f"Your own: the plug-in {describe_plugin(DATASETS_GROUP, name)}."
    return typer.main.get_command(_plain_archive(name, partial(find_by_plugin, name), about))


class _Choices:
    """The options that every archive has."""

    def __init__(self, out: Path, test_fraction: float, seed: int, on_error: str) -> None:
        self.out = out
        self.test_fraction = test_fraction
        self.seed = seed
        self.stop_on_error = on_error == "stop"


def _run(
    study: str, find: Callable[[], Found], choices: _Choices, options: dict[str, Any]
) -> None:
    from studies.prepare.pipeline import Settings, prepare

    settings = Settings(study=study, options=options, **vars(choices))
    with counting("preparing") as progress:
        result = prepare(find(), settings, progress)

    def say(text: str) -> None:
        console.print(text, markup=False)

    say(
        f"{result.out}: {result.num_train} training and {result.num_test} test images"
        + (", prepared before" if result.was_there else "")
    )
    if result.num_groups < result.num_train + result.num_test:
        say(f"split by group: {result.num_groups} of them, none in both parts")
    if result.near_duplicates:
        count = sum(map(len, result.near_duplicates))
        say(
            f"near-duplicates: {count} images in {len(result.near_duplicates)} clusters"
            + ("" if result.torn else ", each kept on one side")
        )
    for names in result.torn[:NUM_LISTED]:
        say(f"  warning: the publisher's split has {names[0]} and {names[1]} on different sides")
    for note in result.notes:
        say(f"note: {note}")
    if result.skipped:
        say(f"left out: {len(result.skipped)}")
    for entry in result.skipped[:NUM_LISTED]:
        reason = entry.reason.removeprefix(f"{entry.file}: ")
        say(f"  {entry.file}: {reason}")
    if len(result.skipped) > NUM_LISTED:
        say(f"  … all of them are listed in {Path(result.out) / 'prepared.json'}")


@app.command()
def check(  # a command's options
    data: Annotated[Path, typer.Argument(metavar="DIR", help="A data folder")],
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="REGEX", help="The patient in an image's name "
                     "(default: those of groups.csv)"),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option("--study", help="Read as this study does: its folder, or a name"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Read as a search with this --set does: "
                     "data.mask_values, data.mask_threshold, data.follow_symlinks, "
                     "loss.ignore_index"),
    ] = None,
    sheet: Annotated[
        Path, typer.Option("--sheet", help="Where the sheet of images with outlines goes")
    ] = Path("contact_sheet.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:  # fmt: skip
    """Look at a data folder: what is in it, what is wrong, what leaks into the test part.

    Ends with exit code 1 if something has to be mended.
    """
    from hpo.data.check import check_data
    from hpo.data.contactsheet import draw_sheet
    from hpo.data.reading_keys import reading_keys

    keys = reading_keys(study, settings or ())
    with counting("reading images") as progress:
        found, looked, coding = check_data(data, group=group, keys=keys, progress=progress)
    if looked:
        draw_sheet(sheet, [entry.pair for entry in looked], coding)
    if as_json:
        console.print(json.dumps(found.as_json(), indent=2), markup=False)
    else:
        for line in describe_check(found):
            console.print(line, markup=False)
        if looked:
            console.print(f"contact sheet: {sheet}", markup=False)
    if found.problems:
        raise typer.Exit(1)


def describe_check(found: DataCheck) -> Iterator[str]:
    """Yield what a check has found, line by line."""
    from hpo.dataset.near_duplicates import shown_alike

    counts = ", ".join(f"{number} {part}" for part, number in found.num_pairs.items())
    yield f"{found.root}: {counts or 'no usable'} images with masks"
    for name, values in (("sizes (height x width)", found.sizes), ("types", found.types)):
        common = [f"{value}: {number}" for value, number in list(values.items())[:6]]
        more = f", … ({len(values)} in all)" if len(values) > len(common) else ""
        yield f"{name}: {', '.join(common)}{more}"
    if found.histogram:
        tallest = max(found.histogram)
        bars = "".join(BARS[round(share / tallest * (len(BARS) - 1))] for share in found.histogram)
        low, high = found.levels
        yield f"intensities: {low} to {high}, in sixteenths of full scale |{bars}|"
    yield f"masks: {found.masks or 'see below'}"
    for facts in found.classes:
        images = ", ".join(f"{number} {part}" for part, number in facts.num_images.items())
        yield f"  value {facts.value}: {facts.pixel_share:.2%} of all pixels, in {images} images"
    for part, dices in found.trivial.items():
        shown = ", ".join(f"{name} {dice:.4f}" for name, dice in [*dices.items()][:6])
        yield f"one answer everywhere, {part}, its class's own Dice: {shown}"
    if found.near_duplicates:
        yield (
            f"near-duplicates within a part, kept together by a split: "
            f"{shown_alike(found.near_duplicates)}"
        )
    for text in found.advice:
        yield f"advice: {text}"
    for text in found.problems:
        yield f"PROBLEM: {text}"
    if not found.problems:
        yield "nothing has to be mended"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_app(app, arguments)


if __name__ == "__main__":
    sys.exit(main())
