"""Gathers what no single file of a data set shows: palettes that disagree, tags, unread bands."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from trainer.data.bands import is_gray
from trainer.data.decoding import BLACK, WHITE, Array, Colour, palette_colours
from trainer.data.headers import Header
from trainer.data.images import Pair
from trainer.errors import DataError
from trainer.wording import counted

NUM_NAMED = 3


@dataclass(frozen=True)
class Seen:
    """What a pair's files say beside their pixels.

    Attributes:
        colours: stored value -> colour of a palette mask, None of others.
        bits: a channel of the image.
        hashes: of the pixels of image and mask; None of what is coloured or of one value.
    """

    pair: Pair
    image: Header
    mask: Header | None = None
    colours: dict[int, Colour] | None = None
    bits: int = 8
    hashes: tuple[bytes | None, bytes | None] = (None, None)


def see(
    pair: Pair, headers: tuple[Header, Header | None], image: Array, mask: Array | None = None
) -> Seen:
    """Note what a pair's files say.

    Args:
        pair: the files.
        headers: of image and mask.
        image: its pixels, (H, W, C).
        mask: its stored values, (H, W).
    """
    bits = 8 * image.dtype.itemsize
    if mask is None or headers[1] is None:
        return Seen(pair, *headers, bits=bits)
    hashes = _hash_of(image), _hash_of(mask[:, :, np.newaxis])
    return Seen(pair, *headers, palette_colours(headers[1], mask), bits, hashes)


def _hash_of(pixels_HWC: Array) -> bytes | None:
    """Return a hash of gray pixels; black slices have black masks, which are no copies of them."""
    plane = np.ascontiguousarray(pixels_HWC[:, :, 0])
    if not is_gray(pixels_HWC) or (plane == plane[0, 0]).all():
        return None
    return hashlib.blake2b(plane.data, key=f"{plane.shape} {plane.dtype}".encode()).digest()


@dataclass
class Findings:
    """The sum over the pairs that were added."""

    _colours: dict[int, tuple[Colour, str]] = field(default_factory=dict)
    _values: dict[Colour, tuple[int, str]] = field(default_factory=dict)
    _tagged: dict[str, list[str]] = field(default_factory=lambda: {"image": [], "mask": []})
    _disagreeing: list[str] = field(default_factory=list)
    _with_alpha: list[str] = field(default_factory=list)
    _with_bands: list[str] = field(default_factory=list)
    _images: dict[bytes, str] = field(default_factory=dict)
    _masks: list[tuple[bytes, str]] = field(default_factory=list)

    def add(self, seen: Seen) -> None:
        """Add a pair.

        Raises:
            DataError: its mask's palette means something else than one before.
        """
        name = seen.pair.name
        image, mask = seen.hashes
        if image is not None:
            self._images.setdefault(image, str(seen.pair.input))
        if mask is not None:
            self._masks.append((mask, str(seen.pair.target)))
        self._compare_palettes(seen)
        if seen.image.orientation != 1:
            self._tagged["image"].append(name)
        if seen.mask is not None and seen.mask.orientation != 1:
            self._tagged["mask"].append(name)
        if seen.mask is not None and seen.mask.orientation != seen.image.orientation:
            self._disagreeing.append(name)
        if seen.image.has_alpha:
            self._with_alpha.append(name)
        if seen.image.num_unread:
            self._with_bands.append(name)

    def refuse_copies(self) -> None:
        """Refuse masks that hold the pixels of an image of the set.

        Raises:
            DataError: names them.
        """
        copies = [
            f"{path} = image {self._images[pixels]}"
            for pixels, path in self._masks
            if pixels in self._images
        ]
        if copies:
            raise DataError(
                f"masks that are copies of images, pixel by pixel: {_named(copies)}; put the "
                "masks themselves there"
            )

    def notes(self) -> Iterator[str]:
        """Yield what a user should know, a line each."""
        if any(self._tagged.values()):
            counts = ", ".join(counted(len(names), kind) for kind, names in self._tagged.items())
            yield f"orientation tags: {counts}; all are turned as their tag says"
        if self._disagreeing:
            yield (
                "warning: orientation tag in one file of a pair alone: "
                f"{_named(self._disagreeing)}; if such a mask was drawn on the image "
                "as it is stored, remove the tag (exiftool -Orientation= FILE)"
            )
        white, black = (self._values.get(colour, (-1, ""))[0] for colour in (WHITE, BLACK))
        if len(self._values) == 2 and -1 < white < black:
            yield (
                f"warning: by their palettes the masks are white at {white} and black at {black}: "
                f"set data.mask_values=[{black}, {white}] if white is what to find"
            )
        if self._with_alpha:
            yield f"alpha channel, not read: images {_named(self._with_alpha)}"
        if self._with_bands:
            yield f"band beside the colours, not read: images {_named(self._with_bands)}"

    def _compare_palettes(self, seen: Seen) -> None:
        assert seen.colours is None or seen.pair.target is not None
        colours = seen.colours or {}
        times = Counter(colours.values())
        for value, colour in colours.items():
            path = str(seen.pair.target)
            other, first = self._colours.setdefault(value, (colour, path))
            if other != colour:
                raise DataError(
                    f"{path}: its palette has {_shown(colour)} at {value}, that of {first} has "
                    f"{_shown(other)}: the values of these masks do not mean the same; {REMEDY}"
                )
            if times[colour] > 1:  # of a palette that nobody filled in: its colours mean nothing
                continue
            known, first = self._values.setdefault(colour, (value, path))
            if known != value:
                raise DataError(
                    f"{path}: its palette has {_shown(colour)} at {value}, that of {first} at "
                    f"{known}: the values of these masks do not mean the same; {REMEDY}"
                )


def describe_depths(names_of_bits: Mapping[int, str]) -> str:
    """Say that images differ in their bits a channel, with one of each.

    Args:
        names_of_bits: bits a channel -> an image.
    """
    (few, first), (many, other) = sorted(names_of_bits.items())
    return (
        f"some images have {few} bits a channel and some {many} ({first} {few}, {other} {many}); "
        "convert one kind"
    )


REMEDY = (
    "map them by their colours (rml-data prepare folder … --colors RRGGBB,…), or write all with "
    "one palette"
)


def _shown(colour: Colour) -> str:
    return f"({colour[0]}, {colour[1]}, {colour[2]})"


def _named(names: list[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > NUM_NAMED else ""
    return ", ".join(names[:NUM_NAMED]) + more
