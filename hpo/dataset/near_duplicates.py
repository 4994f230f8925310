"""Which images of a part show nearly the same, so that no split may separate them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from studies.prepare.similarity import Thumbnail, similar_pairs, thumbnail
from studies.prepare.split import merge_groups
from trainer.data.images import Array
from trainer.wording import counted

# A chain of similar pairs through more of a set says that all images look alike, not which are
# copies.
MAX_SHARE = 0.5


def to_gray8(image: Array) -> NDArray[np.uint8]:
    """Return (H, W) uint8 for (H, W, C) of 8 or 16 bits."""
    gray = image[:, :, 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return np.asarray(gray // 257 if gray.dtype == np.uint16 else gray, dtype=np.uint8)


def thumbnail_of(image: Array) -> Thumbnail:
    """Return what images are compared by."""
    return thumbnail(to_gray8(image))


def find_near_duplicates(names: list[str], thumbnails: list[Thumbnail]) -> list[list[str]]:
    """Return the names of images that are nearly the same, cluster by cluster.

    None where one cluster would hold most of the set.
    """
    merged = merge_groups(names, similar_pairs(thumbnails))
    clusters: dict[str, list[str]] = {}
    for name, group in zip(names, merged, strict=True):
        clusters.setdefault(group, []).append(name)
    found = sorted(sorted(cluster) for cluster in clusters.values() if len(cluster) > 1)
    if any(len(cluster) > MAX_SHARE * len(names) for cluster in found):
        return []
    return found


def shown_alike(clusters: Sequence[Sequence[str]], places: Sequence[str] = ()) -> str:
    """Name the first clusters, and where each is if that is given."""
    texts = [" ~ ".join(cluster[:4]) for cluster in clusters[:3]]
    for index, place in enumerate(places[: len(texts)]):
        texts[index] += f" ({place})"
    named = "; ".join(texts)
    more = "; …" if len(clusters) > 3 or any(len(cluster) > 4 for cluster in clusters[:3]) else ""
    count = sum(map(len, clusters))
    return f"{counted(count, 'image')} in {counted(len(clusters), 'cluster')}: {named}{more}"
