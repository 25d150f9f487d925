"""The methods: functions from a trace and a prompt to a map (h, w) ≥ 0, and their table."""

from collections.abc import Callable

from torch import Tensor

from gscam_lib.methods.control import center
from gscam_lib.methods.gradient import gradcam
from gscam_lib.methods.score import gscorecam, scorecam

METHODS: dict[str, Callable[..., Tensor]] = {
    "gscorecam": gscorecam,
    "scorecam": scorecam,
    "gradcam": gradcam,
    "center": center,
}
