"""ScoreCAM's maps before all copies are scored: some scores are known, the others guessed.

The guess is a Gaussian process over the masks, around drafts of their scores: see `sharpen`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gscam_lib.model.prompts import Prompt, as_target
from gscam_lib.trace import Trace
from gscam_lib.trace.tails import cell_masks, drafts

STEP, ROUNDS = 4, 32  # copies chosen before the guess is renewed, at least; and about how often
WIDTH, LINEAR, NOISE = 0.2, 0.3, 1e-2  # of the kernel, see `_kernel`
TRUST = 4  # scores that the first idea of their spread is worth
SPREAD = 0.02  # the least first idea of it, as a share of the logit scale
FAR = 1.5  # deviations (of logits) above which a guess counts as no wilder
DRAWS, SHARE = 64, 0.9  # maps that could be, and how many of them the band holds
WIDEN, LEAST = 1.8, 0.05  # of the band; calibrated, see tests/bench/anytime.py


@dataclass(frozen=True)
class Question:
    """A prompt and the channels that are to be scored for it, the highest gradient first."""

    prompt: Prompt
    channels: Tensor
    weighting: str = "softmax"


@dataclass(frozen=True)
class Sharpened:
    """A map (h, w) ≥ 0, the masked copies scored for it, and how far it may be from the full one.

    band: of the largest difference of the two, both min-maxed; 0 for the full one.
    """

    map: Tensor = field(repr=False)
    passes: int
    band: float


def weigh(trace: Trace, question: Question, scores: Tensor) -> Tensor:
    """Activations weighted by the softmax of scores, (n,) or (draws, n): (h, w) or (draws, h, w).

    Other channels weigh by a score of 0 (SigLIP's bias), or nothing: see `score.gscorecam`.
    """
    # 0 is next to nothing beside logits of 20, but the most that a log probability can be.
    nothing = question.weighting == "softmax" and not as_target(question.prompt).against
    rest = trace.model.logit_bias if nothing else -torch.inf
    every = scores.new_full((*scores.shape[:-1], len(trace.activations)), rest)
    every[..., question.channels] = scores
    weights = every.softmax(-1).to(trace.activations.dtype)
    return torch.einsum("...c,chw->...hw", weights, trace.activations).relu()


def full(trace: Trace, question: Question) -> Tensor:
    """The map with every copy scored: (h, w) ≥ 0."""
    scores = trace.model.scores(trace.masked_embeddings(question.channels), question.prompt)
    return weigh(trace, question, scores)


def sharpen(
    trace: Trace,
    questions: Sequence[Question],
    *,
    budget: int | None = None,
    tolerance: float | None = None,
) -> Iterator[list[Sharpened]]:
    """Maps of questions about one photo that sharpen as masked copies are scored.

    The first are drafts, then come a few copies for each question at a time, until each has had
    `budget` of them, or its band is at most `tolerance`, or all its channels are scored: then the
    map is `full`. Every copy serves all questions. What is chosen depends on the photo, the
    questions and nothing else: not on batches, nor on what the trace knows.

    Guess: s_c = f_c + a + g(M_c), f the score of the copy's draft (see `tails.drafts`; 0 without),
    a unknown, g a Gaussian process over the masks on the layer's grid, kernel RBF + linear, its
    variance learned from the scores. Next is the copy whose weight exp(s_c) is least certain, times
    how far A_c is from the map. Band: LEAST, and WIDEN times the SHARE-quantile of the largest
    difference over DRAWS maps from the posterior.

    How near that is, on three models, stands in figures/bench.md. It fails where k is small: of
    mini-vit's 19 copies 20 % are four.
    """
    state = _State(trace, questions)
    limits = [min(budget or len(q.channels), len(q.channels)) for q in questions]
    step = [max(STEP, len(q.channels) // ROUNDS) for q in questions]
    while True:
        found = [state.sharpened(i) for i in range(len(questions))]
        yield found
        want = []
        for i, (now, limit) in enumerate(zip(found, limits, strict=True)):
            if tolerance is None or now.band > tolerance:
                want.append((i, min(step[i], limit - now.passes)))
        picks = [pick for i, count in want for pick in state.choose(i, count)]
        if not picks:
            return
        state.score(picks)


class _State:
    """What is known of the scores of all channels that are asked for, and guessed of the others."""

    def __init__(self, trace: Trace, questions: Sequence[Question]) -> None:
        self.trace, self.questions = trace, questions
        union = torch.cat([q.channels for q in questions]).unique()
        self.channels = union.tolist()
        self.own = [torch.searchsorted(union, q.channels).cpu() for q in questions]
        self.maps = trace.activations.flatten(1).cpu().double()
        self.kernel = _kernel(cell_masks(trace, union).flatten(1).cpu().double())
        self.rows = torch.empty(0, len(union), dtype=torch.float64)  # L⁻¹ K of what was chosen
        self.chosen: list[int] = []
        self.mine: list[set[int]] = [set() for _ in questions]
        self.embeddings = trace.embedding.new_zeros((0, len(trace.embedding)))
        draft = drafts(trace, union)
        nothing = torch.zeros(len(union), dtype=torch.float64)
        self.draft = [
            nothing if draft is None else trace.model.scores(draft, q.prompt).cpu().double()
            for q in questions
        ]
        self.latest: list[tuple[Tensor, float]] = [(d, 0.0) for d in self.draft]  # mean, spread
        self.noise = torch.randn(
            (DRAWS, len(union) * 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        self.paths = self.noise[:, : len(union)] @ _root(self.kernel).T

    # ------------------------------------------------------------ what is chosen

    def choose(self, i: int, count: int) -> list[int]:
        """The copies that a question needs most, one after another, as if each were scored."""
        question, own = self.questions[i], self.own[i]
        mean, spread = self.latest[i]
        around = weigh(self.trace, question, mean[own]).flatten().cpu().double()
        away = (self.maps[question.channels.cpu()] - around).norm(dim=1).clamp_min(1e-12).log()
        picks: list[int] = []
        while len(picks) < count:
            variance = (spread**2 * self._variance()[own]).clamp(1e-12, FAR**2)
            worth = mean[own] + variance / 2 + variance.expm1().log() / 2 + away
            worth[torch.isin(own, torch.tensor(self.chosen, dtype=torch.long))] = -torch.inf
            worth = (worth * 1e4).round()  # equal masks are equal, whatever their last bits
            if worth.max() == -torch.inf:
                break
            picks.append(int(own[worth.argmax()]))
            self._add(picks[-1])
        self.mine[i].update(picks)
        return picks

    def _add(self, j: int) -> None:
        """Take a copy among those that are scored: one more row of the Cholesky factor."""
        known = self.rows[:, j]
        left = (self.kernel[j, j] + NOISE - known @ known).clamp_min(NOISE**2).sqrt()
        self.rows = torch.cat([self.rows, ((self.kernel[j] - known @ self.rows) / left)[None]])
        self.chosen.append(j)

    def score(self, picks: Sequence[int]) -> None:
        """Make the passes of the copies that were chosen."""
        new = self.trace.masked_embeddings([self.channels[j] for j in picks])
        self.embeddings = torch.cat([self.embeddings, new])

    # ------------------------------------------------------------ what is guessed

    def _factor(self) -> Tensor:
        """L of K + noise = L Lᵀ among the chosen, made of the rows that are kept."""
        columns = self.rows[:, self.chosen].T.tril()
        known = columns.tril(-1).square().sum(1)
        diagonal = self.kernel.diagonal()[self.chosen] + NOISE - known
        return columns.tril(-1) + diagonal.clamp_min(NOISE**2).sqrt().diag()

    def _carried(self, values: Tensor) -> Tensor:
        """Values (draws, n) at what is chosen, carried to all channels: ordinary kriging."""
        factor = self._factor()
        ones = torch.ones(len(self.chosen), 1, dtype=torch.float64)
        a = torch.linalg.solve_triangular(factor, ones, upper=False)
        v = torch.linalg.solve_triangular(factor, values.T, upper=False)
        level = (a.T @ v) / (a.T @ a)
        carried: Tensor = level + self.rows.T @ (v - a @ level)
        return carried.T

    def _known(self, i: int) -> Tensor:
        scores = self.trace.model.scores(self.embeddings, self.questions[i].prompt)
        return scores.cpu().double()

    def _spread(self, i: int) -> float:
        """Deviation of the process, from a first idea and from what the drafts were wrong by."""
        draft = self.draft[i]
        first = max(float(draft[self.own[i]].std(correction=0)),
                    SPREAD * self.trace.model.logit_scale)  # fmt: skip
        count = len(self.embeddings)
        if count < 2:
            return first
        wrong = self._known(i) - draft[self.chosen]
        factor = self._factor()
        both = torch.stack([torch.ones_like(wrong), wrong], 1)
        a, v = torch.linalg.solve_triangular(factor, both, upper=False).T
        rest = v - a * (a @ v) / (a @ a)
        return float(((rest @ rest + TRUST * first**2) / (count - 1 + TRUST)).sqrt())

    def _variance(self) -> Tensor:
        """Variance of every channel's score for a process of variance 1."""
        variance = self.kernel.diagonal() - self.rows.square().sum(0)
        if self.chosen:
            ones = torch.ones(len(self.chosen), 1, dtype=torch.float64)
            a = torch.linalg.solve_triangular(self._factor(), ones, upper=False)[:, 0]
            variance = variance + (1 - a @ self.rows) ** 2 / (a @ a)
        return variance.clamp_min(0)

    def _mean(self, i: int) -> Tensor:
        """The scores of all channels for a question, known or guessed."""
        mean = self.draft[i].clone()
        if self.chosen:
            known = self._known(i)
            mean += self._carried((known - mean[self.chosen])[None])[0]
            mean[self.chosen] = known
        return mean

    def _drawn(self, i: int, spread: float) -> Tensor:
        """Scores that could be, of all channels: (DRAWS, n)."""
        paths = self.draft[i] + spread * self.paths
        if self.chosen:
            noise = spread * NOISE**0.5 * self.noise[:, -len(self.chosen) :]
            known = self._known(i)
            paths += self._carried(known - paths[:, self.chosen] - noise)
            paths[:, self.chosen] = known
        return paths

    def sharpened(self, i: int) -> Sharpened:
        """The map of a question as far as it is known, and its band."""
        question, own, trace = self.questions[i], self.own[i], self.trace
        passes = len(self.mine[i])
        if torch.isin(own, torch.tensor(self.chosen, dtype=torch.long)).all():
            return Sharpened(full(trace, question), passes, 0.0)
        device = trace.activations.device
        mean, spread = self.latest[i] = self._mean(i), self._spread(i)
        found = weigh(trace, question, mean[own].to(device))
        drawn = weigh(trace, question, self._drawn(i, spread)[:, own].to(device))
        apart = (_unit(drawn) - _unit(found[None])).abs().amax((1, 2))
        band = LEAST + WIDEN * float(apart.cpu().double().quantile(SHARE))
        return Sharpened(found, passes, min(1.0, band))


def _unit(maps: Tensor) -> Tensor:
    """Maps (n, h, w), each min-maxed."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)


def _kernel(masks: Tensor) -> Tensor:
    """How alike the scores of two masks (n, cells) should be: RBF + linear, (n, n)."""
    centred = masks - masks.mean(0)
    products = centred @ centred.T / masks.shape[1]
    own = products.diagonal()
    distances = (own[:, None] + own[None] - 2 * products).clamp_min(0)
    return (-distances / (2 * WIDTH**2)).exp() + LINEAR * products / own.mean().clamp_min(1e-12)


def _root(kernel: Tensor) -> Tensor:
    """A square root of a kernel, equal masks and all."""
    more = 1e-6 * torch.eye(len(kernel), dtype=kernel.dtype)
    root: Tensor = torch.linalg.cholesky(kernel + more)
    return root
