"""Names for the values of emitted code that the file does not name.

A name combines the names that the file and the field have for the parts of a value: `reward_mean`,
`log_ratio`, `A_positive`, `n_chosen`, `beta_times_margin`. Where that would be too long, it is the
operation: `product`, `difference`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import objdsl.ir.nodes as n
from objdsl.emit.lower import Place
from objdsl.emit.recognise import (
    UNITS,
    is_clipping,
    match_count,
    match_deviation,
    match_log_ratio,
    match_mean,
    match_size,
    match_sum,
)
from objdsl.ir.build import HALF, ONE, ZERO
from objdsl.ir.columns import column_of
from objdsl.ir.indices import SCALAR
from objdsl.ir.ops import BINARY

LONGEST = 34
"""The most letters of a name."""
LONGEST_PART = 26
"""The most letters of a name inside a longer one."""
DEEPEST = 5
"""How deep the parts of a value are named."""

WHOLE = {"p": "step", "i": "group", "t": "response", "v": "vocabulary"}
"""The names of the elements that a reduction over an index covers."""
NUMBERS = {0.0: "zero", 0.25: "quarter", 0.5: "half", 1.0: "one", 2.0: "two", 3.0: "three",
           4.0: "four"}  # fmt: skip
MULTIPLES = {0.25: "quarter", 0.5: "half", 2.0: "twice"}
FUNCTIONS = {"neg": "minus", "sqrt": "root"}
"""Names of functions of one value, if not their names in the language."""
VERBS = {"add": "plus", "sub": "minus", "mul": "times", "div": "over", "pow": "to_the",
         "lt": "below", "le": "at_most", "gt": "above",
         "ge": "at_least", "eq": "equals", "ne": "differs_from"}  # fmt: skip
"""The text between the names of two operands."""
NOUNS = {"add": "total", "sub": "difference", "mul": "product", "div": "quotient", "pow": "power",
         "min": "smaller", "max": "larger", "comb": "choices", "and": "both",
         "or": "either"}  # fmt: skip
"""The names of the results of operations."""
if NOUNS.keys() | n.COMPARISONS != BINARY.keys() or NOUNS.keys() | VERBS.keys() != BINARY.keys():
    raise TypeError("an operator of two values has no noun, or no verb")
SIGNS = {"lt": "negative", "le": "not_positive", "gt": "positive", "ge": "not_negative"}


class Describer:
    """Describes values by the file's names for their parts; each part is described once."""

    def __init__(self, names: Mapping[n.Expr, str]) -> None:
        self.names = names
        self._known: dict[tuple[n.Expr, int], list[str]] = {}

    def __call__(self, node: n.Expr) -> list[str]:
        """Names for a value, the best first; the last one is its operation alone."""
        return [*self.all(node, DEEPEST), _operation(node)]

    def all(self, node: n.Expr, depth: int) -> list[str]:
        """Descriptive names of a value; none if its parts have none."""
        known = self._known.get((node, depth))
        if known is None:
            known = self._known[node, depth] = self._all(node, depth)
        return known

    def _all(self, node: n.Expr, depth: int) -> list[str]:
        if node in self.names:
            return [self.names[node]]
        if isinstance(node, n.Stop):
            return self.all(node.x, depth)
        if not node.children:
            return [_leaf(node)]
        if node.boolean and (opposite := self.names.get(n.Unary("not", node))):
            return [f"not_{opposite}"]
        if depth == 0:
            return []
        candidates = [*self._by_role(node, depth - 1), *self._by_parts(node, depth - 1)]
        return [name for name in candidates if name and len(name) <= LONGEST]

    def _part(self, node: n.Expr, depth: int) -> str:
        """A name to use inside a longer one, or nothing."""
        return next((x for x in self.all(node, depth) if len(x) <= LONGEST_PART), "")

    def _join(self, depth: int, around: str, *nodes: n.Expr) -> str:
        """A name made of those of parts, or nothing if one of them has none."""
        parts = [self._part(node, depth) for node in nodes]
        if not all(parts):
            return ""
        suffix = around.partition("{}")[2]
        is_repeated = "{}" not in suffix and suffix and parts[0].endswith(suffix)
        return parts[0] if is_repeated else around.format(*parts)

    def _mask(self, node: n.Expr, depth: int) -> str:
        return self._part(node, depth).removeprefix("is_")

    def _by_role(self, node: n.Expr, depth: int) -> list[str]:
        """The name of a value that the field has a term for; none for others."""

        def join(around: str, *nodes: n.Expr) -> str:
            return self._join(depth, around, *nodes)

        match node:
            case n.Binary("sub") if (pair := match_log_ratio(node)) is not None:
                return ["log_ratio", f"log_ratio_{pair}"]
            case n.Unary("exp", x) if (pair := match_log_ratio(x)) is not None:
                return ["ratio", f"ratio_{pair}"]
            case n.Unary("exp", n.LogProb(policy)):
                return [f"prob_{policy}"]
            case n.Unary("exp", n.LogDist(policy)):
                return ["probs", f"probs_{policy}"]
            case n.Unary("not", x) if is_clipping(x):
                return ["active", "unclipped"]
            case n.Binary("or") if is_clipping(node):
                return ["clipped"]
            case n.Binary("and", n.Binary("ge", x), n.Binary("le", y)) if x == y:
                return [join("{}_in_range", x)]
            case n.Binary("or", n.Binary("lt" | "gt", x), n.Binary("lt" | "gt", y)) if x == y:
                return [join("{}_out_of_range", x)]
            case n.Binary("lt", n.Reduce("min", _, x), n.Reduce("max", _, y)) if x == y:
                return [join("{}_varies", x)]
            case n.Binary("eq", x, n.Reduce("max" | "min" as op, _, y)) if x == y:
                return [join("{}_is_" + op, x), f"is_{op}"]
            case n.Binary("eq", n.Position(), n.Length()):
                return ["is_last"]
            case n.Binary("ge", n.Position() | n.Length() | n.Reduce("sum"), x) if x == ONE:
                return ["in_response"]  # the factor by which `lower` repeats a value
            case n.Binary("and", n.Binary("ge", n.Position() | n.Length(), x), y) if x == ONE:
                return self.all(y, depth)
            case n.Binary("mul", n.Unary("sigmoid") as s, n.Binary("sub", x, y)) if s == y:
                return ["sigmoid_grad"] if x == ONE else []
            case n.Binary("div", n.Peers("sum", _, x, relation="!=")):
                return [join("{}_mean_of_others", x)]
            case n.Binary("sub", x, m) if match_mean(m) == x:
                return [join("{}_centered", x)]
            case n.Unary("sqrt", v) if (varied := match_deviation(v)) is not None:
                return [join("{}_std", varied)]
            case n.Binary("div") if (varied := match_deviation(node)) is not None:
                return [join("{}_variance", varied)]
            case n.Binary("div") if (averaged := match_mean(node)) is not None:
                return [join("{}_mean", averaged)]
            case n.Binary("div", x, y) if (unit := self._unit(y, depth)) is not None:
                return [f"per_{unit}" if x == ONE else join("{}_per_" + unit, x)]
            case n.Binary("mul") if (size := match_size(node)) is not None:
                return ["divisor", f"{size}_divisor"]
            case n.Reduce("sum", _, n.Where(_, n.Binary("mul", n.Order("share")))):
                return []
            case n.Reduce("sum"):
                return self._sum(node, depth)
        return []

    def _sum(self, node: n.Reduce, depth: int) -> list[str]:
        """The name of a sum, by what it counts, or adds up where a mask holds; none if its parts
        have none."""
        over, x = match_sum(node)
        if (counted := match_count(over, x)) is not None:
            return [counted]
        match x:
            case n.Where(m, a, b) if b == ZERO:
                mask = self._part(m, depth)
                kind = mask.removeprefix("is_")
                if (counted := match_count(over, a)) is not None:
                    kept = f"n_kept_{UNITS[counted]}s"
                    is_noun = a == ONE and (kind != mask or mask.startswith("not_"))
                    return [f"n_{kind}", kept] if is_noun else [kept]
                return [self._join(depth, "{}_sum_" + kind, a)] if kind else []
        return []

    def _unit(self, node: n.Expr, depth: int) -> str | None:
        """The name of the elements that a count counts, in the singular."""
        if (counted := match_count(*match_sum(node))) is not None:
            return UNITS[counted]
        name = self._part(node, depth)
        return name[2:].removesuffix("s") if name.startswith("n_") else None

    def _by_parts(self, node: n.Expr, depth: int) -> list[str]:
        """A name made from the operands of a value; none if they have none."""

        def join(around: str, *nodes: n.Expr) -> str:
            return self._join(depth, around, *nodes)

        match node:
            case n.Unary("not", x):
                return [_negated(name) for name in [join("{}", x)] if name]
            case n.Unary("sign" | "sqrt" as op, x):
                return [join("{}_" + FUNCTIONS.get(op, op), x)]
            case n.Unary("sigmoid" | "logsigmoid" | "softplus" as op, x) if x.children:
                return [op, join(op + "_{}", x)]
            case n.Unary(op, x):
                return [join(FUNCTIONS.get(op, op) + "_{}", x)]
            case n.Binary("lt" | "le" | "gt" | "ge" as op, x, y) if y == ZERO:
                return [join("{}_" + SIGNS[op], x)]
            case n.Binary("lt" | "le" | "gt" | "ge" as op, x, y):
                verb = VERBS[op]
                return [join("{}_" + verb, x), join("{}_" + verb + "_{}", x, y)]
            case n.Binary("ne", x, y) if y == ZERO:
                return [join("is_{}", x)]
            case n.Binary("pow", x, n.Const(2.0)):
                return [join("{}_squared", x)]
            case n.Binary("mul", n.Const(c), x) if c in MULTIPLES:
                return [join(MULTIPLES[c] + "_{}", x)]
            case n.Binary("mul", n.Const(), x) | n.Binary("mul", x, n.Const()):
                return [join("{}_scaled", x)]
            case n.Binary("add" | "sub", x, n.Const()) | n.Binary("add" | "sub", n.Const(), x):
                return [join("{}_shifted", x)]
            case n.Binary("min" | "max", x, y) if SCALAR in (x.indices, y.indices):
                is_bound = isinstance(x, n.Const | n.Param) or len(x.indices) < len(y.indices)
                return [join("{}_clipped", y if is_bound else x)]
            case n.Binary("min" | "max"):
                return []
            case n.Clip(x):
                return [join("{}_clipped", x)]
            case n.Binary("div", x, y) if x == ONE:
                return [join("inverse_{}", y)]
            case n.Binary("mul", x, y) if join("{}", x).startswith("per_"):
                return [join("{}_{}", y, x)]
            case n.Binary("comb", x, y):
                return [join("{}_choose_{}", x, y), "choices"]
            case n.Binary("and" | "or" | "eq" | "ne" as op, x, y):
                return [join("{}_" + VERBS.get(op, op) + "_{}", x, y)]
            case n.Binary(op, x, y):
                head = y if y.current and not x.current else x
                noun = "scaled" if op in ("mul", "div") else NOUNS[op]
                loose = self._part(y, depth) + (self._part(x, depth) if op != "sub" else "")
                is_clear = op == "add" or not re.search("_(plus|minus)_", loose)
                full = join("{}_" + VERBS[op] + "_{}", x, y) if is_clear else ""
                return [full, join("{}_" + noun, head)]
            case n.Where(m, a, b) if a == ONE and b == ZERO:
                return self.all(m, depth)
            case n.Where(m, a, b) if b == ZERO:
                mask, value = self._mask(m, depth), join("{}", a)
                full = join("{}_if_" + mask, a) if mask and not mask.startswith(value) else ""
                return [full, join("{}_masked", a), f"masked_{_operation(a)}"]
            case n.Where(n.Binary("eq"), a, b) if node.current and not (a.current or b.current):
                return ["tie_weight"]
            case n.Where(_, a, b):
                return [join("{}_or_{}", a, b)]
            case n.Reduce("sum", _, n.Where(_, n.Binary("mul", n.Order("share", _, x, at)))):
                return [join("{}_median" if at == HALF else "{}_quantile", x)]
            case n.Reduce(op, _, x):
                name = join("{}_" + op, x)
                return [name, name and f"{name}_of_{WHOLE[node.over[0]]}"]
            case n.Peers(_, _, x, relation="!="):
                return [join("{}_of_others", x)]
            case n.Peers(op, _, x, (Place(keys=(key, *_)),), ""):
                return [join("{}_" + op + "_by_{}", x, key), join(op + "_by_{}", key)]
            case n.Peers(_, _, x):
                return [join("{}_so_far", x)]
            case Place(keys=(key, *_)):
                return [join("same_{}", key)]
            case n.Scan(_, x):
                return [join("{}_running_sum", x)]
            case n.Order("rank" | "share" as op, _, x):
                return [join("{}_" + op, x)]
            case n.Order("nucleus"):
                return ["nucleus"]
            case n.Order("trim" | "top" | "topk" as op, _, x):
                return [join(("small" if op == "trim" else "large") + "_{}", x)]
            case n.Shift(x, by):
                return [join(("next" if by > 0 else "previous") + "_{}", x)]
        return []


def _operation(node: n.Expr) -> str:
    """A name for the operation alone."""
    match node:
        case n.Stop(x):
            return _operation(x)
        case n.Unary(op):
            return FUNCTIONS.get(op, "opposite" if op == "not" else op)
        case n.Binary("pow", _, n.Const(2.0)):
            return "square"
        case n.Binary(op):
            return NOUNS.get(op, "comparison")
        case n.Clip():
            return "clamped"
        case n.Where(_, _, b):
            return "masked" if b == ZERO else "selected"
        case n.Reduce(op):
            return f"{op}_over_{node.over[0]}"
        case n.Peers(op):
            return f"{op}_of_{'others' if node.relation == '!=' else 'peers'}"
        case Place():
            return "same_key"
        case n.Scan():
            return "running_total"
        case n.Shift():
            return "neighbour"
        case n.Order("rank" | "share" as op):
            return op
        case n.Order() | n.Pick():
            return "chosen"
    return _leaf(node)


def _leaf(node: n.Expr) -> str:
    match node:
        case n.Const(value):
            return NUMBERS.get(value, "constant")
        case n.Param(name):
            return name
        case n.Column() | n.LogProb() | n.LogDist() | n.Pick():
            return column_of(node).name
    return type(node).__name__.lower()


def _negated(name: str) -> str:
    """The name of the opposite of a condition."""
    for adjective in SIGNS.values():
        if name.endswith(f"_{adjective}"):
            start = name.removesuffix(adjective)
            return start + (adjective[4:] if adjective.startswith("not_") else f"not_{adjective}")
    return name[4:] if name.startswith("not_") else f"not_{name.removeprefix('is_')}"
