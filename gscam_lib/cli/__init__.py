"""The command line, `gscam`: reads words, calls the library, prints. Nothing is computed here."""

# each adds its commands, in the order in which --help lists them
# isort: off
from gscam_lib.cli import heatmap
from gscam_lib.cli import evaluation
from gscam_lib.cli import audit
from gscam_lib.cli import benchmark
from gscam_lib.cli import reproduce
from gscam_lib.cli import about
from gscam_lib.cli.common import app

__all__ = ["about", "app", "audit", "benchmark", "evaluation", "heatmap", "reproduce"]
