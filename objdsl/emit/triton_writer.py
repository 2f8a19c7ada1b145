"""Writes what one token of a chunk, or one entry of the vocabulary, needs in a Triton kernel."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import objdsl.ir.nodes as n
from objdsl.emit.identifiers import Identifiers
from objdsl.emit.stages import Staged, stored_indices
from objdsl.emit.wrap import wrap
from objdsl.emit.writer import ATOM, SIGN, TIMES, WIDTH, Writer, applied, number, without_unused
from objdsl.errors import ObjdslError
from objdsl.ir.build import ONE
from objdsl.ir.columns import LogProbs
from objdsl.ir.indices import SCALAR, VOCAB, Indices
from objdsl.ir.ops import BINARY, UNARY, float32
from objdsl.ir.text import text


class NotElementwiseError(ObjdslError, ValueError):
    """A value of one token needs more than that token: `needs`, in the language's syntax."""

    def __init__(self, needs: str) -> None:
        super().__init__(f"not a matter of single tokens: {needs}")
        self.needs = needs


class TokenWriter(Writer):
    """Writes what one token needs.

    Attributes:
        log_pi: the name of its log-probability.
        sums: sums over the vocabulary, by the names that stand for them.
        partial: for each of those names, that of the terms which are added up.
        called: what results are called.
    """

    def __init__(self, stages: Staged, policy: str, identifiers: Identifiers) -> None:
        super().__init__(stages.scope, stages.prepared, identifiers)
        self.policy = policy
        self.log_pi = identifiers.of("column", LogProbs(policy).name)
        self.sums: dict[n.Reduce, str] = {}
        self.partial: dict[str, str] = {}
        self.called: dict[n.Expr, str] = {}
        self.numbers: dict[n.Expr, bool] = {}

    def results(self, roots: Mapping[str, n.Expr]) -> list[str]:
        """Statements for results, unless they have one already; their names."""
        self._count(roots.values())
        for name, root in roots.items():
            self.called.setdefault(root, name)
        return [self._result(name, root) for name, root in roots.items()]

    def _result(self, name: str, root: n.Expr) -> str:
        value = self._at(root, root.indices)
        if value.isidentifier():
            return value
        if self._is_number(root):
            value = f"tl.full((), {value}, {self.log_pi}.dtype)"
        self.lines.append(f"{name} = {value}")
        return name

    def function(self, name: str, given: list[str], results: list[str], doc: str) -> str:
        arguments = ", ".join([*given, *self.inputs])
        lines = without_unused([*self.lines, f"return {', '.join(results)}"])
        return function(name, arguments, [f'"""{doc}"""', *lines])

    # --- expressions -----------------------------------------------------------------------------

    def _operands(self, node: n.Expr) -> tuple[n.Expr, ...]:
        return () if _is_sum(node) else super()._operands(node)

    def _name_for(self, node: n.Expr) -> str:
        return self.called.get(node) or super()._name_for(node)

    def _deserves_a_name(self, node: n.Expr, text: str) -> bool:
        return not _is_sum(node) and super()._deserves_a_name(node, text)

    def _sum(self, node: n.Reduce) -> str:
        if node not in self.sums:
            name = self.sums[node] = self.identifiers.fresh(*self.scope.wishes(node))
            self.partial[name] = self.identifiers.fresh(f"{name}_v")
        return self.sums[node]

    def _indices(self, node: n.Expr) -> Indices:
        return stored_indices(node.indices) if node in self.stored else node.indices

    def _lift(self, have: Indices, want: Indices) -> str:
        return ""  # what belongs to a response or a token is one number here

    def _is_number(self, node: n.Expr) -> bool:
        numbers = self.numbers

        def find(x: n.Expr) -> bool:
            if not x.children:
                return isinstance(x, n.Const)
            return all(numbers[child] for child in x.children)

        return n.bottom_up(node, numbers, find)

    def _argument(self, node: n.Expr) -> str:
        """A value as the argument of a function, where a bare number would be a float32."""
        value = self._at(node, node.indices)
        if not self._is_number(node):
            return value
        if isinstance(node, n.Const) and float32(node.value) == node.value:
            return f"{value}.0" if value.lstrip("-").isdigit() else value
        return f"tl.full((), {value}, {self.log_pi}.dtype)"

    def _expression(self, node: n.Expr) -> tuple[str, int]:
        here = node.indices
        match node:
            case n.Const(value):
                if value in (float("inf"), float("-inf")):
                    return f'{"-" if value < 0 else ""}float("inf")', SIGN
                return number(value)
            case n.Param(name):
                return self._input("param", name, SCALAR), ATOM
            case n.LogProb(policy) if policy == self.policy:
                return self.log_pi, ATOM
            case n.Column() | n.LogProb() if here != VOCAB:
                return self._column(node, here), ATOM
            case n.Length():
                return self._environment("length", here), ATOM
            case n.Position():
                return self._environment("position", here), ATOM
            case n.Reduce("sum", ("p",), x) if x == ONE:
                return self._environment("n_prompts", SCALAR), ATOM
            case n.Reduce() if _is_sum(node):
                return self._sum(node), ATOM
            case n.Unary("neg" | "not" as op, x) if op == "neg" or not self._is_number(x):
                return applied(UNARY[op].triton, lambda level: self._at(x, here, level))
            case n.Unary(op, x) if op != "not":
                template = UNARY[op].triton
                twice = "{0}" in template
                return template.format(self._named(x) if twice else self._argument(x)), ATOM
            case n.Binary("min" | "max" as op, a, b):
                function = f"tl.{BINARY[op].code}"
                return f"{function}({self._argument(a)}, {self._argument(b)})", ATOM
            case n.Binary("pow", a, n.Const(0.5)):
                return f"tl.sqrt({self._argument(a)})", ATOM
            case n.Binary("pow", a, n.Const(k)) if k in (2, 3, 4):
                return " * ".join([self._named(a)] * int(k)), TIMES
            case n.Binary(op) if op not in ("pow", "comb"):
                return self._infix(node)
            case n.Clip(x, lo, hi):
                return f"tl.clamp({', '.join(map(self._argument, (x, lo, hi)))})", ATOM
            case n.Where(m, a, b) if not self._is_number(m):
                return (
                    f"tl.where({self._at(m, here)}, {self._argument(a)}, {self._argument(b)})",
                    ATOM,
                )
        raise NotElementwiseError(text(node, self.scope.names))

    def _named(self, node: n.Expr) -> str:
        """The text of a value that is read several times."""
        value = self._at(node, node.indices, ATOM)
        if not value.isidentifier():
            name = self._name_for(node)
            self.lines.append(f"{name} = {value}")
            self.text[node] = (name, ATOM)
            value = name
        return value


def _is_sum(node: n.Expr) -> bool:
    """Whether a node is a sum over the vocabulary that changes with the policy."""
    return isinstance(node, n.Reduce) and node.current and (node.op, node.over) == ("sum", ("v",))


class VocabWriter(TokenWriter):
    """Writes what each entry of the vocabulary needs: its log-probability is `log_p`.

    Args:
        sums: those over the vocabulary whose terms it writes.
    """

    def __init__(
        self, stages: Staged, policy: str, identifiers: Identifiers, sums: Mapping[n.Reduce, str]
    ) -> None:
        super().__init__(stages, policy, identifiers)
        self.log_pi = "log_p"
        self.identifiers.take(sums.values())

    def _expression(self, node: n.Expr) -> tuple[str, int]:
        match node:
            case n.LogDist(policy) if policy == self.policy:
                return "log_p", ATOM
            case n.LogDist() | n.Column() if node.indices == VOCAB:
                return self._column(node, VOCAB), ATOM
            case n.LogProb(policy) if policy == self.policy:
                raise NotElementwiseError(text(node, self.scope.names))
        return super()._expression(node)

    def _sum(self, node: n.Reduce) -> str:
        raise NotElementwiseError(text(node, self.scope.names))


def function(name: str, arguments: str, lines: list[str]) -> str:
    """A function of Triton, its arguments and statements cut to the width."""
    head = f"def {name}({arguments}):"
    if len(head) > WIDTH:
        cut = textwrap.wrap(f"{arguments},", WIDTH - 4)
        head = f"def {name}(\n" + "".join(f"    {line}\n" for line in cut) + "):"
    body = [cut for line in lines for cut in wrap(f"    {line}", WIDTH)]
    return "\n".join(["@triton.jit", head, *body])
