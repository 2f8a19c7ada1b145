"""The schedule of the fused head: what is multiplied when, and what that costs.

One unit of work is a matrix product of tokens x hidden x vocabulary. The logits need one, the
gradients by the hidden states and by the head one each; computing the logits twice is a fourth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from objdsl.analysis.coupling import Coupled, Coupling

Schedule = Literal["one pass", "one pass, whole responses", "two passes"]
SCHEDULES: tuple[Schedule, ...] = ("one pass", "one pass, whole responses", "two passes")

# Logits of one chunk, in bytes: larger chunks add the head's gradient up less often.
BUDGET = 4 << 30
_FEWEST, _MOST = 256, 8192
_SLICE = 8192


@dataclass(frozen=True)
class Sizes:
    """What a step is made of: `tokens` live ones, `longest` of them in one response."""

    tokens: int
    longest: int
    hidden: int
    vocabulary: int
    wide: int = 4
    """Bytes of a logit: 4, or 8 in float64."""
    frozen_head: bool = False
    """Whether the head itself takes no gradient, as under LoRA."""


@dataclass(frozen=True)
class Plan:
    """A schedule with its sizes.

    Attributes:
        chunk: tokens whose logits are held at a time.
        slice: words whose gradient is formed at a time, in the second of two passes.
        units: matrix products of tokens x hidden x vocabulary, if every token is live.
        scratch: bytes besides the gradients themselves.
        reason: why this schedule.
    """

    schedule: Schedule
    chunk: int
    slice: int
    units: float
    scratch: int
    reason: str


def legal(coupled: Coupled) -> tuple[Schedule, ...]:
    """The schedules that compute the right thing, the one with the fewest products first."""
    if coupled.words is not None:
        return () if coupled.worst is Coupling.STEP else ("one pass, whole responses",)
    if coupled.worst is Coupling.STEP:
        return ("two passes",)
    if coupled.worst is Coupling.RESPONSE:
        return ("one pass, whole responses", "two passes")
    return SCHEDULES


def plan(
    coupled: Coupled, sizes: Sizes, *, budget: int = BUDGET, schedule: Schedule | None = None
) -> Plan:
    """The cheapest schedule that fits.

    Raises:
        ValueError: the schedule that is asked for does not compute this objective; or none does.
    """
    possible = legal(coupled)
    if not possible:
        raise ValueError("weights of words that depend on other responses have no fused schedule")
    if schedule is not None and schedule not in possible:
        raise ValueError(f"`{schedule}` is not possible: {_why(coupled)}; {', '.join(possible)} is")
    row = sizes.wide * sizes.vocabulary
    chosen = schedule or possible[0]
    reason = _why(coupled)
    too_long = chosen == "one pass, whole responses" and sizes.longest * row > budget
    if too_long and schedule is None and "two passes" in possible:
        chosen = "two passes"
        reason += f"; the logits of {sizes.longest} tokens do not fit into {budget >> 20} MiB"
    chunk = min(max(budget // row, _FEWEST), _MOST, max(sizes.tokens, 1))
    if chosen == "one pass, whole responses":
        chunk = max(chunk, sizes.longest)
    width = min(_SLICE, sizes.vocabulary)
    units = (4 if chosen == "two passes" else 3) - sizes.frozen_head
    logits = sizes.wide * (chunk * sizes.vocabulary)
    if chosen == "two passes":
        logits = max(logits, sizes.wide * sizes.tokens * (width + sizes.hidden))
    return Plan(chosen, chunk, width, units, 2 * logits, reason)


def _why(coupled: Coupled) -> str:
    if coupled.words is not None:
        return "the weight is that of every word"
    return {
        Coupling.KNOWN: "the weight is known before the forward pass",
        Coupling.TOKEN: "the weight of a token needs its own log-probability alone",
        Coupling.RESPONSE: "the weight of a token needs the log-probabilities of its response",
        Coupling.STEP: "the weight of a token needs the log-probabilities of other responses",
    }[coupled.worst]
