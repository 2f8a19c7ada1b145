"""The four indices, and the shapes that they allow.

Responses are ragged: a response belongs to a prompt, a token to a response, a logit to a token. So
the indices that a value carries are always a *prefix* of `p, i, t, v`: nothing can depend on the
token without depending on the response.
"""

from __future__ import annotations

from typing import Literal

Index = Literal["p", "i", "t", "v"]
Indices = tuple[Index, ...]

SCALAR: Indices = ()
PROMPT: Indices = ("p",)
RESPONSE: Indices = ("p", "i")
TOKEN: Indices = ("p", "i", "t")
VOCAB: Indices = ("p", "i", "t", "v")

MEANING: dict[Index, str] = {
    "p": "prompts of the optimizer step",
    "i": "responses to one prompt",
    "t": "tokens of one response",
    "v": "entries of the vocabulary",
}


def union(*many: Indices) -> Indices:
    """The indices of a value that is computed from several; they are prefixes, so it is the
    longest."""
    return max(many, key=len, default=SCALAR)


def remove(indices: Indices, over: Indices) -> Indices:
    """The rest of `indices` after a reduction over `over`."""
    return tuple(index for index in indices if index not in over)


def over_to(over: Indices) -> Indices:
    """All indices up to the innermost one of `over`, within which a reduction over them runs."""
    return VOCAB[: VOCAB.index(over[-1]) + 1]


def decimal(x: float) -> str:
    """A number in the fewest digits that represent it: `0.2`, `4096`, `1e-06`, `inf`."""
    short = f"{x:g}"
    return short if float(short) == x or x != x else repr(x).removesuffix(".0")


def written(indices: Indices) -> str:
    """`p,i,t`, or `none`, for messages."""
    return ",".join(indices) or "none"
