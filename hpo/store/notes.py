"""Writes the notes that Optuna's dashboard shows beside a study and its trials.

A note is kept as optuna-dashboard (0.21, `_note.py`) keeps it, in system attributes of the study:
its version, which every change counts up, and its text in parts. That package is not needed to
write one. Who writes one in the dashboard is never overwritten: each of ours ends in a line that
Markdown does not show, with the hash of the text before it, and one without is somebody else's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from optuna.storages._rdb import models
from sqlalchemy import Connection, delete, insert, select

MAX_PART_CHARS = 2045  # optuna-dashboard's, for databases of old

_Attribute = models.StudySystemAttributeModel
_SEAL = re.compile(r"\n\n\[//\]: # \(rml-optimize ([0-9a-f]{16})\b[^\n]*\)\n?\Z")


def write_note(connection: Connection, study_id: int, trial_id: int | None, text: str) -> bool:
    """Write the note of a trial, or of the study, unless there is one that is not ours.

    Args:
        connection: in a transaction that has begun with `lock_notes`.
        study_id: the study's.
        trial_id: the trial's, None for the study's own note.
        text: in Markdown.

    Returns:
        Whether it is there now.
    """
    body = _sealed(text)
    version_key, part_prefix = _keys(trial_id)
    is_note = (_Attribute.key == version_key) | _Attribute.key.startswith(
        part_prefix, autoescape=True
    )
    of_study = _Attribute.study_id == study_id
    query = select(_Attribute.key, _Attribute.value_json).where(of_study, is_note)
    rows = {key: json.loads(value) for key, value in connection.execute(query)}
    version = int(rows.pop(version_key, 0))
    known = "".join(str(rows.get(f"{part_prefix}{i}", "")) for i in range(len(rows)))
    if known == body:
        return True
    if known.strip() and not _is_ours(known):
        return False
    if version:
        connection.execute(delete(_Attribute).where(of_study, is_note))
    parts = [body[i : i + MAX_PART_CHARS] for i in range(0, len(body), MAX_PART_CHARS)]
    _insert(connection, study_id, [
        (version_key, version + 1), *((f"{part_prefix}{i}", p) for i, p in enumerate(parts))
    ])  # fmt: skip
    return True


def lock_notes(connection: Connection, study_id: int) -> bool:
    """Wait for the lock of the study's claims; say whether the study is there.

    Other drivers write notes, too. On servers each row of a note locks the study in passing, so
    any other order than that of the claims, which begin with it, would be a deadlock. Where there
    is no study, SQLite would take a note of it.
    """
    query = select(models.StudyModel.study_id).where(models.StudyModel.study_id == study_id)
    return connection.scalar(query.with_for_update()) is not None


def _keys(trial_id: int | None) -> tuple[str, str]:
    """Return the attribute of a note's version, and how those of its text begin."""
    prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    return f"{prefix}note_ver", f"{prefix}note_str:"


def _insert(
    connection: Connection, study_id: int, entries: Sequence[tuple[str, int | str]]
) -> None:
    rows = [
        {"study_id": study_id, "key": key, "value_json": json.dumps(value)}
        for key, value in entries
    ]
    connection.execute(insert(_Attribute), rows)


def _sealed(text: str) -> str:
    """Add the line that tells our notes: a definition of a link that nothing refers to."""
    text = text.rstrip()
    return (
        f"{text}\n\n[//]: # (rml-optimize {_hash(text)}: change this note, and it stays yours)\n"
    )


def _is_ours(body: str) -> bool:
    found = _SEAL.search(body.replace("\r\n", "\n"))
    return found is not None and found[1] == _hash(body[: found.start()])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]
