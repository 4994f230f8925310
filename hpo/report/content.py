"""What the sections of a report are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.folders import WorkFolders
from hpo.keys import IDENTITY
from hpo.objective import Objective, objective_of
from hpo.records import AboutRecord
from hpo.report.cases import Cases
from hpo.report.facts import StudyFacts


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the page is made of."""

    name: str
    title: str
    attributes: Mapping[str, Any]
    about: AboutRecord
    facts: StudyFacts
    folders: WorkFolders
    cases: Cases | None
    model: Path | None  # the folder of the winner's model, where it is here

    @property
    def is_synthetic(self) -> bool:
        """Whether the images were made up; only such studies have images of their own."""
        return self.about.get("is_synthetic", self.folders.generated.is_dir())

    @property
    def selected_on_test(self) -> bool:
        """Whether the test images chose the winner."""
        return self.about.get("select_on", self.identity.get("select on")) == "test"

    @property
    def objective(self) -> Objective:
        """What trials are compared by."""
        return objective_of(self.attributes)

    @property
    def identity(self) -> Mapping[str, str]:
        """What the study's drivers have agreed on."""
        found = self.attributes.get(IDENTITY)
        return found if isinstance(found, dict) else {}
