"""An empty database of each kind that drivers may share, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from databases import empty_database


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'studies.db'}"
    else:
        with empty_database(request.param) as url:
            yield url


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """The URL of an empty database on PostgreSQL."""
    with empty_database("postgres") as url:
        yield url
