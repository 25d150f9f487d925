"""The Python that makes what an explorer shows."""

from __future__ import annotations

from gscam_lib.explorer.photos import Photo
from gscam_lib.explorer.request import Request
from gscam_lib.methods import METHODS


def as_code(model: str, photo: Photo, request: Request, copies: dict[str, int]) -> str:
    """The Python that makes what a request shows.

    copies: method -> masked copies where k is left to the model, of methods that score them.
    """
    source = photo.source
    lines = ["import gscam_lib as gs", "from gscam_lib.explorer.pictures import draw"]
    lines.append("from gscam_lib.model.photo import load_photo")
    if "SCENES" in source:
        lines.append("from gscam_lib.paths import SCENES")
    if "skimage" in source:
        lines.append("import skimage")
    lines += ["", f"model = gs.load_model({model!r})"]
    if "(image)" in source:
        lines.append("# image: the photo given to explore")
    lines += [f"photo = {source}", "trace = model.trace(photo)"]
    lines += [f"prompts = {list(request.prompts)!r}", ""]
    calls = []
    for method, k in request.variants():
        ranked = f", k={k}" if k is not None and "k" in METHODS[method].options else ""
        budget = request.budget((ranked and k) or copies[method]) if method in copies else None
        ranked += "" if budget is None else f", budget={budget}"
        calls.append(f"    heats.append(gs.heatmap(trace, prompt, {method!r}{ranked}))")
    lines += ["heats = []", "for prompt in prompts:", *calls]
    lines.append(
        f"boxes = [gs.heatmap_to_box(heat, threshold={request.threshold!r}) for heat in heats]"
    )
    options = f"opacity={request.opacity:g}"
    options += ", box=box" if request.box else ""
    options += f", contour={request.threshold!r}" if request.contour else ""
    options += f", truth={photo.boxes!r}" if request.truth and photo.boxes else ""
    lines += [
        "pictures = [",
        f"    draw(trace.image, heat.values, {options})",
        "    for heat, box in zip(heats, boxes)",
        "]",
        "display(*pictures)  # in a notebook",
    ]
    return "\n".join(lines)
