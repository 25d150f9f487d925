"""Example: one question about one photo, with its true answer; Selection: some of a data set."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from gscam_lib.boxes import BoxLike
from gscam_lib.datasets.findings import Finding

ENDS = 4096  # bytes of a file's beginning and end
PLAIN = {".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"}  # an edit may leave length and ends


@dataclass(frozen=True, eq=False)
class Example:
    """A photo, a prompt, and where the named thing is.

    image: a path or PIL image; boxes: (x0, y0, x1, y1) half-open pixels, one per instance; mask:
    (H, W) bool of all instances together, None where the data set has none; source: the data set;
    word: what is written on the photo, None where the data set does not say; photo_size: (width,
    height) in whose pixels the truth is, None where the data set does not say; file: the photo's
    name below the data set's root.
    """

    image: Path | Image.Image
    prompt: str
    boxes: tuple[BoxLike, ...]
    category: str
    image_id: str
    source: str
    mask: np.ndarray[Any, Any] | None = None
    word: str | None = None
    photo_size: tuple[int, int] | None = None
    file: str | None = None

    def asked(self, prompt: str) -> Example:
        """Return the same question with another prompt."""
        other = copy.copy(self)  # not replace(): a mask that is decoded when asked for stays so
        object.__setattr__(other, "prompt", prompt)
        return other

    def fingerprint(self, photo: tuple[str, int, str] | bytes | None = None) -> bytes:
        """16 bytes that change with the question, its truth, or the photo's name, size or pixels.

        photo: `photo`, where it is known already from another question about the same.
        Nothing is decoded: a photo in a file counts by its name, the number of its bytes and the
        first and last of them, all of them where it is not compressed (its place may move), a mask
        as the data set has it.
        """
        boxes = [[float(value) for value in box] for box in self.boxes]
        asked = (self.source, self.image_id, self.category, self.prompt, self.word)
        seen = self.photo if photo is None else photo
        about = (asked, boxes, self.photo_size, seen, self._outline)
        return blake2b(repr(about).encode(), digest_size=16).digest()

    @property
    def photo(self) -> tuple[str, int, str] | bytes:
        """What tells the photo from others: its file's name, length and ends, or its pixels."""
        if isinstance(self.image, Image.Image | np.ndarray):
            return self._pixels
        path = Path(self.image)
        return self.file or path.as_posix(), *_bytes_of(path)

    @cached_property
    def _pixels(self) -> bytes:
        """Of a photo in memory, once: its form and pixels."""
        about = ""
        if isinstance(self.image, Image.Image):
            turned = self.image.getexif().get(0x0112)
            about = f"{self.image.mode} {self.image.getpalette()} {turned}"
        pixels = np.ascontiguousarray(self.image)
        form = f"{about} {pixels.shape} {pixels.dtype}".encode()
        return blake2b(pixels.tobytes(), digest_size=16, key=blake2b(form).digest()).digest()

    @property
    def _outline(self) -> bytes | None:
        if self.mask is None:
            return None
        mask = np.ascontiguousarray(self.mask, dtype=bool)
        return blake2b(np.packbits(mask).tobytes(), key=str(mask.shape).encode()).digest()


def _bytes_of(path: Path) -> tuple[int, str]:
    """How long a file is, and a digest of its ends, or of all; -1 where it cannot be read."""
    try:
        with path.open("rb") as opened:
            if path.suffix.lower() in PLAIN:
                whole = file_digest(opened, lambda: blake2b(digest_size=8))
                return opened.tell(), whole.hexdigest()
            size = opened.seek(0, os.SEEK_END)
            ends = []
            for start in (0, max(0, size - ENDS)):
                opened.seek(start)
                ends.append(opened.read(ENDS))
    except (OSError, ValueError):
        return -1, ""  # not there, or no name a file can have
    return size, blake2b(b"".join(ends), digest_size=8).hexdigest()


class Examples(list[Example]):
    """Examples in memory, the root of their files, and what their reader found wrong."""

    def __init__(
        self, root: Path, examples: Iterable[Example], findings: Iterable[Finding]
    ) -> None:
        super().__init__(examples)
        self.root, self.findings = root, list(findings)


class Selection(Sequence[Example]):
    """Some Examples of a data set, in an order of their own, made when they are asked for.

    dataset: any sequence of Examples; indices: which of them; prompts: one for each index in place
    of the data set's, None to leave them. Raises ValueError where their numbers differ.
    """

    def __init__(
        self,
        dataset: Sequence[Example],
        indices: Sequence[int] | np.ndarray[Any, Any] | range,
        prompts: Sequence[str] | None = None,
    ) -> None:
        self.dataset, self.prompts = dataset, prompts
        self.indices = np.asarray(indices, dtype=np.int64)
        if prompts is not None and len(prompts) != len(self.indices):
            raise ValueError(f"Got {len(prompts)} prompts for {len(self.indices)} examples.")

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Selection: ...
    def __getitem__(self, index: int | slice) -> Example | Selection:
        """The example at a position, or a Selection of some of them."""
        if isinstance(index, slice):
            prompts = None if self.prompts is None else self.prompts[index]
            return Selection(self.dataset, self.indices[index], prompts)
        example = self.dataset[int(self.indices[index])]
        return example if self.prompts is None else example.asked(self.prompts[index])

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))
