"""Responses that the sampler writes and the reward functions score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from objdsl.frozen import dataclass
from objdsl.ir.evaluate import Batch as RaggedBatch
from objdsl.ir.evaluate import evaluate
from objdsl.objective import Objective
from objdsl.runtime.data.example import columns_of
from objdsl.runtime.data.judged import Judged
from objdsl.runtime.data.prompts import Prompt, chosen_at
from objdsl.runtime.data.rewards import RewardError, Rewards, Scores
from objdsl.runtime.engines.batch import Batch, collate
from objdsl.runtime.engines.sampler import Request, Response, Sampler, Sampling, seed_of
from objdsl.runtime.learning.monitors import RIGHT, is_right, of_lengths
from objdsl.runtime.learning.optimizer import TrainingError
from objdsl.runtime.learning.rollout import Place, Rollout, number
from objdsl.runtime.learning.supplied import (
    LOSS_MASK,
    check_domains,
    check_kinds,
    learned_tokens,
)
from objdsl.runtime.report.metrics import Clock, Sample, is_metric
from objdsl.runtime.settings.config import ConfigError
from objdsl.step.states import States

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A response column that the runtime makes itself: the reward of the greedy response to the prompt.
GREEDY = "greedy"


@dataclass(frozen=True, slots=True)
class _Group:
    """A prompt of the step, its responses, and their rewards.

    Attributes:
        learned: the positions of the tokens of each response that the objective sees.
    """

    prompt: Prompt
    responses: list[Response]
    rewards: list[float]
    columns: dict[str, list[Any]]
    learned: list[Sequence[int]]


@dataclass(frozen=True)
class Sampled:
    """Responses that the sampler writes and the reward functions score.

    Attributes:
        group: responses per prompt.
        count: prompts per step.
        rounds: how often prompts that the objective's `keep` drops are replaced.
        given: response columns that the task or the reward functions supply.
        right: the least reward of a response that counts as right.
        say: reports prompts that are dropped because a reward function fails.
    """

    sampler: Sampler
    sampling: Sampling
    objective: Objective
    rewards: Rewards
    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[Prompt]
    place: Place
    count: int
    group: int
    rounds: int
    given: tuple[str, ...]
    right: float
    seed: int
    say: Callable[[str], None]

    def roll(self, step: int, position: int, clock: Clock, states: States) -> Rollout:
        with clock.phase("sync"):
            self.sampler.update(step)
        groups: list[_Group] = []
        dropped: list[_Group] = []
        tokens = tried = scored = 0
        for attempt in range(self.rounds + 1):
            size = self._round_size(len(groups), len(groups) + len(dropped))
            indices = chosen_at(position, size, len(self.prompts), self.seed)
            position += size
            new = self._sample([self.prompts[k] for k in indices], (step, attempt), clock)
            tried, scored = tried + size, scored + len(new)
            tokens += sum(len(response.tokens) for group in new for response in group.responses)
            if self.rounds:
                kept = self._kept(new, states)
                dropped += [group for group, keep in zip(new, kept, strict=True) if not keep]
                new = [group for group, keep in zip(new, kept, strict=True) if keep]
            groups += new
            if len(groups) >= self.count:
                break
        if len(groups) < self.count and dropped:  # others are missing without a reward
            raise TrainingError(
                f"{attempt + 1} rounds of sampling gave {len(groups)} of {self.count} prompts that "
                f"`keep` of {self.objective.name} keeps, and it dropped {len(dropped)}, whose "
                f"responses have a mean reward of {_mean(_rewards(dropped)):.3g}: allow more "
                "(sampler.resample), choose other prompts, or set sampler.resample to 0 to learn "
                "from those that there are"
            )
        groups, spare = groups[: self.count], groups[self.count :]
        with clock.phase("collate"):
            remembered = [*spare, *dropped] if self.objective.formula.states else []
            everything = [*groups, *remembered]
            batch = self._collate(everything, states)
        counts = {"tokens": tokens}
        if self.rounds and self.objective.formula.keep is not None:
            counts |= {"rounds": attempt + 1, "dropped": len(dropped)}
        samples = [sample for group in groups for sample in self._samples(group)]
        # Rewards of kept prompts say little about the policy: those of solved ones are dropped.
        drawn = [*groups, *spare, *dropped]
        lengths = [len(response.tokens) for response in _responses(drawn)]
        metrics = _metrics(drawn) | of_lengths(lengths, self._right(drawn)) | counts
        metrics["zero_variance"] = sum(len({*group.rewards}) == 1 for group in groups) / len(groups)
        if self.rewards.may_fail:
            metrics["unscored"] = 1 - scored / tried
        learned = slice(0, len(_responses(groups))) if remembered else None
        return Rollout(batch, samples, metrics, position, _keys(everything), learned)

    def _round_size(self, kept: int, drawn: int) -> int:
        """The prompts of a round: as many as are missing, or more where part of those that were
        drawn so far have been dropped."""
        missing = self.count - kept
        return missing if not drawn else min(self.count, -(-missing * drawn // max(kept, 1)))

    @cached_property
    def _columns(self) -> tuple[str, ...]:
        """The columns of the task; not every row has all of them."""
        return columns_of(prompt.example for prompt in self.prompts)

    def _sample(
        self, prompts: Sequence[Prompt], where: tuple[int, int], clock: Clock
    ) -> list[_Group]:
        requests = [
            Request(prompt.tokens, seed_of(self.seed, *where, k, i))
            for k, prompt in enumerate(prompts)
            for i in range(self.group)
        ]
        with clock.phase("sample"):
            responses = self.sampler.generate(requests, self.sampling)
            baseline = [0.0] * len(prompts)
            if GREEDY in self.given:
                _, baseline = self.greedy(prompts, *where)
        with clock.phase("reward"):
            judged = self._judged([p for p in prompts for _ in range(self.group)], responses)
            scores = self._score(judged, *where)
            kept = [
                k
                for k in range(len(prompts))
                if not math.isnan(math.fsum((baseline[k], *scores.reward[self._rows(k)])))
            ]
            if len(kept) < len(prompts):
                if not kept:
                    raise RewardError("no prompt of the step has rewards for all its responses")
                left = [i for k in kept for i in range(len(responses))[self._rows(k)]]
                prompts, baseline = [prompts[k] for k in kept], [baseline[k] for k in kept]
                responses = [responses[i] for i in left]
                judged, scores = judged[left], scores[left]
            check_kinds(self.objective, self.given, scores)
            learned = learned_tokens(self.objective, scores, judged)
            check_domains(self.objective, self.given, scores, judged, learned)
        groups = []
        for k, prompt in enumerate(prompts):
            rows = self._rows(k)
            columns = {name: values[rows] for name, values in scores.columns.items()}
            for name in self.given:
                if name in self._columns and name not in columns:
                    columns[name] = [number(name, prompt.example)] * self.group
            if GREEDY in self.given:
                columns[GREEDY] = [baseline[k]] * self.group
            groups.append(
                _Group(
                    prompt,
                    responses[rows],
                    scores.reward[rows],
                    columns,
                    learned[rows],
                )
            )
        return groups

    def _rows(self, prompt: int) -> slice:
        """The responses to a prompt of the step."""
        return slice(prompt * self.group, (prompt + 1) * self.group)

    def _score(self, judged: Judged, *where: int | str) -> Scores:
        """The scores of responses, NaN for those that a reward function failed for.

        Args:
            where: seeds the random numbers of the functions.
        """
        scores = self.rewards(judged, seed_of(self.seed, "reward", *where))
        for why in dict.fromkeys(scores.failures.values()):
            self.say(f"responses are dropped: {why}")
        return scores

    def _judged(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Judged:
        return Judged(
            prompts=[prompt.example.text for prompt in prompts],
            completions=self._texts(responses),
            truncated=[response.truncated for response in responses],
            columns={
                name: [prompt.example.columns.get(name) for prompt in prompts]
                for name in self._columns
            },
            tokens=[response.tokens for response in responses],
            places=[prompt.example.name for prompt in prompts],
            pieces=self._pieces(responses) if self.rewards.reads_pieces else None,
            encoded=prompts,
        )

    def _texts(self, responses: Sequence[Response]) -> list[str]:
        rows = [list(response.tokens) for response in responses]
        texts: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return texts

    def _pieces(self, responses: Sequence[Response]) -> list[list[str]]:
        """The text of each token; a special token has none."""
        flat = [[token] for response in responses for token in response.tokens]
        texts = iter(self.tokenizer.batch_decode(flat, skip_special_tokens=True))
        return [[next(texts) for _ in response.tokens] for response in responses]

    def greedy(
        self, prompts: Sequence[Prompt], *where: int | str
    ) -> tuple[Sequence[str], list[float]]:
        """The texts and the rewards of the greedy responses."""
        greedy = replace(self.sampling, temperature=0.0, top_p=1.0, top_k=None, keep_mask=False)
        return self.attempt(prompts, greedy, "greedy", *where)

    def attempt(
        self, prompts: Sequence[Prompt], sampling: Sampling, *where: int | str
    ) -> tuple[Sequence[str], list[float]]:
        """The texts and the rewards of a response to each prompt, under the weights of the
        sampler's last update; `where` seeds them. The reward is NaN where a function failed."""
        requests = [
            Request(prompt.tokens, seed_of(self.seed, *where, k))
            for k, prompt in enumerate(prompts)
        ]
        judged = self._judged(prompts, self.sampler.generate(requests, sampling))
        return judged.completions, self._score(judged, *where).reward

    def _kept(self, groups: Sequence[_Group], states: States) -> list[bool]:
        """Which prompts the objective's `keep` keeps."""
        keep = self.objective.formula.keep
        if keep is None:
            return [True] * len(groups)
        responses, learned = _responses(groups), _learned(groups)
        columns: dict[str, list[Any]] = {
            "reward": _rewards(groups),
            "truncated": [response.truncated for response in responses],
            "log_mu": [
                [response.log_probs[t] for t in places]
                for response, places in zip(responses, learned, strict=True)
            ],
        }
        for name in groups[0].columns:
            columns[name] = _column(groups, name)
        columns |= self.objective.recall(states, _keys(groups), **columns)
        prompts = [k for k, group in enumerate(groups) for _ in group.responses]
        lengths = [len(places) for places in learned]
        try:
            (kept,) = evaluate(
                [keep], RaggedBatch(prompts, lengths, columns), self.objective.params
            )
        except KeyError as error:
            raise ConfigError(
                [
                    f"sampler.resample: `keep` of {self.objective.name} reads the column {error}, "
                    "which is not known before the optimizer step"
                ]
            ) from None
        return [bool(x) for x in kept]

    def _collate(self, groups: Sequence[_Group], states: States) -> Batch:
        columns: dict[str, Any] = {"reward": _rewards(groups)}
        columns[RIGHT] = [float(x) for x in self._right(groups)]
        for name in self.given:
            if name in groups[0].columns:
                columns[name] = _column(groups, name)
        columns |= self.objective.recall(states, _keys(groups), **columns)
        return collate(
            [group.prompt.tokens for group in groups for _ in group.responses],
            [k for k, group in enumerate(groups) for _ in group.responses],
            _responses(groups),
            columns,
            learned=_learned(groups),
            vocabulary=self.place.vocabulary,
            device=self.place.device,
            dtype=self.place.dtype,
        )

    def _right(self, groups: Sequence[_Group]) -> list[bool]:
        return [is_right(reward, self.right) for reward in _rewards(groups)]

    def _samples(self, group: _Group) -> list[Sample]:
        return [
            Sample(
                group.prompt.example.text,
                text,
                group.rewards[k],
                {name: values[k] for name, values in group.columns.items()},
            )
            for k, text in enumerate(self._texts(group.responses))
        ]


def _responses(groups: Sequence[_Group]) -> list[Response]:
    return [response for group in groups for response in group.responses]


def _rewards(groups: Sequence[_Group]) -> list[float]:
    return [reward for group in groups for reward in group.rewards]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _keys(groups: Sequence[_Group]) -> tuple[str, ...]:
    """The key of the prompt of each response."""
    return tuple(key for group in groups for key in [group.prompt.example.key] * len(group.rewards))


def _learned(groups: Sequence[_Group]) -> list[Sequence[int]]:
    """The positions of the tokens of each response that the objective sees."""
    return [places for group in groups for places in group.learned]


def _column(groups: Sequence[_Group], name: str) -> list[Any]:
    """A number per response, or a list of one per token that the objective sees."""
    values = [value for group in groups for value in group.columns[name]]
    if not isinstance(values[0], list):
        return values
    return [[row[t] for t in places] for row, places in zip(values, _learned(groups), strict=True)]


def _metrics(groups: Sequence[_Group]) -> dict[str, float]:
    responses, rewards = _responses(groups), _rewards(groups)
    count = len(responses)
    metrics = {
        "reward": sum(rewards) / count,
        "length": sum(len(response.tokens) for response in responses) / count,
        "truncated": sum(response.truncated for response in responses) / count,
    }
    for name in groups[0].columns:
        if name == LOSS_MASK:  # the share of tokens that are learned from
            values = [value for group in groups for value in group.columns[name]]
        else:
            values = _column(groups, name)
        if isinstance(values[0], list):  # a column of tokens: the mean over tokens
            values = [number for row in values for number in row]
        # Metrics of the run keep their names.
        is_taken = is_metric(name)
        metrics[f"column_{name}" if is_taken else name] = sum(values) / len(values)
    return metrics
