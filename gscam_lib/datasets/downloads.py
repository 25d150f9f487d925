"""Data sets that can be fetched: addresses, checksums, unpacking; and those that need a licence."""

from __future__ import annotations

import errno
import json
import shutil
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pooch
from tqdm.auto import tqdm

from gscam_lib.paths import CACHE

FOLDER = CACHE / "datasets"
CHUNK = 1 << 20
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError)


@dataclass(frozen=True)
class Archive:
    """A file to fetch.

    size, unpacked: bytes, about; sha256: None where nobody has published one, then the first
    download's is kept in checksums.json and later ones must equal it; members: of an archive, only
    these; into: the folder of a file that is no archive.
    """

    url: str
    size: int
    sha256: str | None = None
    unpacked: int = 0
    members: tuple[str, ...] = ()
    into: str = ""

    @property
    def name(self) -> str:
        """The file's own name."""
        return Path(urlsplit(self.url).path).name


@dataclass(frozen=True)
class Source:
    """A data set: what to fetch, how it is read, whose terms hold.

    form: as in `datasets.read`; root, annotations: where its folder has them; by_hand: what to do
    where a licence must be accepted first; folder: where it is not called as the data set.
    """

    form: str
    root: str
    annotations: str
    terms: str
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""
    folder: str = ""


COCO = "http://images.cocodataset.org"
WSOL = "https://raw.githubusercontent.com/clovaai/wsolevaluation/master/metadata/ILSVRC/val"
PROMPTS = (
    "prompts: open_clip's class names, 297 of which differ from the list of gScoreCAM's release; "
    "put another as class_names.txt beside the boxes, one a line"
)
COCO_TERMS = "annotations CC BY 4.0; each photo under its own Flickr licence"
# Checksums of COCO and ImageNet-v2: as published by TensorFlow Datasets.
VAL2017 = Archive(
    f"{COCO}/zips/val2017.zip", 815_585_330,
    "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05", 820_000_000,
)  # fmt: skip
TRAIN2017 = Archive(
    f"{COCO}/zips/train2017.zip", 19_336_861_798,
    "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929", 19_400_000_000,
)  # fmt: skip
COCO_BOXES = Archive(
    f"{COCO}/annotations/annotations_trainval2017.zip", 252_907_541,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268", 20_000_000,
    members=("annotations/instances_val2017.json",),
)  # fmt: skip

SOURCES: dict[str, Source] = {
    "coco-val2017": Source(
        "coco", "val2017", "annotations/instances_val2017.json", COCO_TERMS,
        (VAL2017, COCO_BOXES),
    ),
    "coco-train2017": Source(
        "coco", "train2017", "annotations/instances_train2017.json", COCO_TERMS,
        (TRAIN2017, replace(COCO_BOXES, unpacked=470_000_000,
                            members=("annotations/instances_train2017.json",))),
    ),
    "lvis-val": Source(
        "lvis", ".", "lvis_v1_val.json", f"{COCO_TERMS}; see lvisdataset.org",
        (VAL2017, TRAIN2017, Archive(
            "https://dl.fbaipublicfiles.com/LVIS/lvis_v1_val.json.zip", 200_000_000, None,
            900_000_000,
        )),
    ),
    "imagenet-v2": Source(
        "wsol", "imagenetv2-threshold0.7-format-val", "metadata",
        "photos: see github.com/modestyachts/ImageNetV2; boxes of NAVER Corp.: CC BY 2.0"
        f"; {PROMPTS}",
        (Archive(
            "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/"
            "imagenetv2-threshold0.7.tar.gz", 1_249_906_176,
            "32142bfe998f9cfa4141be691f6a80eeb1e27b24bd532a668eb08c26d98897a2", 1_260_000_000,
        ),
        # The lists were first made for photos named 0.jpeg to 9.jpeg in each folder; those were
        # renamed in 2020 (issues 42 there and 6 of modestyachts/ImageNetV2), mapping.txt says how.
        Archive(f"{WSOL}/localization.txt", 1_289_179, into="metadata"),
        Archive(f"{WSOL}/class_labels.txt", 550_000, into="metadata"),
        Archive(f"{WSOL}/image_sizes.txt", 600_000, into="metadata"),
        Archive(f"{WSOL}/mapping.txt", 617_800, into="metadata")),
    ),
    "imagenet-val": Source(
        "wsol", "val", "metadata", f"ImageNet: for research, after registration; {PROMPTS}",
        by_hand="Register at image-net.org, accept the terms, and unpack ILSVRC2012_img_val.tar "
        "into {folder}/val; put class_labels.txt and localization.txt of metadata/ILSVRC/test in "
        "github.com/clovaai/wsolevaluation into {folder}/metadata",
    ),
    # The paper's list is of the test photos: 4,590 of them, with 14,260 pairs.
    **{
        f"partimagenet{suffix}": Source(
            "partimagenet", f"images/{split}", f"annotations/{split}/{split}.json",
            f"the {split} photos; ImageNet's terms; parts: see github.com/TACJu/PartImageNet",
            by_hand="Get it from github.com/TACJu/PartImageNet and unpack it so that "
            f"{{folder}}/images/{split} and {{folder}}/annotations/{split}/{split}.json exist",
            folder="partimagenet",
        )
        for suffix, split in (("", "test"), ("-val", "val"), ("-train", "train"))
    },
    "rta-100": Source(
        "typographic", ".", ".", "no licence is stated",
        by_hand="Get rta100.zip from github.com/azuma164/Defense-Prefix and unpack its photos "
        "(label=dog_text=cat.png) into {folder}",
    ),
}  # fmt: skip
"""Name to data set, as `gscam download` and `gscam evaluate --dataset` take it."""


def download(name: str, folder: Path | str = FOLDER, *, progress: bool = True) -> Path:
    """Fetch and unpack a data set, once; returns its folder.

    A download that was interrupted goes on where it ended; a data set is there whole or not at all.
    Raises ValueError for names that do not exist, data that must be fetched by hand (saying how),
    wrong checksums, archives that would write elsewhere, and too little room on the disk, and
    ConnectionError where the network fails.
    """
    source, folder = _source(name), Path(folder)
    target, work = folder / (source.folder or name), folder / f".{name}"
    if target.is_dir():
        return target
    if source.by_hand:
        steps = source.by_hand.format(folder=target)
        raise ValueError(f"'{name}' cannot be fetched by a program ({source.terms}). {steps}.")
    _check_room(source.archives, work)
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was killed
    unpacked.mkdir(parents=True)
    for archive in source.archives:
        _unpack(_fetch(archive, work, folder / "checksums.json", progress), archive, unpacked)
    unpacked.rename(target)
    shutil.rmtree(work)
    return target


def find(name: str, folder: Path | str = FOLDER) -> tuple[str, Path, Path]:
    """The form, images and annotations of a data set that was downloaded or put there by hand.

    Raises ValueError for names that do not exist, FileNotFoundError where it is not there.
    """
    source = _source(name)
    target = Path(folder) / (source.folder or name)
    root, annotations = target / source.root, target / source.annotations
    if not (root.exists() and annotations.exists()):
        how = source.by_hand.format(folder=target) or f"Run `gscam download {name}`"
        raise FileNotFoundError(f"No {name} in {target}. {how}; or give --root and --annotations.")
    return source.form, root, annotations


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"No data set '{name}'. There are: {', '.join(SOURCES)}.")
    return SOURCES[name]


# ---------------------------------------------------------------- fetching


def _fetch(archive: Archive, work: Path, checksums: Path, progress: bool) -> Path:
    """The file in the work folder, its checksum proved, or kept where nobody published one."""
    seen = json.loads(checksums.read_text()) if checksums.is_file() else {}

    def go_on(url: str, output: str, _: object) -> None:
        part = work / f"{archive.name}.part"
        _resume(url, part, progress)
        part.replace(output)

    pooch.get_logger().setLevel("WARNING")
    known = archive.sha256 or seen.get(archive.url)
    path = pooch.retrieve(archive.url, known, archive.name, work, downloader=go_on)
    seen[archive.url] = pooch.file_hash(path)
    checksums.write_text(json.dumps(seen, indent=1) + "\n")
    return Path(path)


def _resume(url: str, part: Path, progress: bool) -> None:
    """Fetch a file, or what is missing of it, into a part that outlives an interruption."""
    have = part.stat().st_size if part.exists() else 0
    again = "what came is kept, the same command goes on from there"
    try:
        with urlopen(Request(url, headers={"Range": f"bytes={have}-"} if have else {})) as answer:
            have = have if answer.status == 206 else 0  # a server may send all of it again
            length = answer.headers.get("Content-Length")
            total = None if length is None else have + int(length)
            bar = tqdm(
                desc=part.stem, initial=have, total=total, unit="B", unit_scale=True,
                disable=not progress,
            )  # fmt: skip
            with part.open("ab" if have else "wb") as file, bar:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except HTTPError as error:
        if error.code == 416:  # nothing is missing: the checksum has the last word
            return
        raise ConnectionError(f"{url} answers {error.code} {error.reason}.") from error
    except (ConnectionError, TimeoutError) as error:
        raise ConnectionError(f"{url} was interrupted ({error}); {again}.") from error
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(
            f"{url} ended after {part.stat().st_size:,} of {total:,} bytes; {again}."
        )


def _check_room(archives: tuple[Archive, ...], work: Path) -> None:
    there = sum(p.stat().st_size for p in work.glob("*") if p.is_file())
    _need(sum(a.size + (a.unpacked or a.size) for a in archives) - there, work)


def _need(count: int, folder: Path) -> None:
    """Raise ValueError where the disk of a folder has no room for so many bytes."""
    place = next(p for p in (folder, *folder.resolve().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if free < count:
        raise ValueError(
            f"This needs {count / 1e9:.1f} GB, and the disk of {place} has {free / 1e9:.1f} GB "
            "free. Make room, or choose another folder (--to)."
        )


# ---------------------------------------------------------------- unpacking


def _unpack(file: Path, archive: Archive, target: Path) -> None:
    """Unpack into a folder, and nowhere else."""
    try:
        if archive.name.endswith(".zip"):
            _unzip(file, archive.members, target)
        elif ".tar" in archive.name:
            with tarfile.open(file) as opened:
                opened.extractall(target, filter="data")
        else:
            (target / archive.into).mkdir(exist_ok=True)
            shutil.copy(file, target / archive.into)
    except tarfile.FilterError as error:
        raise ValueError(f"{file.name} would write outside its folder: {error}.") from error
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # a full disk and the like
        file.unlink()
        raise ValueError(f"{file.name} is damaged ({error}); it is deleted, try again.") from error


def _unzip(file: Path, members: tuple[str, ...], target: Path) -> None:
    with zipfile.ZipFile(file) as opened:
        wanted = [i for i in opened.infolist() if not members or i.filename in members]
        for info in wanted:
            if not (target / info.filename).resolve().is_relative_to(target.resolve()):
                raise ValueError(f"{file.name} would write outside its folder: {info.filename}.")
        _need(sum(info.file_size for info in wanted), target)
        opened.extractall(target, wanted)
