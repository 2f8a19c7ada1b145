"""Objectives with names that clash with those of Python and of emitted code."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping

import objdsl
from objdsl.emit.identifiers import PYTHON
from objdsl.emit.stages import ENVIRONMENT, RESERVED
from objdsl.errors import ObjectiveError
from objdsl.source import Source
from objdsl.syntax import tree
from objdsl.syntax.parse import parse

HOSTILE = sorted(
    {
        *PYTHON, *ENVIRONMENT, *RESERVED, "w", "x", "x_2", "x_", "J_terms", "r_above", "divisor",
        "log_ratio", "product", "active", "keep_", "ratio", "reward_mean", "reward_std", "R_mean",
        "n_responses", "n_tokens", "log_pi", "log_x", "w_log_pi", "group_mean", "group_sum",
        "group_std", "group_extreme", "running_sum", "to_rows", "top_mask", "segment", "many", "tl",
        "triton", "z", "d", "c", "y", "W", "BLOCK", "log_p", "num_warps", "self", "step", "steps",
        "lr", "params", "loss", "value", "weights_", "report_step", "r_ext", "x_hard_it", "i_i",
        "y_i_t", "_", "__", "_x", "x__y", "eps_", "lam", "R", "j", "s", "k", "u", "on", "null",
    }
    - {"min", "max", "abs", "sum", "next", "not", "and", "or", "in", "if", "else", "from"}
)  # fmt: skip


def declared(text: str) -> tuple[list[str], set[str]]:
    """The names of a file, and which of them are columns."""
    names: dict[str, None] = {}
    columns = set()
    for statement in parse(Source("x.obj", text)).statements:
        match statement:
            case tree.Given(name, indices) | tree.State(name, indices) if indices is not None:
                names[name.id] = None
                columns.add(name.id)
            case tree.Param(name) | tree.Let(name) | tree.Report(name) | tree.Policy(name):
                names[name.id] = None
            case tree.Learn(name):
                names[name.id] = None
            case tree.Def(name, arguments):
                names |= dict.fromkeys([name.id, *(argument.id for argument in arguments)])
    return list(names), columns


def renamer(names: Mapping[str, str]) -> Callable[[str], str]:
    return lambda text: re.sub(r"\b[A-Za-z_]\w*\b", lambda m: names.get(m[0], m[0]), text)


def renamed(text: str, seed: int) -> tuple[str, dict[str, str], set[str]]:
    """The text with hostile names, drawn until the language accepts them; and its columns."""
    names, columns = declared(text)
    taken = {*re.findall(r"[A-Za-z_]\w*", text)} - {*names}
    draw = random.Random(seed)
    for _ in range(100):
        free = [name for name in HOSTILE if name not in taken]
        new = dict(zip(names, draw.sample(free, len(names)), strict=True))
        other = renamer(new)(text)
        try:
            objdsl.loads(other)
        except ObjectiveError as error:
            refused = {x.message.split("`")[1] for x in error.diagnostics if "`" in x.message}
            assert refused & {*new.values()}, error
            taken |= refused & {*new.values()}
            continue
        return other, new, columns
    raise AssertionError("every draw was refused")
