"""A study as its folder declares it: `study.toml`, read into one validated object."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

import studies
from hpo.dataset.survey import NOT_SURVEYED, DataSurvey
from hpo.errors import UsageError
from hpo.objective import parse_objective
from hpo.plan.pruners import PRUNERS, known_pruners
from hpo.plan.space import Categorical, Dimension, SearchSpace, checked_range, pack
from hpo.trackers.registry import TRACKERS, known_trackers
from trainer.bounded import BoundError, read_bytes
from trainer.config import Fraction, PositiveInt, Section
from trainer.config.messages import describe_errors, hint, unknown_name_error
from trainer.data.survey import MaskCoding
from trainer.keypath import split_path

STUDY_FILE = "study.toml"
MAX_STUDY_BYTES = 2**20
SMALL_BY_HAND = "use --layers unet:width=16,depth=4 --resize H,W --num-epochs N"


class DimensionFile(Section):
    """One `[[search]]` table: a config field with its values or its range."""

    key: str
    values: tuple[Any, ...] | None = None
    range: tuple[float | int, float | int] | None = None
    log: bool = False
    step: float | None = None
    when: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _values_or_range(self) -> Self:
        if (self.values is None) == (self.range is None):
            raise PydanticCustomError("search", "expected either values or a range")
        if self.when is not None and len(self.when) != 1:
            raise PydanticCustomError("search", "'when' takes exactly one field and its value")
        return self

    def dimension(self, where: str) -> Dimension:
        """Return the dimension that the table describes."""
        split_path(self.key)
        when = next(iter(self.when.items())) if self.when else None
        if self.values is not None:
            return Dimension(self.key, Categorical(tuple(map(pack, self.values))), when)
        assert self.range is not None
        low, high = self.range
        is_integer = isinstance(low, int) and isinstance(high, int)
        values = checked_range(
            low, high, is_integer=is_integer, log=self.log, step=self.step, where=where
        )
        return Dimension(self.key, values, when)


class Source(Section):
    """Where a study's images come from: publisher's page, terms, and what makes a data folder."""

    page: str
    terms: str
    prepare: str


class Expected(Section):
    """What the data look like, for a --dry-run without them."""

    size: tuple[PositiveInt, PositiveInt]
    num_train: PositiveInt
    num_test: PositiveInt
    classes: Annotated[int, Field(ge=2)] = 2
    gray: bool = False

    def survey(self) -> DataSurvey:
        """Return what a survey of such data would say."""
        is_binary = self.classes == 2
        values = (0, 255) if is_binary else tuple(range(self.classes))
        kind = "binary" if is_binary else "classes"
        coding = MaskCoding(kind, self.classes, values, dict.fromkeys(values, 1))
        return DataSurvey(
            self.num_train, self.num_test, self.gray, coding, NOT_SURVEYED, (self.size, self.size)
        )


class Published(Section):
    """The result to beat: a Dice coefficient, and how it was reached."""

    dice: Fraction
    how: str

    def __str__(self) -> str:
        return f"Dice {self.dice:g}: {self.how}"


def _known_pruner(value: Any) -> Any:
    # Ours first: plug-ins are looked for in the list of installed packages.
    if isinstance(value, str) and value not in PRUNERS and value not in known_pruners():
        raise unknown_name_error(value, known_pruners())
    return value


def _known_objective(value: Any) -> Any:
    if isinstance(value, str):
        try:
            parse_objective(value)
        except UsageError as error:
            raise PydanticCustomError("objective", "{why}", {"why": str(error)}) from None
    return value


def _known_trackers(value: Any) -> Any:
    names = (value,) if isinstance(value, str) else value
    for name in names if isinstance(names, list | tuple) else ():
        if isinstance(name, str) and name not in TRACKERS and name not in known_trackers():
            raise unknown_name_error(name, known_trackers())
    return names


class StudyFile(Section):
    """What a study is: network, budget, objective, fixed config fields and search space.

    Attributes:
        title: what the settings table calls it.
        about: what the task is and what is searched, in a few lines.
        transforms: what follows the resize, in the config's own words.
        generator: name of a data generator in `studies.GENERATORS`, for data made here.
        layers: network, a file beside the study or a built-in name.
        transfer_learning: weights to start from, as the option, or a file beside the study.
        config: fixed fields of the `neural_network` object by dotted path.
        search: the dimensions; see `DimensionFile`.
        objective: what trials are compared by, as the option.
        first: values of searched fields, by dotted path, that are tried before others are sampled.
        hours: as the option; without num_trials as many trials as fit.
        share_ranges: as the option.
        tracker: as the option, one name or several.
        small: what `--small` puts in the place of these, for a machine without a GPU; with a
            `search` of its own it has none of the study's `first`.
    """

    title: str
    about: str = ""
    source: Source | None = None
    data: Expected | None = None
    published: Published | None = None
    generator: str | None = None
    layers: str | None = None
    transfer_learning: str | None = None
    num_trials: PositiveInt = 50
    hours: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    num_epochs: PositiveInt = 50
    select_on: Literal["test", "validation"] = "validation"
    validation_fraction: Fraction = 0.2
    group_by: str | None = None
    resize: tuple[PositiveInt, PositiveInt] = (256, 256)
    transforms: tuple[dict[str, Any], ...] = ()
    objective: Annotated[str | None, BeforeValidator(_known_objective)] = None
    pruner: Annotated[str | None, BeforeValidator(_known_pruner)] = None
    config: dict[str, Any] = Field(default_factory=dict)
    search: Annotated[tuple[DimensionFile, ...], Field(min_length=1)]
    first: tuple[dict[str, Any], ...] = ()
    share_ranges: bool = True
    tracker: Annotated[tuple[str, ...], BeforeValidator(_known_trackers)] = ()
    small: dict[str, Any] | None = None

    def space(self) -> SearchSpace:
        """Return the search space that the `[[search]]` tables declare, in their order."""
        return SearchSpace(tuple(entry.dimension(f"search {entry.key}") for entry in self.search))


# The search of the tutorial: what `rml-optimize` does with a bare data folder.
TUTORIAL = StudyFile.model_validate(
    {
        "title": "hyperparameter search",
        "select_on": "test",
        "config": {"data.batch_size": 32, "data.test_batch_size": 64},
        "search": [
            {"key": "optimizer.type", "values": ["Adam", "RMSprop", "SGD"]},
            {"key": "optimizer.learning_rate", "range": [0.001, 0.01], "log": True},
            {"key": "loss.function", "values": ["BCE", "Dice"]},
        ],
    }
)


def find_study(name: str) -> Path:
    """Return the folder of a study: a path with a study.toml in it, or a ready-made one's name.

    Raises:
        UsageError: neither; the ready-made ones are listed.
    """
    folder = Path(name)
    if (folder / STUDY_FILE).is_file():
        return folder
    ready_made = {
        path.parent.name: path.parent
        for path in sorted(Path(studies.__file__).parent.glob(f"*/{STUDY_FILE}"))
    }
    if name in ready_made:
        return ready_made[name]
    if folder.is_dir():
        raise UsageError(f"--study: no {STUDY_FILE} in {folder}")
    raise UsageError(f"--study: no study {name!r}; {hint(name, list(ready_made))}, or a folder")


def load_study(folder: Path, *, small: bool = False) -> StudyFile:
    """Read and check a study folder's `study.toml`.

    Args:
        folder: the study's.
        small: with its `[small]` table: whatever keys of a study stand there, in place of the
            study's own. Fields of `[small.config]` go over those of `[config]`, one by one.

    Raises:
        UsageError: every mistake found, each with its key, or there is no `[small]`.
    """
    path = folder / STUDY_FILE
    where = str(path)
    try:
        text = read_bytes(path, MAX_STUDY_BYTES, follow_links=True).decode("utf-8-sig")
        content = tomllib.loads(text)
        study = StudyFile.model_validate(content)
        if study.small is None:
            if small:
                raise UsageError(f"--small: {path} has no [small]; {SMALL_BY_HAND}")
            return study
        where = f"{path}, [small]"  # checked also where it is not asked for
        kept = dict(content)
        if "layers" in study.small:  # other weights fit it, or none
            kept.pop("transfer_learning", None)
        if "search" in study.small:  # what suits another space may be outside this one
            kept.pop("first", None)
        reduced = StudyFile.model_validate({**kept, **study.small})
        reduced = reduced.model_copy(update={"config": {**study.config, **reduced.config}})
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:  # a ValueError, too
        raise UsageError(describe_errors(error, where)) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8, as TOML is ({error}); save it as such") from None
    except BoundError as error:
        raise UsageError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, too
        raise UsageError(f"{path}: not TOML ({error})") from None
    return reduced if small else study
