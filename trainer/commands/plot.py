"""`rmldnn --plot out.txt`: loss and accuracy of a run, drawn as the tutorials show them."""

from __future__ import annotations

import math
from pathlib import Path

from trainer.errors import DataError, UserError
from trainer.rundir import TestLogReader, aside_name, log_files, read_untrusted

PICTURE_DPI = 120
NUM_TRAIN_FIELDS = 5  # seconds, epoch, batch, loss, gradient norm


def plot_run(outfile: Path, picture: Path) -> None:
    """Draw the loss of `<outfile>_train.txt` and the accuracy of `<outfile>_test.txt`.

    One point an epoch: the mean loss of its batches, and loss and accuracy of its evaluation. A
    log that is not there (a run that only trains, or only evaluates) leaves its part out.

    Raises:
        DataError: neither log has anything to draw.
        UserError: matplotlib is not installed.
    """
    train, test = (Path(name) for name in log_files(str(outfile)))
    losses = _mean_losses(train)
    entries = TestLogReader(test).read_new()
    accuracies = {entry.epoch: entry.accuracy for entry in entries}
    test_losses = {
        entry.epoch: entry.loss
        for entry in entries
        if entry.loss is not None and math.isfinite(entry.loss)
    }
    panels = {
        "loss": {"training": losses, "test": test_losses},
        "test accuracy": {"test": accuracies},
    }
    shown = {label: curves for label, curves in panels.items() if any(curves.values())}
    if not shown:
        raise DataError(f"--plot {outfile}: nothing to draw in {train} or {test}")
    try:
        from matplotlib.figure import Figure  # no pyplot: no window, no state
    except ImportError:  # in the worker's image
        raise UserError(
            "--plot needs matplotlib, which this installation leaves out: pip install matplotlib"
        ) from None
    figure = Figure(figsize=(5 * len(shown), 3.6), layout="constrained")
    places = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (label, curves) in zip(places, shown.items(), strict=True):
        for name, curve in curves.items():
            if curve:
                axes.plot(list(curve), list(curve.values()), marker="o", markersize=3, label=name)
        axes.set(xlabel="epoch", ylabel=label)
        if label == "loss":
            axes.legend()
        else:
            best = max(accuracies, key=lambda epoch: accuracies[epoch])
            axes.set_title(f"best: {accuracies[best]:.4f} (epoch {best})", fontsize="medium")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
    aside = aside_name(picture)
    try:
        figure.savefig(aside, dpi=PICTURE_DPI, format="png")
        aside.replace(picture)
    finally:
        aside.unlink(missing_ok=True)


def _mean_losses(path: Path) -> dict[int, float]:
    """Return the mean loss of each epoch in a train log, complete lines only."""
    sums: dict[int, list[float]] = {}
    for line in read_untrusted(path).decode("utf-8", errors="replace").splitlines():
        fields = line.split()
        try:
            epoch, loss = int(fields[1]), float(fields[3])
        except (IndexError, ValueError):
            continue
        if len(fields) == NUM_TRAIN_FIELDS and math.isfinite(loss):
            sums.setdefault(epoch, []).append(loss)
    return {epoch: sum(values) / len(values) for epoch, values in sorted(sums.items())}
