"""Held-out evaluation: greedy rewards, and Pass@k and Maj@k of sampled responses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from objdsl.frozen import dataclass
from objdsl.runtime.data.prompts import Prompt
from objdsl.runtime.data.rewards import LAST_NUMBER, number_in
from objdsl.runtime.learning.monitors import is_right
from objdsl.runtime.learning.sampled import Sampled
from objdsl.runtime.settings.config import EvaluationSection

# The task's own held-out set, whose metrics have no prefix.
OWN = ""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The held-out sets of a run, by name, and how they are measured."""

    source: Sampled
    sets: Mapping[str, Sequence[Prompt]]
    config: EvaluationSection

    def __call__(self) -> dict[str, float]:
        """The metrics of all sets, under the weights of the sampler's last update."""
        return {
            f"{name}/{metric}" if name else metric: value
            for name, prompts in self.sets.items()
            for metric, value in self._measured(name, prompts).items()
        }

    def _measured(self, name: str, prompts: Sequence[Prompt]) -> dict[str, float]:
        source, config = self.source, self.config
        _, rewards = source.greedy(prompts)
        scored = [reward for reward in rewards if not math.isnan(reward)]
        metrics = {"held_out": math.fsum(scored) / len(scored)}
        if not config.samples:
            return metrics
        sampling = replace(
            source.sampling, temperature=config.temperature, top_p=1.0, top_k=None, keep_mask=False
        )
        # A response to every prompt at a time: a set is as large as a batch gets. Every evaluation
        # draws with the same seeds, so that two of them differ by the policy alone.
        drawn = [
            source.attempt(prompts, sampling, "evaluation", name, k) for k in range(config.samples)
        ]
        is_number = config.answers == "number" or (
            config.answers == "auto" and next(iter(source.rewards.names)) == LAST_NUMBER
        )
        failed = {k for _, rewards in drawn for k, x in enumerate(rewards) if math.isnan(x)}
        answers = [[normalised(text, is_number) for text in texts] for texts, _ in drawn]
        right = [[is_right(reward, source.right) for reward in rewards] for _, rewards in drawn]
        rows = enumerate(zip(zip(*answers, strict=True), zip(*right, strict=True), strict=True))
        by_prompt = [row for k, row in rows if k not in failed]
        for k in config.k or sorted({1, config.samples}) if by_prompt else ():
            passed = [pass_at(k, len(row), sum(row)) for _, row in by_prompt]
            metrics[f"pass_at_{k}"] = math.fsum(passed) / len(passed)
            if k > 1:
                voted = [majority_at(k, texts, row) for texts, row in by_prompt]
                metrics[f"maj_at_{k}"] = math.fsum(voted) / len(voted)
        return metrics


def normalised(text: str, is_number: bool) -> str:
    """The answer of a response: its last number, if it has one, or all of it, in lower case and
    with single spaces."""
    number = number_in(text) if is_number else None
    return " ".join(text.split()).casefold() if number is None else f"{number.normalize():f}"


def pass_at(k: int, samples: int, right: int) -> float:
    """The probability that `k` of the samples, without replacement, contain a right response."""
    return float(1 - Fraction(math.comb(samples - right, k), math.comb(samples, k)))


def majority_at(k: int, answers: Sequence[str], right: Sequence[bool]) -> float:
    """The probability that the most frequent answer of `k` of the samples is right.

    Ties are broken at random. An answer is right if most of the responses that give it are.
    """
    counts = Counter(answers)
    votes = Counter(answer for answer, is_so in zip(answers, right, strict=True) if is_so)
    sizes = [(count, 2 * votes[answer] > count) for answer, count in counts.items()]
    total = sum((_won(k, top, sizes) for top in range(1, k + 1)), Fraction(0))
    return float(total / math.comb(len(answers), k))


def _won(k: int, top: int, sizes: Sequence[tuple[int, bool]]) -> Fraction:
    """The number of choices of `k` samples in which the most frequent answer occurs `top` times,
    each weighted by the share of right answers among those that occur so often.

    Args:
        sizes: of each answer, its number of samples, and whether it is right.
    """
    # (samples chosen, answers that occur `top` times, right ones among these) -> choices
    ways = Counter({(0, 0, 0): 1})
    for size, counts_as_right in sizes:
        extended: Counter[tuple[int, int, int]] = Counter()
        for (chosen, tied, right), number in ways.items():
            for more in range(min(size, top, k - chosen) + 1):
                at_top = more == top
                state = (chosen + more, tied + at_top, right + (at_top and counts_as_right))
                extended[state] += number * math.comb(size, more)
        ways = extended
    shares = (
        Fraction(number * right, tied)
        for (chosen, tied, right), number in ways.items()
        if chosen == k and tied
    )
    return sum(shares, Fraction(0))
