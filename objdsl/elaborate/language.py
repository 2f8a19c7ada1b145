"""The names that mean something in every file."""

from __future__ import annotations

from objdsl.ir.indices import MEANING, RESPONSE, TOKEN
from objdsl.ir.nodes import Column
from objdsl.ir.ops import FUNCTIONS as UNARY_FUNCTIONS
from objdsl.ir.ops import REDUCTIONS

COLUMNS: dict[str, Column] = {
    "reward": Column("reward", RESPONSE, role="reward"),
    "V": Column("V", TOKEN, trained=True),
    "V_old": Column("V_old", TOKEN),
    "truncated": Column("truncated", RESPONSE, mask=True),
}
FUNCTIONS: dict[str, int] = {
    **dict.fromkeys(UNARY_FUNCTIONS, 1), "sg": 1, "next": 1, "togo": 2, "clip": 3, "min": -2,
    "max": -2,
}  # fmt: skip
"""The number of arguments of each function; -2 is two or more."""

SUBSETS = ("top", "pick")
SAMPLING_NUMBERS = ("group", "temperature", "top_p", "top_k", "staleness")
SAMPLING_FLAGS = ("keep_mask", "keep_routing", "experts")


_MEANINGS = {
    "pi": "the policy that is trained", "old": "the policy at rollout time",
    "mu": "the inference engine that samples", "ref": "the frozen reference policy",
    "reward": "the outcome reward of a response, p,i", "V": "the critic that is trained, p,i,t",
    "V_old": "the critic at rollout time, p,i,t",
    "truncated": "whether a response hit the length limit, p,i",
}  # fmt: skip


def meaning(name: str) -> str:
    """What a name of the language stands for."""
    if name in _MEANINGS:
        return _MEANINGS[name]
    if name in MEANING:
        return f"the index of the {MEANING[name]}"
    if name in FUNCTIONS:
        return "a function"
    return "a reduction" if name in REDUCTIONS or name in SUBSETS else "a value of this file"
