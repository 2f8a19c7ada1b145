"""Where the responses of a step come from: a sampler and rewards, or a data set of preferences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch

from objdsl.frozen import dataclass
from objdsl.ir.evaluate import Batch as RaggedBatch
from objdsl.ir.evaluate import evaluate
from objdsl.ir.indices import TOKEN
from objdsl.objective import Objective
from objdsl.runtime.data.judge import shown
from objdsl.runtime.data.rewards import Judged, RewardError, Rewards, Scores
from objdsl.runtime.data.tasks import Example, Prompt, chosen_at, columns_of
from objdsl.runtime.engines.batch import Batch, collate
from objdsl.runtime.engines.sampler import Request, Response, Sampler, Sampling, seed_of
from objdsl.runtime.report.metrics import DOCUMENTED, Clock, Sample
from objdsl.runtime.settings.config import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A response column that the runtime makes itself: the reward of the greedy response to the prompt.
GREEDY = "greedy"


@dataclass(frozen=True, slots=True)
class Rollout:
    """The responses of a step.

    Attributes:
        position: in the task's order, after the prompts that were taken.
        metrics: measured on the responses, before the policy learns from them.
    """

    batch: Batch
    samples: list[Sample]
    metrics: dict[str, float]
    position: int


class Source(Protocol):
    """Makes the responses of a step."""

    def roll(self, step: int, position: int, clock: Clock) -> Rollout:
        """Step `step`, counted from 0, with the prompts from `position` of the task's order."""


@dataclass(frozen=True, slots=True)
class Place:
    """The vocabulary, device and dtype of the tensors of a batch."""

    vocabulary: int
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Written:
    """A prompt of the step, its responses, and their rewards."""

    prompt: Prompt
    responses: list[Response]
    rewards: list[float]
    columns: dict[str, list[Any]]


@dataclass(frozen=True)
class Sampled:
    """Responses that the sampler writes and the reward functions score.

    Attributes:
        group: responses per prompt.
        count: prompts per step.
        rounds: how often prompts that the objective's `keep` drops are replaced.
        given: response columns that the task or the rewards have to supply.
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
    seed: int

    def roll(self, step: int, position: int, clock: Clock) -> Rollout:
        with clock.phase("sync"):
            self.sampler.update(step)
        written: list[_Written] = []
        tokens = 0
        for attempt in range(self.rounds + 1):
            missing = self.count - len(written)
            indices = chosen_at(position, missing, len(self.prompts), self.seed)
            position += missing
            fresh = self._write([self.prompts[k] for k in indices], (step, attempt), clock)
            tokens += sum(len(r.tokens) for one in fresh for r in one.responses)
            if attempt < self.rounds:
                kept = self._kept(fresh)
                # The step needs responses: the last round is kept completely.
                fresh = [one for one, keep in zip(fresh, kept, strict=True) if keep]
            written += fresh
            if len(written) == self.count:
                break
        with clock.phase("collate"):
            batch = self._collate(written)
        samples = [sample for one in written for sample in self._samples(one)]
        return Rollout(batch, samples, _metrics(written) | {"tokens": tokens}, position)

    @cached_property
    def _columns(self) -> tuple[str, ...]:
        """The columns of the task; a row need not have all of them."""
        return columns_of(prompt.example for prompt in self.prompts)

    def _write(
        self, prompts: Sequence[Prompt], where: tuple[int, int], clock: Clock
    ) -> list[_Written]:
        requests = [
            Request(prompt.tokens, seed_of(self.seed, *where, k, i))
            for k, prompt in enumerate(prompts)
            for i in range(self.group)
        ]
        with clock.phase("sample"):
            responses = self.sampler.generate(requests, self.sampling)
            if GREEDY in self.given:
                baseline = self._greedy(prompts, *where)
        with clock.phase("reward"):
            scores = self._score([p for p in prompts for _ in range(self.group)], responses, *where)
            self._check_kinds(scores)
        written = []
        for k, prompt in enumerate(prompts):
            rows = slice(k * self.group, (k + 1) * self.group)
            columns = {name: values[rows] for name, values in scores.columns.items()}
            for name in self.given:
                if name in self._columns and name not in columns:
                    columns[name] = [number(name, prompt.example)] * self.group
            if GREEDY in self.given:
                columns[GREEDY] = [baseline[k]] * self.group
            written.append(_Written(prompt, responses[rows], scores.reward[rows], columns))
        return written

    def _score(
        self, prompts: Sequence[Prompt], responses: Sequence[Response], *where: int | str
    ) -> Scores:
        """`where` identifies the call: it determines the random numbers of a function."""
        judged = Judged(
            prompts=[prompt.example.text for prompt in prompts],
            completions=self._texts(responses),
            truncated=[response.truncated for response in responses],
            columns={
                name: [prompt.example.columns.get(name) for prompt in prompts]
                for name in self._columns
            },
            tokens=[response.tokens for response in responses],
            places=[prompt.example.name for prompt in prompts],
        )
        return self.rewards(judged, seed_of(self.seed, "reward", *where))

    def _check_kinds(self, scores: Scores) -> None:
        """Raises RewardError for a column per token where the objective reads one per response."""
        for name in self.given:
            values = scores.columns.get(name, [])
            of_tokens = bool(values) and isinstance(values[0], list)
            if values and of_tokens != (self.objective.columns[name].indices == TOKEN):
                wanted, got = ("response", "token") if of_tokens else ("token", "response")
                raise RewardError(
                    f"the objective reads the column `{name}` with a number per {wanted}, and the "
                    f"reward functions return one per {got}"
                )

    def _texts(self, responses: Sequence[Response]) -> list[str]:
        rows = [list(response.tokens) for response in responses]
        texts: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return texts

    def _greedy(self, prompts: Sequence[Prompt], *where: int | str) -> list[float]:
        greedy = replace(self.sampling, temperature=0.0, top_p=1.0, top_k=None, keep_mask=False)
        requests = [Request(prompt.tokens, 0) for prompt in prompts]
        responses = self.sampler.generate(requests, greedy)
        return self._score(prompts, responses, "greedy", *where).reward

    def evaluate(self, prompts: Sequence[Prompt]) -> float:
        """Mean reward of the greedy responses, under the weights of the sampler's last update."""
        rewards = self._greedy(prompts)
        return sum(rewards) / len(rewards)

    def _kept(self, written: Sequence[_Written]) -> list[bool]:
        """Which prompts the objective's `keep` keeps."""
        keep = self.objective.formula.keep
        if keep is None:
            return [True] * len(written)
        responses = [response for one in written for response in one.responses]
        columns: dict[str, list[Any]] = {
            "reward": [reward for one in written for reward in one.rewards],
            "truncated": [response.truncated for response in responses],
            "log_mu": [list(response.log_probs) for response in responses],
        }
        for name in written[0].columns:
            columns[name] = [value for one in written for value in one.columns[name]]
        groups = [k for k, one in enumerate(written) for _ in one.responses]
        lengths = [len(response.tokens) for response in responses]
        try:
            (kept,) = evaluate([keep], RaggedBatch(groups, lengths, columns), self.objective.params)
        except KeyError as error:
            raise ConfigError(
                [
                    f"sampler.resample: `keep` of {self.objective.name} reads the column {error}, "
                    "which is not known before the optimizer step"
                ]
            ) from None
        return [bool(one) for one in kept]

    def _collate(self, written: Sequence[_Written]) -> Batch:
        columns = {"reward": [reward for one in written for reward in one.rewards]}
        for name in self.given:
            if name in written[0].columns:
                columns[name] = [value for one in written for value in one.columns[name]]
        return collate(
            [one.prompt.tokens for one in written for _ in one.responses],
            [k for k, one in enumerate(written) for _ in one.responses],
            [response for one in written for response in one.responses],
            columns,
            vocabulary=self.place.vocabulary,
            device=self.place.device,
            dtype=self.place.dtype,
        )

    def _samples(self, one: _Written) -> list[Sample]:
        texts = self._texts(one.responses)
        return [
            Sample(
                one.prompt.example.text,
                text,
                one.rewards[k],
                {name: values[k] for name, values in one.columns.items()},
            )
            for k, text in enumerate(texts)
        ]


def number(name: str, example: Example) -> float:
    """A column of the task that the objective reads. Raises ConfigError unless it is a number."""
    value = example.columns.get(name)
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(
            [f"{example.name}: the column `{name}` is {shown(value)}: the objective reads a number"]
        )
    return found


def _metrics(written: Sequence[_Written]) -> dict[str, float]:
    responses = [response for one in written for response in one.responses]
    rewards = [reward for one in written for reward in one.rewards]
    count = len(responses)
    found = {
        "reward": sum(rewards) / count,
        "length": sum(len(response.tokens) for response in responses) / count,
        "truncated": sum(response.truncated for response in responses) / count,
        "zero_variance": sum(len(set(one.rewards)) == 1 for one in written) / len(written),
    }
    for name in written[0].columns:
        values = [value for one in written for value in one.columns[name]]
        if isinstance(values[0], list):  # a column of tokens: the mean over all tokens
            values = [number for row in values for number in row]
        # Metrics of the run keep their names.
        own = f"column_{name}" if name in DOCUMENTED or name.startswith("seconds") else name
        found[own] = sum(values) / len(values)
    return found


# --- preferences ---------------------------------------------------------------------------------

# Columns that describe the responses of a preference pair.
OF_PREFERENCES = ("chosen", "desirable", "mismatched")


def has_preferences(prompts: Sequence[Prompt], columns: Mapping[str, str]) -> bool:
    """Whether the task comes with pairs of a preferred and a dispreferred response."""
    return any(
        all(name in prompt.example.columns for name in columns.values()) for prompt in prompts
    )


def preferred(example: Example, column: str) -> str:
    """The text of a response of the task: a text, or one message of an assistant.

    Raises ConfigError for anything else.
    """
    match example.columns.get(column):
        case str(text) | [{"role": "assistant", "content": str(text)}]:
            return text
        case other:
            raise ConfigError(
                [f"{example.name}: `{column}` is {shown(other)}: the text of a response is needed"]
            )


@dataclass(frozen=True)
class Preferences:
    """The preferred and the dispreferred response of a dataset: nothing is sampled.

    Both have the columns `chosen` and `desirable`, 1 and 0. Where the objective asks for responses
    that are `mismatched`, each prompt also has the two responses of a different prompt of the step.

    Attributes:
        names: the task's columns with the two texts, under `chosen` and `rejected`.
        given: columns of the task that the objective reads.
    """

    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[Prompt]
    place: Place
    names: Mapping[str, str]
    given: tuple[str, ...]
    mismatched: bool
    count: int
    seed: int

    @property
    def rows(self) -> int:
        """Responses per prompt."""
        return 4 if self.mismatched else 2

    def roll(self, step: int, position: int, clock: Clock) -> Rollout:
        with clock.phase("collate"):
            indices = chosen_at(position, self.count, len(self.prompts), self.seed)
            pairs = [(k, k) for k in indices]
            if self.mismatched:
                pairs = [both for k in indices for both in ((k, k), (k, self._other(k, indices)))]
            prompts = [self.prompts[k] for k, _ in pairs for _ in range(2)]
            responses = [
                self._response(preferred(self.prompts[k].example, self.names[kind]))
                for _, k in pairs
                for kind in ("chosen", "rejected")
            ]
            is_chosen = [1.0, 0.0] * len(pairs)
            columns = {
                "chosen": is_chosen,
                "desirable": is_chosen,
                "mismatched": [float(own != other) for own, other in pairs for _ in range(2)],
            }
            for name in self.given:
                columns[name] = [number(name, prompt.example) for prompt in prompts]
            batch = collate(
                [prompt.tokens for prompt in prompts],
                [k for k in range(len(indices)) for _ in range(self.rows)],
                responses,
                columns,
                vocabulary=self.place.vocabulary,
                device=self.place.device,
                dtype=self.place.dtype,
            )
        columns_of_step = {name: x for name, x in batch.columns.items() if name != "log_mu"}
        lengths = [len(response.tokens) for response in responses]
        metrics = {"length": sum(lengths) / len(lengths), "tokens": sum(lengths)}
        batch = replace(batch, columns=columns_of_step)
        return Rollout(batch, [], metrics, position + self.count)

    def _other(self, own: int, indices: Sequence[int]) -> int:
        """The prompt of the step after `own`, whose responses do not answer it."""
        at = indices.index(own)
        return next((k for k in (*indices[at + 1 :], *indices) if k != own), own)

    def _response(self, text: str) -> Response:
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = (*tokens, int(self.tokenizer.eos_token_id))
        return Response(tokens, (0.0,) * len(tokens), truncated=False)
