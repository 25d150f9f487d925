"""The page in which the models run in the browser: python -m data.build.browser OUT."""

import sys
from pathlib import Path

from data.build.browser.bundle import write

if len(sys.argv) != 2:
    raise SystemExit("python -m data.build.browser OUT: a folder for index.html and its models")
for path in write(Path(sys.argv[1])):
    print(f"{path.stat().st_size / 1e6:6.2f} MB  {path}")
