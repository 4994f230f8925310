"""`rmldnn --plot out.txt`: what it draws, from logs as the contract has them."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from matplotlib.axes import Axes

from trainer.cli import main


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[float], list[float]]]:
    """The curves handed to matplotlib."""
    curves: list[tuple[list[float], list[float]]] = []
    plot = Axes.plot

    def record(self: Axes, x: list[float], y: list[float], **style: object) -> object:
        curves.append((x, y))
        return plot(self, x, y, **style)

    monkeypatch.setattr(Axes, "plot", record)
    return curves


def write_logs(folder: Path) -> Path:
    (folder / "out_train.txt").write_text(
        "0.5 1 1 1.0 0.3\n0.9 1 2 0.6 0.2\n1.5 2 1 0.4 0.1\n1.9 2 2 nan 0.1\n2.5 3 1 0"
    )
    (folder / "out_test.txt").write_text("1 1.0 0.7 0.50\n2 2.0 0.5 0.625\n")
    return folder / "out.txt"


def test_epochs_are_drawn_with_their_mean_loss_and_accuracy(
    tmp_path: Path, drawn: list, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--plot", str(write_logs(tmp_path))]) == 0
    (epochs, losses), test_loss, test = drawn
    assert test_loss == ([1, 2], [0.7, 0.5])
    assert epochs == [1, 2]
    assert losses == pytest.approx([0.8, 0.4])  # neither NaN nor a line that is not finished
    assert test == ([1, 2], [0.5, 0.625])
    picture = cv2.imread(str(tmp_path / "out.png"))
    assert picture.shape[1] > picture.shape[0] > 300
    assert capsys.readouterr().out == f"{tmp_path / 'out.png'}\n"


def test_run_that_only_trains_has_one_curve(tmp_path: Path, drawn: list) -> None:
    outfile = write_logs(tmp_path)
    (tmp_path / "out_test.txt").unlink()
    assert main(["--plot", str(outfile), "-o", str(tmp_path / "loss.png")]) == 0
    assert len(drawn) == 1
    assert (tmp_path / "loss.png").exists()


def test_logs_that_are_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--plot", str(tmp_path / "gone.txt")]) == 2
    assert "nothing to draw in" in (error := capsys.readouterr().err)
    assert "gone_train.txt" in error
    assert list(tmp_path.iterdir()) == []
