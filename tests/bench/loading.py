"""What loads and what it costs: the table of forms, and peak memory at full size.

python tests/bench/loading.py --forms            # each form, small: loads or is refused
python tests/bench/loading.py --memory           # RN50x16 and ViT-L/14, one form at a time
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import gscam_lib as gs
from tests.bench import refusals, their_forms  # noqa: F401  (they add to FORMS)
from tests.bench.forms import FORMS, Form, Made, named
from tests.bench.page import write_section


def outcome(form: Form, folder: Path) -> tuple[str, Any, Made]:
    """ "loads" or "refused", the model or the error, and what was made."""
    folder.mkdir(parents=True, exist_ok=True)
    with named, mock.patch("huggingface_hub.constants.HF_HUB_CACHE", str(folder)):
        made = form.make(folder)
        try:
            return "loads", gs.load_model(made.what, **made.options), made
        except (ValueError, FileNotFoundError) as error:
            return "refused", error, made


@torch.no_grad()
def difference(model: gs.Model, made: Made) -> float:
    """Largest difference of embeddings between a loaded model and its twin, in units of the twin's.

    Images and tokens are random; the last token is the highest, where CLIP's text tower reads.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    length = model.network.context_length
    tokens = torch.randint(0, made.tokens - 1, (2, length), generator=generator)
    tokens[:, -1] = made.tokens - 1
    worst = 0.0
    for encode, given in (("encode_image", images), ("encode_text", tokens)):
        ours, theirs = getattr(model.network, encode)(given), getattr(made.twin, encode)(given)
        worst = max(worst, float((ours - theirs).abs().max() / theirs.abs().max()))
    return worst


def print_forms() -> None:
    """Print the table of forms and their outcomes, and the counts."""
    counts: Counter[tuple[str, str]] = Counter()
    print("| kind | what you have | outcome | largest difference to its twin |\n|---|---|---|---|")
    for form in FORMS:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, value, made = outcome(form, Path(folder) / "it")
            if found == "loads":
                said = f"{difference(value, made):.0e}"
            else:
                said = " ".join(str(value).replace(folder, "…").split())[:160]
        counts[form.kind, found] += 1
        expected = "refused" if form.refused else "loads"
        wrong = "" if found == expected else f" (expected: {expected})"
        print(f"| {form.kind} | {form.name} | {found}{wrong} | {said} |", flush=True)
    print()
    for kind in dict.fromkeys(form.kind for form in FORMS):
        print(f"{kind}: {counts[kind, 'loads']} load, {counts[kind, 'refused']} are refused")
    print(f"total: {sum(n for (_, f), n in counts.items() if f == 'loads')} load, "
          f"{sum(n for (_, f), n in counts.items() if f == 'refused')} are refused")  # fmt: skip


# ---------------------------------------------------------------- memory

FULL = {"RN50x16": "RN50x16-quickgelu", "ViT-L-14": "ViT-L-14-quickgelu"}
SIZED = ("safetensors", "folder", "epoch_1.pt", "OpenAI .pt", "OpenAI state dict", "transformers")


def write_full(architecture: str, form: str, folder: Path) -> tuple[str, dict[str, str]]:
    """Write a full-size model with random weights in one form; what to load, and the options."""
    import open_clip
    from open_clip.model import convert_weights_to_lp
    from safetensors.torch import save_file

    from tests.bench.forms import OpenAI

    if form == "transformers":
        import transformers

        text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
                "eos_token_id": 49407}  # fmt: skip
        vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
                  "num_hidden_layers": 24, "patch_size": 14}  # fmt: skip
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)
        transformers.CLIPModel(config).save_pretrained(folder)
        return str(folder), {}
    network = open_clip.create_model(architecture)
    state = network.state_dict()
    if form in ("safetensors", "folder"):
        save_file(state, folder / "model.safetensors")
        if form == "safetensors":
            return str(folder / "model.safetensors"), {"arch": architecture}
        config = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": {}}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        return str(folder), {}
    if form == "epoch_1.pt":
        content = {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}
        torch.save(content, folder / form)
        return str(folder / form), {"arch": architecture}
    convert_weights_to_lp(network, torch.float16)
    if form == "OpenAI .pt":
        torch.jit.trace(OpenAI(network), torch.ones(())).save(folder / "archive.pt")
        return str(folder / "archive.pt"), {}
    torch.save(OpenAI(network).state_dict(), folder / "state.pt")
    return str(folder / "state.pt"), {}


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_loading(what: str, options: dict[str, str]) -> None:
    """In a process of its own: load, and print bytes before, of the weights, and at the peak."""
    gs.load_model("mini-rn")  # what PyTorch and open_clip need themselves
    before = peak()
    model = gs.load_model(what, **options)
    weights = sum(t.nbytes for t in model.network.state_dict().values())
    print(json.dumps({"before": before, "weights": weights, "peak": peak()}))


def print_memory(architectures: list[str]) -> None:
    """Write each form in turn, load it in a process of its own; write a section of bench.md."""
    lines = [
        "## Loading at full size", "",
        "`python tests/bench/loading.py --memory`: random weights in each form in which they "
        "exist, loaded in a process of its own as fp32. Peak: resident memory beyond what PyTorch, "
        "open_clip and mini-rn need. Asked for: at most 1.3 times the weights.", "",
        "| architecture | form | weights | peak beyond PyTorch | ratio |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name in architectures:
        for form in SIZED:
            if form == "transformers" and not name.startswith("ViT"):
                continue
            with tempfile.TemporaryDirectory() as folder:
                me = [sys.executable, __file__]
                task = json.dumps([FULL[name], form, folder])
                made = subprocess.run([*me, "--write", task], capture_output=True, check=True)
                task = made.stdout.decode().splitlines()[-1]
                found = subprocess.run([*me, "--load", task], capture_output=True, check=True)
            n = json.loads(found.stdout.decode().splitlines()[-1])
            more = n["peak"] - n["before"]
            lines.append(f"| {name} | {form} | {n['weights'] / 2**20:.0f} MiB | "
                         f"{more / 2**20:.0f} MiB | {more / n['weights']:.2f} |")  # fmt: skip
            print(lines[-1], flush=True)
    write_section("loading", "\n".join(lines) + "\n")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forms", action="store_true", help="the table of forms and outcomes")
    parser.add_argument("--memory", nargs="*", choices=list(FULL), help="at full size")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        architecture, form, folder = json.loads(options.write)
        print(json.dumps(write_full(architecture, form, Path(folder))))
    elif options.load:
        print_loading(*json.loads(options.load))
    elif options.memory is not None:
        print_memory(options.memory or list(FULL))
    else:
        print_forms()


if __name__ == "__main__":
    main()
