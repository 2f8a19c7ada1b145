"""The schedule of the fused head: the order of its matrix products, and what they cost.

One unit of work is a matrix product of tokens x hidden x vocabulary. The logits need one, the
gradients of the hidden states and of the head one each; computing the logits twice is a fourth.
"""

from __future__ import annotations

from typing import Literal

from objdsl.analysis.schedule.coupling import Coupled, Coupling
from objdsl.frozen import dataclass

Schedule = Literal[
    "one pass",
    "one pass, whole responses",
    "one pass, scaled afterwards",
    "one pass, whole step",
    "two passes",
]

# Bytes besides inputs and gradients: larger chunks add the head's gradient up less often.
BUDGET = 4 << 30
FEWEST_TOKENS = 256
"""The fewest tokens of a chunk, however small the budget is, unless `plan` is given a number."""
_MOST_TOKENS = 8192
# Vocabulary entries of a slice.
_NARROWEST, _WIDEST = 1024, 8192
# Copies of the logits where every vocabulary entry has a weight: the weights, distributions, and
# what is computed from them.
_EVERY = 6
# Tokens whose logits take as long to compute as a float32 matrix [V, H] takes to be read or
# written: 2VH operations at 790 TFLOP/s beside 4VH bytes at 4.3 TB/s, as on an H200.
_MATRIX = 370


@dataclass(frozen=True)
class Sizes:
    """The sizes of a step: `tokens` without padding, `longest` of them in one response."""

    tokens: int
    longest: int
    hidden: int
    vocabulary: int
    weight_bytes: int = 4
    """Bytes per number of the hidden states and of the head."""
    acc_bytes: int = 4
    """Bytes per number of the dtype of logits and sums: 4, or 8 in float64."""
    frozen_head: bool = False
    """Whether the head itself has no gradient, as under LoRA."""
    softcap: bool = False
    kept: bool = False
    """Whether a mask says which part of the vocabulary the sampler kept at each token."""
    sequence_parallel: bool = False
    """Whether the tokens of a response are on several ranks."""
    parts: int = 1
    """Low-precision matrices whose sum is the head; if there are several, its gradient has the
    accumulation dtype."""

    @property
    def logit(self) -> int:
        """Bytes per logit: itself, the derivative of its cap, whether its entry was kept."""
        return self.acc_bytes * (1 + self.softcap) + self.kept

    @property
    def state(self) -> int:
        """Bytes per hidden state: a copy, the sum that is its gradient, and a summand of that."""
        return (self.weight_bytes + 2 * self.acc_bytes) * self.hidden

    @property
    def split(self) -> int:
        """Bytes of the low-precision parts of a head, if it has several."""
        return (
            self.parts * self.weight_bytes * self.vocabulary * self.hidden if self.parts > 1 else 0
        )

    @property
    def columns(self) -> int:
        """Bytes of the values per token: log-probabilities, weights, places."""
        return 8 * 8 * self.tokens

    @property
    def copied(self) -> int:
        """Bytes beside each logit of a slice: a low-precision copy of its gradient, if products
        need one, or a summand of the logits of a head in parts."""
        if self.parts > 1:
            return self.acc_bytes
        return self.weight_bytes if self.weight_bytes < self.acc_bytes else 0


@dataclass(frozen=True)
class Plan:
    """A schedule with its sizes.

    Attributes:
        chunk: tokens whose logits are in memory at a time.
        slice: vocabulary entries whose gradient is formed at a time, in the second of two passes,
            and wherever products read a lower precision than that of the logits.
        units: matrix products of tokens x hidden x vocabulary, if every token has a weight.
        scratch: the most bytes besides inputs and gradients, on a device that multiplies numbers of
            low precision into sums of higher precision.
        reason: why this schedule was chosen.
    """

    schedule: Schedule
    chunk: int
    slice: int
    units: float
    scratch: int
    reason: str


def legal(coupled: Coupled, *, sequence_parallel: bool = False) -> tuple[Schedule, ...]:
    """The schedules that compute the objective, in order of their number of products.

    Args:
        sequence_parallel: whether the tokens of a response are on several ranks.
    """
    if sequence_parallel:
        if coupled.distribution is not None:
            return ()
        return ("one pass", "two passes") if coupled.worst <= Coupling.TOKEN else ("two passes",)
    if coupled.distribution is not None:
        whole = coupled.worst is Coupling.STEP
        return ("one pass, whole step",) if whole else ("one pass, whole responses",)
    if coupled.worst is Coupling.STEP:
        return ("one pass, whole step", "two passes")
    if coupled.worst is not Coupling.RESPONSE:
        return ("one pass", "one pass, whole responses", "two passes")
    if coupled.separated is None:
        return ("one pass, whole responses", "two passes")
    return ("one pass, whole responses", "one pass, scaled afterwards", "two passes")


def plan(
    coupled: Coupled,
    sizes: Sizes,
    *,
    budget: int = BUDGET,
    schedule: Schedule | None = None,
    fewest_tokens: int = FEWEST_TOKENS,
) -> Plan:
    """The cheapest schedule that fits.

    Args:
        budget: bytes besides inputs and gradients.
        schedule: the schedule to plan, instead of the cheapest.
        fewest_tokens: the smallest chunk, however small the budget is.

    Raises:
        ValueError: the requested schedule does not compute this objective; or none does.
    """
    possible = legal(coupled, sequence_parallel=sizes.sequence_parallel)
    if not possible:
        raise ValueError(
            "weights of every vocabulary entry need whole responses, each on a single rank"
        )
    if schedule is not None and schedule not in possible:
        raise ValueError(f"`{schedule}` is not possible: {_why(coupled)}; {', '.join(possible)} is")
    chosen = schedule or possible[0]
    reason = _why(coupled)
    if sizes.sequence_parallel and coupled.worst is Coupling.RESPONSE:
        reason += ", which are on several ranks"
    single = _OnePass(sizes, fewest_tokens, every=coupled.distribution is not None)
    later = _OnePass(sizes, fewest_tokens, later=True)
    chunk = single.chunk(budget, sizes.tokens)
    together = {"one pass, whole responses": sizes.longest, "one pass, whole step": sizes.tokens}
    needed = together.get(chosen, 1)
    if schedule is None and needed > single.fit(budget):
        if "one pass, scaled afterwards" in possible and later.pays(later.most(budget)):
            chosen = "one pass, scaled afterwards"
        elif "two passes" in possible:
            chosen = "two passes"
        reason += f"; {needed} tokens do not fit into {budget >> 20} MiB"
    match chosen:
        case "two passes":
            two = _TwoPasses(sizes)
            width = two.width(budget)
            units = 2 + 2 * sizes.parts - sizes.frozen_head
            return Plan(chosen, chunk, width, units, two.scratch(chunk, width), reason)
        case "one pass, whole responses" | "one pass, whole step":
            chunk = max(chunk, needed)
        case "one pass, scaled afterwards":
            single, chunk = later, later.chunk(budget, sizes.longest)
    units = 2 + sizes.parts - sizes.frozen_head
    return Plan(chosen, chunk, single.width, units, single.scratch(chunk), reason)


@dataclass(frozen=True)
class _OnePass:
    """The bytes of one pass.

    Attributes:
        every: whether every vocabulary entry has a weight.
        later: whether the part of the head's gradient that comes from a long response is summed up
            separately, and scaled when the response is complete.
    """

    sizes: Sizes
    fewest_tokens: int
    every: bool = False
    later: bool = False

    @property
    def width(self) -> int:
        return min(_WIDEST, self.sizes.vocabulary)

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on chunks: the head's gradient is summed up in the accumulation
        dtype before it is rounded to its own."""
        s = self.sizes
        if s.frozen_head:
            return s.split
        separate = s.split + (s.acc_bytes * s.vocabulary * s.hidden if self.later else 0)
        if not s.copied:
            return separate
        wider = s.acc_bytes - s.weight_bytes if s.parts == 1 else 0
        return separate + (wider * s.vocabulary + s.acc_bytes * self.width) * s.hidden

    @property
    def token(self) -> int:
        """Bytes per token of a chunk: its logits, which become their gradient, and hidden state."""
        s = self.sizes
        logits = s.logit + (_EVERY * s.acc_bytes if self.every else 0)
        return logits * s.vocabulary + s.copied * self.width + s.state

    def fit(self, budget: int) -> int:
        """Tokens whose logits fit."""
        left = budget - self.sizes.columns - self.fixed
        return max(left // self.token, self.fewest_tokens)

    def most(self, budget: int) -> int:
        """The most tokens of a chunk: larger chunks are no faster."""
        return min(self.fit(budget), _MOST_TOKENS)

    def chunk(self, budget: int, tokens: int) -> int:
        """Tokens per chunk, such that all chunks have about the same size."""
        tokens = max(tokens, 1)
        return -(-tokens // -(-tokens // self.most(budget)))

    def pays(self, chunk: int) -> bool:
        """Whether scaling the longest response is cheaper than computing its logits again.

        The separate sum is written for each chunk, then added, then set to 0.
        """
        longest = self.sizes.longest
        matrices = 4 + 2 * -(-longest // chunk)
        return self.sizes.frozen_head or longest > matrices * _MATRIX

    def scratch(self, chunk: int) -> int:
        s = self.sizes
        most = self.fixed + chunk * self.token
        if s.copied and not s.frozen_head and s.parts == 1:
            # In the end there are the sum over chunks and the gradient to which it is rounded.
            most = max(most, s.acc_bytes * s.vocabulary * s.hidden)
        return most + s.columns


@dataclass(frozen=True)
class _TwoPasses:
    """The bytes of two passes: first chunks of tokens, then slices of the vocabulary."""

    sizes: Sizes

    def slice(self, width: int) -> int:
        """Bytes of the second pass: hidden states, slices of the logits and the head's gradient."""
        s = self.sizes
        return (
            s.split
            + s.tokens * s.state
            + (s.tokens * (s.logit + s.copied) + s.acc_bytes * s.hidden) * width
        )

    def width(self, budget: int) -> int:
        s = self.sizes
        entry = self.slice(1) - self.slice(0)
        most = max((budget - s.columns - self.slice(0)) // entry, _NARROWEST)
        return min(most, _WIDEST, s.vocabulary)

    def scratch(self, chunk: int, width: int) -> int:
        s = self.sizes
        summand = s.copied * min(_WIDEST, s.vocabulary)
        first = s.split + chunk * (s.logit * s.vocabulary + summand + s.weight_bytes * s.hidden)
        return max(first, self.slice(width)) + s.columns


def _why(coupled: Coupled) -> str:
    if coupled.distribution is not None:
        return "every vocabulary entry has a weight"
    if coupled.separated is not None:
        return "a factor of the weights needs the log-probabilities of its response"
    return {
        Coupling.KNOWN: "the weight is known before the forward pass",
        Coupling.TOKEN: "the weight of a token needs its own log-probability alone",
        Coupling.RESPONSE: "the weight of a token needs the log-probabilities of its response",
        Coupling.STEP: "the weight of a token needs the log-probabilities of other responses",
    }[coupled.worst]
