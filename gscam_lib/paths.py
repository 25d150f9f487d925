"""Where the bundled data lies and where downloads go."""

import os
from pathlib import Path

DATA = Path(os.environ.get("GSCAM_DATA", Path(__file__).resolve().parent.parent / "data"))
MODELS = DATA / "models"
SCENES = DATA / "scenes"
CACHE = DATA / "cache"
