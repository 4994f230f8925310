"""What the tests of the image cache share: loading with a cache of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import data_section

from trainer.config import Data
from trainer.data.dataset import LoadedData, Resolve, load_data
from trainer.log import Log

FOUND, BUILT, UNUSED = "found in", "decoded into", "not used"  # what the log says

Load = Callable[..., tuple[LoadedData, str]]


def make_load(images: Path, cache: Path, capsys: pytest.CaptureFixture) -> Load:
    """Return a function that loads the data and returns them with what the log says."""

    def load(root: Path = images, **changes: object) -> tuple[LoadedData, str]:
        section = data_section(root, **{"cache": str(cache), **changes})
        as_json = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in section.items()
        }
        capsys.readouterr()
        loaded = load_data(Data.model_validate(as_json), Resolve(Path()), Log())
        return loaded, capsys.readouterr().out

    return load


def assert_same(one: LoadedData, other: LoadedData) -> None:
    assert one.coding == other.coding
    for mine, yours in ((one.train, other.train), (one.test, other.test)):
        assert (mine is None) == (yours is None)
        if mine is None or yours is None:
            continue
        assert mine.names == yours.names
        for a, b in (
            (mine.inputs_NHWC, yours.inputs_NHWC),
            (mine.targets_NHW, yours.targets_NHW),
        ):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)


def entries(cache: Path) -> list[Path]:
    return [path for path in (cache / "images-1").iterdir() if path.is_dir()]
