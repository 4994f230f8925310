"""Keeps models where every node can fetch them: a folder or a bucket, through Optuna's stores."""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hpo.errors import HpoError, UsageError
from hpo.folders import WorkFolders
from trainer.extras import how_to_install

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

EXTRAS = {"s3": "s3", "gs": "gcs"}
MAX_FILE_BYTES = 64 * 2**30  # what one file of a fetched model may hold; far above any network


class ArtifactError(HpoError):
    """A model cannot be written to the artifact store, or read from it."""


class ModelStore:
    """An artifact store as Optuna has them, or the part of a bucket below a prefix."""

    def __init__(self, store: ArtifactStore, location: str, prefix: str = "") -> None:
        self.location = location
        self._store = store
        self._prefix = prefix

    def put(self, name: str, folder: Path, files: Sequence[str]) -> None:
        """Store files of a folder as one archive, which is there as a whole or not at all.

        Raises:
            ArtifactError: the store refuses it, or is full.
        """
        with tempfile.TemporaryFile(dir=folder.parent) as packed:
            with tarfile.open(fileobj=packed, mode="w") as archive:
                for file in files:
                    archive.add(folder / file, arcname=file, recursive=False)
            packed.seek(0)
            try:
                self.write(name, packed)
            except Exception as error:  # each store has errors of its own
                with contextlib.suppress(Exception):
                    self._store.remove(self._prefix + name)
                raise ArtifactError(f"--artifacts {self.location}: {_reason(error)}") from error

    def get(self, name: str, folder: Path, files: Sequence[str]) -> bool:
        """Fetch an archive's files into a folder; False where the store has no such archive.

        Whoever can write to the store is not trusted further: only the files named are taken.

        Raises:
            ArtifactError: the store does not answer, or what it holds is not such an archive.
        """
        from optuna.artifacts.exceptions import ArtifactNotFound

        try:
            with (
                self.open_reader(name) as packed,
                tarfile.open(fileobj=packed, mode="r|") as archive,
            ):
                missing = set(files)
                for member in archive:
                    is_wanted = member.name in missing and member.isreg()
                    if not is_wanted or member.size > MAX_FILE_BYTES:
                        continue
                    source = archive.extractfile(member)
                    assert source is not None  # of a regular file
                    with (folder / member.name).open("xb") as target:
                        while chunk := source.read(2**20):
                            target.write(chunk)
                    missing.discard(member.name)
        except ArtifactNotFound:
            return False
        except Exception as error:
            raise ArtifactError(
                f"--artifacts {self.location}: {name} cannot be fetched: {_reason(error)}"
            ) from error
        if missing:
            raise ArtifactError(
                f"--artifacts {self.location}: {name} lacks {', '.join(sorted(missing))}"
            )
        return True

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open a file; Optuna's ArtifactNotFound where there is none."""
        return self._store.open_reader(self._prefix + artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store a file."""
        self._store.write(self._prefix + artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Remove a file; one that is not there, or cannot be removed, is no error."""
        with contextlib.suppress(Exception):
            self._store.remove(self._prefix + artifact_id)


def open_model_store(location: str) -> ModelStore:
    """Open `DIR`, `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`.

    Raises:
        UsageError: no such kind of store, a missing package, or a folder that cannot be made.
    """
    scheme, separator, rest = location.partition("://")
    if not separator:
        from optuna.artifacts import FileSystemArtifactStore

        folder = Path(location).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--artifacts {location}: {error.strerror}") from None
        return ModelStore(FileSystemArtifactStore(folder), str(folder))
    if scheme not in EXTRAS:
        raise UsageError(f"--artifacts {location}: expected a folder, s3://BUCKET or gs://BUCKET")
    bucket, _, prefix = rest.partition("/")
    try:
        store = _bucket(scheme, bucket)
    except ImportError as error:
        raise UsageError(
            f"--artifacts {location}: {str(error).splitlines()[0]}; "
            f"try {how_to_install(EXTRAS[scheme])}"
        ) from None
    except Exception as error:  # no credentials, no region, …: each package has its own errors
        raise UsageError(f"--artifacts {location}: {_reason(error)}") from error
    return ModelStore(store, location, f"{prefix.strip('/')}/" if prefix.strip("/") else "")


def pictures_in(artifacts: str | None, folders: WorkFolders) -> str:
    """Return where pictures of trials are kept: beside the models, else in the output folder."""
    return f"{artifacts.rstrip('/')}/pictures" if artifacts else str(folders.artifacts)


def _bucket(scheme: str, name: str) -> Any:
    if scheme == "s3":
        import boto3  # noqa: F401  # else Optuna's own message, which names no remedy
        from optuna.artifacts import Boto3ArtifactStore

        return Boto3ArtifactStore(name)
    import google.cloud.storage  # noqa: F401
    from optuna.artifacts import GCSArtifactStore
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():  # Optuna is pinned, so nothing changes behind our back
        warnings.simplefilter("ignore", ExperimentalWarning)
        return GCSArtifactStore(name)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0] if text else type(error).__name__
