"""`rml-optimize --dry-run`: the plan and one sampled config; nothing is trained."""

from __future__ import annotations

import json

import optuna
from rich.console import Console

from hpo.dataplan import NOT_SURVEYED
from hpo.options import Options
from hpo.picking import pick_launcher
from hpo.session import settings_rows, show_settings
from hpo.slots import reserve_slots
from hpo.spec import StudySpec
from hpo.storage import make_sampler


def show_dry_run(spec: StudySpec, options: Options, console: Console) -> None:
    """Print what a search would do, with the config of a trial that might be its first.

    Data, network and their fit were checked when `spec` was planned.
    """
    reservation = reserve_slots(options.worker)
    reservation.close()
    launcher, why = pick_launcher(spec, options, num_slots=len(reservation.slots))
    rows = [*settings_rows(spec), ("workers", reservation.text), ("launcher", why)]
    rows.append(("limits of each", launcher.limits()))
    show_settings(spec, rows, console)
    trial = optuna.create_study(sampler=make_sampler(spec, 0)).ask()
    config = spec.worker_config(launcher, spec.space.suggest(trial))
    console.print("\na config that the search may sample:")
    console.print(json.dumps({"neural_network": config}, indent=2), markup=False)
    if spec.survey.fingerprint == NOT_SURVEYED:
        console.print(
            f"\ndry run: network and settings fit the data that the study describes; there are "
            f"none in {spec.data.root}; nothing was trained",
            markup=False,
        )
        return
    console.print("\ndry run: data, network and settings fit together; nothing was trained")
