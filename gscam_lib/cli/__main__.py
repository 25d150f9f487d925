"""`python -m gscam_lib.cli` is `gscam`."""

from gscam_lib.cli import app

app()
