"""Formulas of the analysis as people read them, with the names of the file."""

from __future__ import annotations

from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.symbols import Apart, Elsewhere, LogDistRatio, LogRatio
from objdsl.analysis.gradient.estimator import Estimator
from objdsl.analysis.gradient.pairs import pairs
from objdsl.ir.build import add, const, mul, sub
from objdsl.ir.differentiate import swapped
from objdsl.ir.indices import TOKEN, Indices
from objdsl.ir.text import text
from objdsl.ir.writer import Names


def written(expr: n.Expr, names: Names) -> str:
    """A formula in the language, in which the symbols of the analysis are written out."""
    written_out: dict[n.Expr, n.Expr] = {}
    for node in n.topological(expr):
        match node:
            case Elsewhere(x):
                written_out[node] = n.Reduce("sum", ("p",), x)
            case Apart(x, keys):
                others: Indices = ("i", "t") if n.Position() in keys else ("i",)
                written_out[node] = n.Peers("sum", others, x, keys, "!=")
            case LogRatio(ratio):
                written_out[node] = sub(n.LogProb(ratio.of), n.LogProb(ratio.to))
            case LogDistRatio(ratio):
                written_out[node] = sub(n.LogDist(ratio.of), n.LogDist(ratio.to))
    return text(n.replaced(expr, written_out), names)


def expectation(estimator: Estimator) -> str:
    """`E[0.8 correct + 0.2 format]`: the declared rewards that a gradient raises, with the
    constants that the file gives them; empty where there are none, or the built-in one alone."""
    constants = estimator.raised
    judged = estimator.mixing_factors or estimator.selection_biases or estimator.bias_factors
    if judged or not constants or [x.name for x in constants] == ["reward"]:
        return ""
    scale = _scale(constants, estimator)
    parts: list[str] = []
    for column, c in constants.items():
        name = f"sum[t] {column.name}" if column.over == TOKEN else column.name
        size = f"{abs(c) * scale:.3g}"
        sign = ("- " if parts else "-") if c < 0 else "+ " if parts else ""
        parts.append(sign + (name if size == "1" else f"{size} {name}"))
    return f"E[{' '.join(parts)}]"


def of_pairs(estimator: Estimator, names: Names) -> str:
    """`E[max(reward, reward')]`: the function of two responses whose expectation is raised, with
    the values of the second; empty where there is none."""
    raised = pairs(estimator)
    if raised is None:
        return ""
    texts = []
    for value in (raised.value, swapped(raised.value)):
        instead: dict[n.Expr, n.Expr] = {
            node: replace(node, name=f"{node.name}'")
            for node in n.topological(value)
            if isinstance(node, n.Column)
        }
        for node in n.topological(value):
            if isinstance(node, n.Present):
                instead[node] = node.x
        total = n.replaced(value, instead)
        for alone, c in raised.alone.items():
            total = add(mul(const(c), alone), total)
        texts.append(f"E[{written(total, names)}]")
    return max(texts, key=lambda x: x.find("'"))


def _scale(constants: dict[n.Column, float], estimator: Estimator) -> float:
    """The number that makes the constants those of the sum of rewards that the file writes; if it
    writes none, the one that makes the largest 1."""
    for node in n.topological(estimator.objective.goal):
        if isinstance(node, n.Binary) and node.op in ("add", "sub"):
            scale = estimator.scale_of(node, constants)
            if scale is not None:
                return scale
    return 1 / max(map(abs, constants.values()))
