"""Options that several commands of `rml-study` have.

Each command's own are a dataclass in its module; `hpo.command_line` makes the command of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hpo.store.databaseurl import DATABASE_FILE, FILE_VARIABLE, URL_VARIABLE

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]
TrialNumber = Annotated[int, typer.Option("--trial", min=0, help="Number of the trial")]
Artifacts = Annotated[
    str | None,
    typer.Option("--artifacts", metavar="DIR|URL", help="The study's artifact store"),
]


@dataclass(frozen=True, kw_only=True)
class DatabaseOptions:
    """Database"""

    storage: Annotated[
        str | None,
        typer.Option("--storage", help=f"SQLAlchemy URL (default: OUTPUT_DIR/{DATABASE_FILE})"),
    ] = None
    storage_file: Annotated[
        Path | None,
        typer.Option("--storage-file", help="File with that URL, for one with a password (also "
                     f"{FILE_VARIABLE}, {URL_VARIABLE})"),
    ] = None  # fmt: skip
    output_dir: Annotated[
        Path, typer.Option("--output-dir", help=f"Where {DATABASE_FILE} and the results are")
    ] = Path()


@dataclass(frozen=True, kw_only=True)
class StudyOptions(DatabaseOptions):
    """Study"""

    study_name: Annotated[
        str | None, typer.Option("--study-name", help="The study (default: the only one)")
    ] = None
