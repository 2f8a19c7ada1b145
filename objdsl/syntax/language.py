"""The names that have a meaning in every file: columns, functions, options of `sample`."""

from __future__ import annotations

from objdsl.ir.columns import BUILT_IN, IDS
from objdsl.ir.indices import MEANING
from objdsl.ir.ops import COUNT, REDUCTIONS
from objdsl.ir.ops import FUNCTIONS as UNARY_FUNCTIONS

COLUMNS = {name: row.leaf for name, row in BUILT_IN.items()}
FUNCTIONS: dict[str, int] = {
    **dict.fromkeys(UNARY_FUNCTIONS, 1), "sg": 1, "next": 1, "togo": 2, "clip": 3, "min": -2,
    "max": -2, "comb": 2,
}  # fmt: skip
"""The number of arguments of each function; -2 is two or more."""

SUBSETS = ("top", "pick")
ORDERED = ("median", "quantile", "rank", "trim", "topk", "nucleus")
"""Names that are written before brackets, like reductions."""
SOFT = (*ORDERED, COUNT, "comb", "logsumexp", IDS.leaf.name)
"""Names of the language that a file may redefine."""
SAMPLING_NUMBERS = ("group", "temperature", "top_p", "top_k", "staleness")
SAMPLING_FLAGS = ("keep_mask", "keep_routing", "experts")
SAMPLING_COLUMNS = ("branch",)


_MEANINGS = {
    "pi": "the policy that is trained", "old": "the policy at rollout time",
    "mu": "the inference engine that samples", "ref": "the frozen reference policy",
    **{name: row.meaning for name, row in BUILT_IN.items()},
}  # fmt: skip


def meaning(name: str) -> str:
    """The meaning of a name of the language."""
    if name in _MEANINGS:
        return _MEANINGS[name]
    if name in MEANING:
        return f"the index of the {MEANING[name]}"
    if name in FUNCTIONS:
        return "a function"
    reduces = name in (*REDUCTIONS, *SUBSETS, *ORDERED, COUNT)
    return "a reduction" if reduces else "a value of this file"
