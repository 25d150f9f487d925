"""Where data and downloads lie, which version this is, and how a file is written whole.

Bundled data and downloads are in the folder data of a checkout, or where GSCAM_DATA says; an
installed package without either has no bundled data, and its downloads go to the user's own cache.
"""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

VERSION = "0.1.0"


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path, a ~ or ~user before it resolved; names such as ~photo.jpg stay as they are."""
    return Path(os.path.expanduser(path))  # pathlib's own refuses a name of nobody's


_given = os.environ.get("GSCAM_DATA")
DATA = expanded(_given or Path(__file__).resolve().parent.parent / "data")
MODELS = DATA / "models"
SCENES = DATA / "scenes"


def _cache() -> Path:
    if _given or MODELS.is_dir():
        return DATA / "cache"
    import pooch  # a tenth of a second, where it is needed

    return Path(pooch.os_cache("gscam"))


CACHE = _cache()


def missing() -> str:
    """What to do where bundled data is absent, for the end of an error; empty where it is there."""
    if MODELS.is_dir():
        return ""
    return (
        f" The bundled models and scenes are not at {DATA}: they come with the repository and not "
        "with the installed package. Clone it, and set the environment variable GSCAM_DATA to its "
        "folder data."
    )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to write into, which then takes its place: nobody sees a half of it."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
