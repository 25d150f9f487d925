"""The methods: functions from a trace and a prompt to a map (h, w) ≥ 0, and their table."""

import ast
from contextlib import suppress
from typing import Any

from gscam_lib.methods import attention, control, gradient, perturbation, score
from gscam_lib.methods.method import TOWERS, Method

__all__ = ["METHODS", "TOWERS", "Method", "methods_table", "read_method", "title"]

VIT = ("vit",)
POOLED = ("resnet", "cnn", "vit")

_ENTRIES = (
    Method(
        "gscorecam", score.gscorecam, "gScoreCAM", "score",
        "Chen et al., ACCV", 2022, "1 + k", "1",
    ),
    Method(
        "scorecam", score.scorecam, "ScoreCAM", "score",
        "Wang et al., CVPR Workshops", 2020, "1 + C",
    ),
    Method(
        "sscam", score.sscam, "SS-CAM", "score",
        "Wang et al., arXiv 2006.14255", 2020, "1 + N C, N = 35",
    ),
    Method(
        "groupcam", perturbation.groupcam, "Group-CAM", "perturbation",
        "Zhang et al., arXiv 2103.13859", 2021, "2 + G, G = 32", "1",
    ),
    Method(
        "rise", perturbation.rise, "RISE", "perturbation",
        "Petsiuk et al., BMVC", 2018, "1 + N, N = 8000",
    ),
    Method(
        "ablationcam", perturbation.ablationcam, "Ablation-CAM", "perturbation",
        "Desai and Ramaswamy, WACV", 2020, "1 + C / 8, and C from the layer on",
    ),
    Method(
        "gradcam", gradient.gradcam, "Grad-CAM", "gradient",
        "Selvaraju et al., ICCV", 2017, "1", "1",
    ),
    Method(
        "gradcam++", gradient.gradcam_plus_plus, "Grad-CAM++", "gradient",
        "Chattopadhay et al., WACV", 2018, "1", "1",
    ),
    Method(
        "xgradcam", gradient.xgradcam, "XGrad-CAM", "gradient",
        "Fu et al., BMVC", 2020, "1", "1",
    ),
    Method(
        "hirescam", gradient.hirescam, "HiResCAM", "gradient",
        "Draelos and Carin, arXiv 2011.08891", 2020, "1", "1",
    ),
    Method(
        "layercam", gradient.layercam, "LayerCAM", "gradient",
        "Jiang et al., IEEE TIP", 2021, "1", "1",
    ),
    Method(
        "eigencam", gradient.eigencam, "Eigen-CAM", "gradient",
        "Muhammad and Yeasin, IJCNN", 2020, uses_prompt=False,
    ),
    Method(
        "eigengradcam", gradient.eigengradcam, "Eigen-Grad-CAM", "gradient",
        "Gildenblat et al., package grad-cam", 2021, "1", "1",
    ),
    Method(
        "fullgrad", gradient.fullgrad, "FullGrad", "gradient",
        "Srinivas and Fleuret, NeurIPS", 2019, "2", "1", ("resnet", "cnn"),
    ),
    Method(
        "hilacam", attention.hilacam, "HilaCAM", "attention",
        "Chefer et al., ICCV", 2021, "2", "1", VIT,
    ),
    Method(
        "rollout", attention.rollout, "Attention rollout", "attention",
        "Abnar and Zuidema, ACL", 2020, "2", towers=VIT, uses_prompt=False,
    ),
    Method(
        "legrad", attention.legrad, "LeGrad", "attention",
        "Bousselham et al., ICCV", 2025, "2", "L", VIT,
    ),
    Method(
        "grad_eclip", attention.grad_eclip, "Grad-ECLIP", "attention",
        "Zhao et al., ICML", 2024, "2", "1", VIT,
    ),
    Method(
        "maskclip", attention.maskclip, "MaskCLIP", "dense",
        "Zhou et al., ECCV", 2022, "2", towers=POOLED,
    ),
    Method(
        "surgery", attention.surgery, "CLIP Surgery", "dense",
        "Li et al., Pattern Recognition", 2025, "2", towers=("resnet", "vit"),
    ),
    Method(
        "gem", attention.gem, "GEM", "dense",
        "Bousselham et al., CVPR", 2024, "2", towers=VIT,
    ),
    Method(
        "sclip", attention.sclip, "SCLIP", "dense",
        "Wang et al., ECCV", 2024, "2", towers=VIT,
    ),
    Method(
        "random_channels", control.random_channels, "Random channels", "control",
        "control", 2022, "1 + k",
    ),
    Method(
        "uniform_weights", control.uniform_weights, "Uniform weights", "control",
        "control", 2022, "1", "1",
    ),
    Method(
        "center", control.center, "Centre", "control",
        "control", 2022, "0", uses_prompt=False,
    ),
    Method(
        "sobel", control.sobel, "Sobel edges", "control",
        "Adebayo et al., NeurIPS", 2018, "0", uses_prompt=False,
    ),
)  # fmt: skip

METHODS: dict[str, Method] = {method.name: method for method in _ENTRIES}
"""Name to method: callable as METHODS[name](trace, prompt), with its entry in the table."""


def read_method(text: str, k: int | None = None) -> tuple[str, dict[str, Any]]:
    """Name and options of a method as people write them: "gscorecam:ranking=variance:k=50".

    Values are Python's (numbers, None, True), or else text. k: for a method that takes one and has
    none of its own. Raises ValueError for an option without "=" and for a k that is no number from
    1 on; whether there are such methods and options, `check_options` says.
    """
    name, *parts = text.split(":")
    options: dict[str, Any] = {}
    for part in parts:
        option, equals, value = part.partition("=")
        if not (option and equals and value):
            raise ValueError(
                f"Got the method {text!r}; expected a name, or a name and options such as "
                "'gscorecam:ranking=variance:k=50'."
            )
        options[option] = value
        with suppress(ValueError, SyntaxError):
            options[option] = ast.literal_eval(value)
    if options.get("k") is not None:
        score.check_count("k", options["k"])
    elif k is not None and name in METHODS and "k" in METHODS[name].options:
        options["k"] = k
    return name, options


def title(method: str) -> str:
    """A method as tables write it, options and all; what is no method, as it is."""
    name, *options = method.split(":")
    if name not in METHODS:
        return method
    return ", ".join([METHODS[name].title, *(part.replace("=", " = ") for part in options)])


def methods_table() -> str:
    """Return the methods as a Markdown table: names, families, towers, cost and source."""
    head = ("name", "method", "family", "towers", "forward", "backward", "options", "source")
    rows: list[tuple[str, ...]] = [head]
    for m in METHODS.values():
        towers = "all" if m.towers == TOWERS else ", ".join(m.towers)
        source = f"{m.paper} {m.year}" if m.paper != "control" else "control"
        cost = (m.forward, m.backward, ", ".join(m.options))
        rows.append((f"`{m.name}`", m.title, m.family, towers, *cost, source))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
