"""The table of groups beside prepared images: who must stay together in any further split."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from trainer.bounded import read_bytes
from trainer.errors import DataError

GROUPS = "groups.csv"
MAX_TABLE_BYTES = 2**26  # some million images


def write_groups(root: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write (name, group, part) of every image."""
    with (root / GROUPS).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("name", "group", "part"))
        table.writerows(sorted(rows))


def read_groups(root: Path) -> dict[str, str]:
    """Return stem -> group of the images, none where there is no table.

    A group is a patient, or patients that share nearly the same image.

    Raises:
        DataError: it is no regular file, or no table.
    """
    path = root / GROUPS
    try:
        content = read_bytes(path, MAX_TABLE_BYTES, follow_links=True)
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, csv.Error) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise DataError(f"{path}: no table of groups ({reason})") from None
    return {row["name"]: row["group"] for row in rows if row.get("name") and row.get("group")}
