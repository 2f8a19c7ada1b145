"""Formulas as sums of products: the form in which a gradient weight can be read factor by factor.

`(reward - mean[i] reward) / |y|` becomes `reward * |y|^-1 - G^-1 * (sum[i] reward) * |y|^-1`. A
factor is a node of the IR with a power; the exponential of a sum is a product of exponentials, so
ratios of policies are factors too: `pi / old` is `exp(log pi)^1 * exp(log old)^-1`, and where `old`
stands for `pi` nothing is left of it. Parameters are taken at their defaults.
"""

from __future__ import annotations

from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.arithmetic import binary_sum, unary_sum
from objdsl.analysis.algebra.branches import choice, clip, extremum, mask_sum, order
from objdsl.analysis.algebra.expansion import Expansion
from objdsl.analysis.algebra.reductions import linear, peers, quantile, reduction, scan
from objdsl.analysis.algebra.sums import Sum, atom, number
from objdsl.analysis.algebra.symbols import Ratio, log_ratio


class Expand(Expansion):
    """The sum of products of every node; see `Expansion` for the arguments."""

    def _expand(self, node: n.Expr) -> Sum:
        if node.boolean:
            return mask_sum(self, node)
        match node:
            case n.Const(value):
                return number(value)
            case n.Param(name):
                return number(self.params[name])
            case n.LogProb(policy) | n.LogDist(policy):
                name = self.same.get(policy, self.apart.get(policy, policy))
                log = atom(type(node)(name, name in self.trained))
                ratio = Ratio(policy, name)
                return log + atom(log_ratio(node, ratio)) if policy in self.apart else log
            case n.Column() | n.Length() | n.Position() | n.Symbol():
                return atom(node)
            case n.Stop(x):
                return self(x)
            case n.Unary("sqrt", n.Binary("pow", x, n.Const(2.0))) | n.Binary(
                "pow", n.Binary("pow", x, n.Const(2.0)), n.Const(0.5)
            ):
                return unary_sum(self, "abs", self(x), node)
            case n.Unary("sqrt", n.Binary("mul", x, y)) | n.Binary(
                "pow", n.Binary("mul", x, y), n.Const(0.5)
            ) if x == y:
                return unary_sum(self, "abs", self(x), node)
            case n.Unary(op, x):
                return unary_sum(self, op, self(x), node)
            case n.Binary("min" | "max" as op, a, b):
                return extremum(self, op, a, b, node)
            case n.Binary(op, a, b):
                return binary_sum(self, op, self(a), self(b), node)
            case n.Clip(x, lo, hi):
                return clip(self, x, lo, hi, node)
            case n.Where(m, a, b):
                return choice(self, m, a, b, node)
            case n.Reduce():
                return reduction(self, node)
            case n.Peers():
                return peers(self, node)
            case n.Present(x):
                return linear(self, self(x), "p", lambda f: atom(n.Present(f)), node)
            case n.Scan():
                return scan(self, node)
            case n.Shift(x, by):
                return linear(self, self(x), "t", lambda f: atom(n.Shift(f, by)), node)
            case n.Quantile():
                return quantile(self, node)
            case n.Order():
                return order(self, node)
            case n.Pick():
                return mask_sum(self, node)
        assert_never(node)
