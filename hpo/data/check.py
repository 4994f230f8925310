"""`rml-data check`: reports on a data folder before anything is trained on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hpo.command_line import as_options
from hpo.console import console, counting


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Options of `rml-data check`."""

    data: Annotated[Path, typer.Argument(metavar="DIR", help="A data folder")]
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="REGEX", help="The patient in an image's name "
                     "(default: those of groups.csv)"),
    ] = None  # fmt: skip
    study: Annotated[
        str | None,
        typer.Option("--study", help="Read as this study does: its folder, or a name"),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Read as a search with this --set does: "
                     "data.mask_values, data.mask_threshold, data.follow_symlinks, "
                     "loss.ignore_index"),
    ] = None  # fmt: skip
    sheet: Annotated[
        Path, typer.Option("--sheet", help="Where the sheet of images with outlines goes")
    ] = Path("contact_sheet.png")
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False


@as_options
def check(options: CheckOptions) -> None:
    """Look at a data folder: what is in it, what is wrong, what leaks into the test part.

    Ends with exit code 1 if something has to be mended.
    """
    from hpo.data.contactsheet import draw_sheet
    from hpo.data.examine import check_data
    from hpo.data.reading_keys import reading_keys
    from hpo.data.report import describe_check

    keys = reading_keys(options.study, options.settings or ())
    with counting("reading images") as progress:
        found, checked, coding = check_data(
            options.data, group=options.group, keys=keys, progress=progress
        )
    if checked:
        draw_sheet(options.sheet, [entry.pair for entry in checked], coding)
    if options.as_json:
        console.print(json.dumps(found.as_json(), indent=2), markup=False)
    else:
        for line in describe_check(found):
            console.print(line, markup=False)
        if checked:
            console.print(f"contact sheet: {options.sheet}", markup=False)
    if found.problems:
        raise typer.Exit(1)
