"""Train a bundled model on scenes: python -m data.build.train --model mini-rn.

A contrastive image-text model. The loss of a batch is the sum of
  1. InfoNCE over the batch's distinct captions (images that share a caption share it);
  2. the image against the 81 names, each in a random template; the target is the share of
     captions of that scene that would name it (`captions.expected_names`);
  3. for scenes with writing, the image against 81 sentences such as "text that says apple".
All three use the same two towers, cosines and temperature. A recipe with a teacher adds
  4. one minus the cosine between the image's embedding and the teacher's.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import numpy as np
import torch
import torch._inductor.config
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from open_clip.transformer import VisionTransformer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.build.captions import expected_names, prompt, text_prompt
from data.build.mimetic import mimetic
from data.build.optimizer import TwoOptimizers
from data.build.probe import measure, probes
from data.build.recipes import Recipe, Stage, recipe
from data.build.towers import Towers, export, read, similarities
from data.build.world import draw_scene
from gscam_lib.paths import CACHE, MODELS, whole_file
from gscam_lib.scenes import NAMES

LOG = logging.getLogger("data.build.train")
RUNS = CACHE / "runs"
Batch = dict[str, Any]


class Batches(Dataset[Batch]):
    """The batches of one stage: item `step` is the same whenever and wherever it is drawn."""

    def __init__(self, stage: Stage, number: int, seed: int) -> None:
        self.stage, self.number, self.seed = stage, number, seed

    def __len__(self) -> int:
        return self.stage.samples // self.stage.batch

    def __getitem__(self, step: int) -> Batch:
        size, key = self.stage.size, [self.seed, self.number, step]
        images = np.empty((self.stage.batch, size, size, 3), np.uint8)
        names = np.zeros((self.stage.batch, len(NAMES)), np.float32)
        words = np.zeros_like(names)
        captions = []
        for i in range(self.stage.batch):
            picture = draw_scene([*key, i], self.stage.mixture, size)
            images[i], scene = np.asarray(picture.image), picture.scene
            written = [label.text for label in scene.labels if label.text in NAMES]
            names[i] = expected_names([thing.name for thing in scene.objects],
                                      [thing.area for thing in scene.objects], written)  # fmt: skip
            for word in written:
                words[i, NAMES.index(word)] += 1 / len(written)
            captions.append(picture.caption)
        rng = np.random.default_rng(key)
        return {
            "images": _recolour(images, rng), "names": names, "words": words,
            "captions": captions,
            "name texts": [prompt(name, rng) for name in NAMES],
            "word texts": [text_prompt(name, rng) for name in NAMES if self.stage.reads],
        }  # fmt: skip


def _recolour(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Vary contrast, brightness and white balance of every image."""
    gain = rng.uniform(0.75, 1.25, (len(images), 1, 1, 1)) * rng.uniform(
        0.92, 1.08, (len(images), 1, 1, 3)
    )
    shift = rng.uniform(-24, 24, (len(images), 1, 1, 1)) + 128 * (1 - gain)
    levels = np.arange(256)[None, :, None]  # a table per image and channel is quick
    tables = np.clip(levels * gain[:, 0] + shift[:, 0], 0, 255).astype(np.uint8)
    for image, table in zip(images, tables, strict=True):
        for channel in range(3):
            image[..., channel] = table[:, channel][image[..., channel]]
    return images


def batch_loss(towers: Towers, batch: Batch, teacher: Towers | None = None, teaching: float = 0.0
               ) -> Tensor:  # fmt: skip
    """Return the loss of one batch: captions, names, written words, and the teacher's view."""
    captions: list[str] = batch["captions"]
    distinct = list(dict.fromkeys(captions))
    texts = [*distinct, *batch["name texts"], *batch["word texts"]]
    table = towers.encode_text(texts).float()
    scale = towers.clip.logit_scale.exp().clamp(max=100)
    images = torch.from_numpy(batch["images"])
    embeddings = towers.encode_image(images)
    logits = scale * embeddings @ table.T
    which = torch.tensor([distinct.index(caption) for caption in captions]).to(towers.device)
    matrix = logits[:, : len(distinct)]
    share = F.one_hot(which, len(distinct)).float()
    share = (share / share.sum(dim=0)).T
    contrast = (F.cross_entropy(matrix, which) + F.cross_entropy(matrix.T, share)) / 2
    names = torch.from_numpy(batch["names"]).to(towers.device)
    known = names.sum(dim=1) > 0
    columns = slice(len(distinct), len(distinct) + len(NAMES))
    loss = contrast + F.cross_entropy(logits[known, columns], names[known])
    if batch["word texts"]:
        words = torch.from_numpy(batch["words"]).to(towers.device)
        loss -= (words * F.log_softmax(logits[:, columns.stop :], dim=1)).sum(dim=1).mean()
    if teacher is None:
        return loss
    with torch.no_grad():
        wanted = teacher.encode_image(images)
    return loss + teaching * (1 - (embeddings * wanted).sum(dim=1)).mean()


class Pace:
    """Use all threads or one, whichever is quicker just now.

    Where other programs take part of the machine, the threads of one step wait for the slowest.
    """

    def __init__(self, threads: int, cycle: int = 40) -> None:
        self.counts, self.cycle = sorted({1, threads}), cycle
        self.seconds = dict.fromkeys(self.counts, 0.0)

    def choose(self, step: int) -> int:
        """Set and return the number of threads: two steps of trial each, then the quicker."""
        turn = step % self.cycle // 2
        quicker = min(self.counts, key=lambda count: self.seconds[count])
        count = self.counts[turn] if turn < len(self.counts) else quicker
        torch.set_num_threads(count)
        return count

    def note(self, step: int, count: int, seconds: float) -> None:
        """Keep the second trial's time: the first warms up."""
        if step % self.cycle < 2 * len(self.counts) and step % 2:
            self.seconds[count] = seconds


class Run:
    """One training run: towers, their moving average, the optimizer, and where it stands."""

    def __init__(
        self,
        plan: Recipe,
        folder: Path,
        *,
        mirror: Path | None = None,
        device: str = "cpu",
    ) -> None:
        self.plan, self.folder, self.mirror = plan, folder, mirror
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(plan.seed)
        self.towers = Towers(plan.config, plan.stages[0].size).to(device)
        if isinstance(self.towers.clip.visual, VisionTransformer):
            mimetic(self.towers.clip.visual)
        self.teacher = read(MODELS / plan.teacher).to(device) if plan.teacher else None
        if self.teacher:
            text = {k: v for k, v in self.teacher.clip.state_dict().items() if "visual." not in k}
            self.towers.clip.load_state_dict(text, strict=False)
        self.average = deepcopy(self.towers).requires_grad_(False)
        self.stage, self.step, self.samples = 0, 0, 0
        self.optimizer = TwoOptimizers(self.towers, self.plan.weight_decay)
        self.stopped, self.compiled, self.threads = False, False, torch.get_num_threads()
        if mirror and not (folder / "checkpoint.pt").exists():
            for file in mirror.glob("*.*"):  # a working tree laid anew
                shutil.copy2(file, folder / file.name)
        if (folder / "checkpoint.pt").exists():
            self._restore()
        self._fit_teacher()

    def _enter_stage(self) -> None:
        """Fit the towers to the stage's image side; the optimizer starts anew."""
        self.towers.resize(self.plan.stages[self.stage].size)
        self.average.resize(self.plan.stages[self.stage].size)
        self.average.requires_grad_(False)
        self._fit_teacher()
        self.optimizer = TwoOptimizers(self.towers, self.plan.weight_decay)

    def begin_at(self, stage: int, weights: Path) -> None:
        """Start at a stage from an exported folder: its weights and its curve, a new optimizer.

        With a teacher, only the image tower is taken: the text tower is the teacher's of today.
        Errors: FileNotFoundError where the folder has no model.
        """
        start = read(weights)
        state = start.state_dict()
        if self.teacher:
            state = {key: value for key, value in state.items() if "visual." in key}
        self.stage, self.step = stage, 0
        for towers in (self.towers, self.average):
            towers.resize(start.size)
            towers.load_state_dict(state, strict=not self.teacher)
        if (weights / "curve.jsonl").exists():
            curve = (weights / "curve.jsonl").read_text()
            (self.folder / "curve.jsonl").write_text(curve)
            self.samples = int(json.loads(curve.splitlines()[-1])["samples"])
        self._enter_stage()

    def _fit_teacher(self) -> None:
        if self.teacher:
            self.teacher.resize(self.plan.stages[self.stage].size)
            self.teacher.requires_grad_(False)

    def save(self) -> None:
        """Write the checkpoint so that it is whole at every moment, and mirror it."""
        path = self.folder / "checkpoint.pt"
        content = {
            "stage": self.stage, "step": self.step, "samples": self.samples,
            "size": self.plan.stages[self.stage].size,
            "towers": self.towers.state_dict(), "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        with whole_file(path) as file:
            torch.save(content, file)
        if self.mirror:
            self.mirror.mkdir(parents=True, exist_ok=True)
            for file in self.folder.glob("*.*"):
                if file.suffix in (".pt", ".jsonl"):
                    with whole_file(self.mirror / file.name) as copy:
                        shutil.copy2(file, copy)

    def _restore(self) -> None:
        path = self.folder / "checkpoint.pt"
        content = torch.load(path, weights_only=True, map_location=self.towers.device)
        self.stage, self.step, self.samples = (content[k] for k in ("stage", "step", "samples"))
        self.towers.resize(content["size"])
        self.average.resize(content["size"])
        self.optimizer = TwoOptimizers(self.towers, self.plan.weight_decay)
        self.towers.load_state_dict(content["towers"])
        self.average.load_state_dict(content["average"])
        self.average.requires_grad_(False)
        self.optimizer.load_state_dict(content["optimizer"])
        LOG.info("resumed at stage %d, step %d, %d samples", self.stage, self.step, self.samples)

    def learning_rate(self) -> float:
        """Return the rate of this step: warm-up, then a cosine to the stage's end."""
        stage = self.plan.stages[self.stage]
        steps = stage.samples // stage.batch
        warmup = min(self.plan.warmup, steps // 4)
        if self.step < warmup:
            return stage.lr * (self.step + 1) / warmup
        share = (self.step - warmup) / max(steps - warmup, 1)
        return stage.lr_end + (stage.lr - stage.lr_end) * (1 + math.cos(math.pi * share)) / 2

    def update(self, batch: Batch) -> float:
        """Take one optimizer step and move the average; return the loss."""
        self.towers.train()
        with torch.autocast(self.towers.device.type, torch.bfloat16):
            loss = batch_loss(self.towers, batch, self.teacher, self.plan.teaching)
        self.towers.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.towers.parameters(), 2.0)
        self.optimizer.step(self.learning_rate())
        total = self.samples // len(batch["captions"])
        keep = min(self.plan.ema, (1 + total) / (10 + total))  # short memory at the start
        with torch.no_grad():
            old = [v for v in self.average.state_dict().values() if v.is_floating_point()]
            new = [v for v in self.towers.state_dict().values() if v.is_floating_point()]
            torch._foreach_lerp_(old, new, 1 - keep)
        self.step += 1
        self.samples += len(batch["captions"])
        return float(loss.detach())

    def batches(self, workers: int) -> Iterator[Batch]:
        """Return what is left of the stage's batches."""
        data = Batches(self.plan.stages[self.stage], self.stage, self.plan.seed)
        return iter(DataLoader(
            data, batch_size=None, sampler=range(self.step, len(data)), num_workers=workers,
            collate_fn=_as_is, prefetch_factor=4 if workers else None,
            worker_init_fn=_leave_signals_to_the_trainer,
        ))  # fmt: skip

    def train(self, *, workers: int = 1, every: int = 100, until: int | None = None) -> None:
        """Train to the end of the recipe, or until SIGTERM or `until` samples; then save."""
        while self.stage < len(self.plan.stages) and not self.stopped:
            self._train_stage(workers, every, until)
            steps = len(Batches(self.plan.stages[self.stage], self.stage, 0))
            if self.step < steps or self.stage + 1 == len(self.plan.stages):
                break
            self.stage, self.step = self.stage + 1, 0
            self._enter_stage()
        self.save()

    def _train_stage(self, workers: int, every: int, until: int | None) -> None:
        stage = self.plan.stages[self.stage]
        if self.compiled:  # a quarter quicker; every stage has its own image side
            torch.compiler.reset()
            torch._inductor.config.cpp.dynamic_threads = True
            for towers in filter(None, (self.towers, self.teacher)):
                towers.clip.visual.compile(dynamic=False)
        sets = probes(stage.size)
        losses: list[float] = []
        start, done, pace = time.monotonic(), 0, Pace(self.threads)
        for batch in self.batches(workers):
            began, threads = time.monotonic(), pace.choose(self.step)
            losses.append(self.update(batch))
            pace.note(self.step - 1, threads, time.monotonic() - began)
            done += stage.batch
            self.stopped = self.stopped or (until is not None and self.samples >= until)
            if self.step % every == 0 or self.stopped:
                speed = done / (time.monotonic() - start)
                self.report(stage, float(np.mean(losses[-every:])), speed, sets)
                self.save()
            if self.stopped:
                break

    def report(self, stage: Stage, loss: float, speed: float, sets: Any) -> None:
        """Measure the average on held-out scenes; log it and append it to the curve."""

        def similarity(images: NDArray[np.uint8], texts: Any) -> NDArray[np.float32]:
            return similarities(self.average, images, texts)

        left = (stage.samples - self.step * stage.batch) / speed / 60
        scores = measure(sets, similarity)
        row = {"samples": self.samples, "stage": stage.name, "loss": round(loss, 4),
               "lr": self.learning_rate(), "per_second": round(speed, 1),
               "scale": float(self.towers.clip.logit_scale.detach().exp()),
               **{key: round(value, 4) for key, value in scores.items()}}  # fmt: skip
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        LOG.info("%s %7d samples, loss %.3f, %.0f/s (%d threads), stage ends in %.0f min; %s",
                 stage.name, self.samples, loss, speed, torch.get_num_threads(), left,
                 ", ".join(f"{k} {v:.0%}" for k, v in scores.items()))  # fmt: skip

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """Finish the step, save and end (the handler of SIGTERM)."""
        LOG.info("signal %d: stopping after this step", signum)
        self.stopped = True


def _leave_signals_to_the_trainer(worker: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_is(batch: Any) -> Any:
    return batch


def main(
    model: Annotated[str, typer.Option(help="mini-rn or mini-vit")] = "mini-rn",
    until: Annotated[int | None, typer.Option(help="stop after so many samples")] = None,
    workers: int = 1,
    every: Annotated[int, typer.Option(help="steps between evaluations and checkpoints")] = 100,
    threads: int = 2,
    mirror: Annotated[Path | None, typer.Option(help="folder for a second copy")] = None,
    seed: int | None = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    start: Annotated[Path | None, typer.Option(help="begin with the model in this folder")] = None,
    stage: Annotated[int, typer.Option(help="the stage that --start begins")] = 0,
    compiled: Annotated[bool, typer.Option(help="compile the visual tower (needs gcc)")] = False,
    export_to: Annotated[Path | None, typer.Option(help="write the averaged model there")] = None,
) -> None:
    """Train a bundled model, resuming where the last run stopped; SIGTERM saves and ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    plan = recipe(model) if seed is None else replace(recipe(model), seed=seed)
    run = Run(plan, RUNS / model, mirror=mirror / model if mirror else None, device=device)
    if start:
        run.begin_at(stage, start)
    if export_to:
        export(run.average, plan.config, export_to)
        shutil.copy(run.folder / "curve.jsonl", export_to / "curve.jsonl")
        LOG.info("wrote %s after %d samples", export_to, run.samples)
        return
    signal.signal(signal.SIGTERM, run.stop)
    run.compiled = compiled
    run.train(workers=workers, every=every, until=until)
    LOG.info("saved after %d samples", run.samples)


if __name__ == "__main__":
    typer.run(main)
