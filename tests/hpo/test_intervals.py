"""An interval of a test score is over patients where they are known, and is not made of few."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import Run, optimize, standin_settings, write_discs

from hpo.dataset.intervals import Grouping

NUM_TEST = 12


def search(run: Run, tmp_path: Path, *extra: object, groups: list[str] | None = None) -> str:
    """Search with a stand-in whose test images have scores of their own; return what is said."""
    data = write_discs(tmp_path / "data", num_test=NUM_TEST)
    names = [path.name for path in sorted((data / "test/inputs").iterdir())]
    if groups is not None:
        rows = [
            f"{Path(name).stem},{group},test" for name, group in zip(names, groups, strict=True)
        ]
        (data / "groups.csv").write_text("name,group,part\n" + "\n".join(rows) + "\n")
    columns = "name,foreground_intersection,foreground_predicted,foreground_target"
    table = [f"{name},{40 + 5 * index},100,100" for index, name in enumerate(names)]
    worker = standin_settings(
        tmp_path,
        {
            "write": {
                "per_image.csv": "\n".join([columns, *table]) + "\n",
                "metrics.jsonl": json.dumps({"epoch": 1, "classes_averaged": ["foreground"]})
                + "\n",
            }
        },
    )
    result = run(
        "rml-optimize", *optimize(data, "--num-trials", 1, "--worker", worker, *extra),
        "--select-on", "validation",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def stored(tmp_path: Path) -> dict[str, object]:
    return json.loads((tmp_path / "best_model/test.json").read_text())


def width(tmp_path: Path) -> float:
    low, high = stored(tmp_path)["interval"]
    return high - low


def test_patients_of_the_table_are_drawn_together(run: Run, tmp_path: Path) -> None:
    search(run, tmp_path)
    assert (stored(tmp_path)["num_drawn"], stored(tmp_path)["drawn"]) == (NUM_TEST, "images")
    of_images = width(tmp_path)
    groups = [f"p{index // 2}" for index in range(NUM_TEST)]  # scores rise with the index
    text = search(run, tmp_path, "--study-name", "two", groups=groups)
    assert "over 6 groups)" in text
    assert (stored(tmp_path)["num_drawn"], stored(tmp_path)["drawn"]) == (6, "groups")
    assert width(tmp_path) > 1.1 * of_images


def test_few_patients_give_their_number_and_no_interval(run: Run, tmp_path: Path) -> None:
    text = search(run, tmp_path, groups=["a", "b", "c", "d"] * 3)
    assert "(no interval, 4 groups are too few)" in text
    assert stored(tmp_path)["interval"] is None
    assert "no interval, 4 groups" in run("rml-study", "best").stdout


def test_group_by_holds_for_the_test_images_too(run: Run, tmp_path: Path) -> None:
    text = search(run, tmp_path, "--group-by", r"img (\d)")
    assert "(no interval, 2 groups are too few)" in text


@pytest.mark.parametrize("pattern", ["^(p1)_", "p1"])
def test_image_of_no_group_is_its_own(tmp_path: Path, pattern: str) -> None:
    grouping = Grouping(tmp_path, pattern)
    names = ["p1_a.png", "class/p1_b.png", "p1", "x.png", "image x.png"]
    found = grouping.groups_of(names)
    assert found[0] == found[1]
    assert len({*found[3:], found[0]}) == 3
    assert "x.png" in grouping.unmatched(names)
