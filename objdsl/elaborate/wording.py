"""Pieces of messages."""

from __future__ import annotations

from objdsl.ir.indices import MEANING, Index, Indices, remove
from objdsl.syntax import tree


def runs_over(indices: Indices) -> str:
    return "all " + MEANING[indices[-1]] if len(indices) == 1 else {
        ("p", "i"): "the responses of the step", ("i", "t"): "the tokens of a group",
        ("p", "i", "t"): "the tokens of the step",
    }.get(indices, "all of " + ",".join(indices))  # fmt: skip


def index_name(index: Index) -> str:
    return {"p": "prompt", "i": "response", "t": "token", "v": "vocabulary"}[index]


def reduce_hint(have: Indices, want: Indices) -> str:
    extra = remove(have, want)
    if not extra:
        return "it is the same for all of them"
    nested = " ".join(f"mean[{index}]" for index in extra)
    if len(extra) == 1:
        return f"reduce it: `{nested} ...`"
    return f"reduce it: `{nested} ...`, or `mean[{','.join(extra)}] ...` with one denominator"


def shown(node: tree.Expression) -> str:
    text = " ".join(node.span.text.split())
    return f"`{text}`" if len(text) <= 30 else "this"


def cut(text: str) -> str:
    """A piece of text on one line, shortened if it is long."""
    text = " ".join(text.split())
    return text if len(text) <= 30 else text[:27].rstrip() + "..."
