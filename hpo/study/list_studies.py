"""`rml-study list`: the studies in a database."""

from __future__ import annotations

from dataclasses import dataclass

from hpo.command_line import as_options
from hpo.keys import IDENTITY
from hpo.objective import objective_in
from hpo.study.common import choose_study, database_url, reading, say, show_json, show_table
from hpo.study.options import AsJson, StudyOptions
from hpo.study.queries import StudyReader, study_names
from hpo.wording import format_score

BEST = "best "  # a column of the score of that name


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Options of `rml-study list`."""

    as_json: AsJson = False
    study: StudyOptions


@as_options
def list_studies(options: ListOptions) -> None:
    """List the studies in a database, or the one of --study-name."""
    rows: list[dict[str, object]] = []
    with reading(database_url(options.study)) as engine:
        names = study_names(engine)
        if options.study.study_name is not None:
            chosen = choose_study(options.study.study_name, list(names))
            names = {chosen: names[chosen]}
        for name, study_id in names.items():
            reader = StudyReader(engine, study_id)
            states, best = reader.states(), reader.best()
            objective = objective_in(reader.attribute(IDENTITY))
            rows.append(
                {
                    "study": name,
                    "finished": states.get("COMPLETE", 0) + states.get("PRUNED", 0),
                    "running": states.get("RUNNING", 0),
                    "failed": states.get("FAIL", 0),
                    f"{BEST}{objective}": best.score if best else None,
                }
            )
    if options.as_json:
        show_json(rows)
    elif rows:
        show_table([{key: _text(key, value) for key, value in row.items()} for row in rows])
    else:
        say("no studies")


def _text(key: str, value: object) -> object:
    return format_score(value, key.removeprefix(BEST)) if isinstance(value, float) else value
