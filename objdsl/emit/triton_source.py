"""From an objective to a Triton kernel over the logits of a chunk of tokens.

Where the weight of a token needs nothing but its own log-probability and data, one kernel does all
that happens between two matrix products: it takes the log-probability from the logits, the
objective's terms and weight from that, and the gradient by the logits from the weight. Of a value
or a report that needs more, the weight alone is computed here, and PyTorch does the rest.
"""

from __future__ import annotations

import struct
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from objdsl.emit.stages import Input, Staged, spread, staged
from objdsl.emit.wrap import wrap
from objdsl.emit.writer import (
    ATOM,
    SIGN,
    TIMES,
    WIDTH,
    Writer,
    called,
    number,
    title,
    without_unused,
)
from objdsl.ir.build import ONE, ZERO
from objdsl.ir.indices import SCALAR, TOKEN, WORD, Indices
from objdsl.ir.nodes import (
    Binary,
    Clip,
    Column,
    Const,
    Expr,
    Length,
    LogProb,
    Param,
    Position,
    Reduce,
    Unary,
    Where,
    topological,
)
from objdsl.ir.objective import Objective, column_of
from objdsl.ir.show import text

FUNCTIONS = ("exp", "log", "sqrt", "abs", "sigmoid")
OWN = {
    "tl", "triton", "logits", "log_sum_exp", "log_sigmoid", "write_gradient", "objective", "head",
    "z", "d", "rows", "target", "terms", "lse", "bias", "kept", "softcap", "temperature", "stride",
    "d_stride", "kept_stride", "V", "BLOCK", "c", "i", "y", "logit", "w", "J",
}  # fmt: skip
"""Names of the kernel itself: a column of that name gets another one there."""


class NotElementwise(ValueError):
    """A value of one token needs more than that token: `needs`, in the language's syntax."""

    def __init__(self, needs: str) -> None:
        super().__init__(f"not a matter of single tokens: {needs}")
        self.needs = needs


@dataclass(frozen=True)
class Kernel:
    """An emitted module, whose function `head` is the kernel.

    Attributes:
        inputs: what it loads, in order: a number for each token, or one number.
        reports: those whose terms it computes, after the term of J; None if it computes weights
            alone.
        needs: what keeps it from computing more; empty if nothing does.
    """

    source: str
    inputs: tuple[Input, ...]
    reports: tuple[str, ...] | None
    needs: str


def emit(ir: Objective) -> Kernel:
    """The kernel of an objective that trains one policy. Needs neither Triton nor PyTorch.

    Raises:
        NotElementwise: the weight of a token needs more than that token.
    """
    made = staged(ir, "packed")
    leaf = next((leaf for leaf in made.weights if isinstance(leaf, LogProb)), None)
    if leaf is None or any(other.indices == WORD for other in made.weights):
        raise NotElementwise("the distribution over all words")
    needs = ""
    try:
        writer = _KernelWriter(made, leaf, _terms(ir, made))
    except NotElementwise as error:
        writer, needs = _KernelWriter(made, leaf, None), error.needs
    body = f"{writer.objective}\n\n\n{writer.head}"
    imports = "import triton\nimport triton.language as tl"
    source = "\n\n\n".join([f"{title(ir)}\n\n{imports}", *called(_functions(), body), body]) + "\n"
    reports = None if needs else tuple(report.name for report in ir.reports)
    return Kernel(source, tuple(writer.inputs.values()), reports, needs)


@cache
def _functions() -> dict[str, str]:
    """The functions of `objdsl.emit.triton_kernels`, as text: the module would import Triton."""
    source = (files("objdsl.emit") / "triton_kernels.py").read_text(encoding="utf-8")
    blocks = {}
    for block in source.split("\n\n\n@triton.jit\n")[1:]:
        body = block.split("\n\n\n# ---")[0].replace("  # fmt: skip", "").rstrip()
        blocks[body.removeprefix("def ").split("(", 1)[0]] = f"@triton.jit\n{body}"
    return blocks


def _terms(ir: Objective, made: Staged) -> dict[str, Expr]:
    """What the value and the reports are sums of, over tokens.

    Raises:
        NotElementwise: they are sums over something else.
    """
    if len(made.weights) > 1:
        raise NotElementwise("the gradient of the critic")
    terms = {}
    for name in ("value", *(f"report {report.name}" for report in ir.reports)):
        if made.roots[f"{name} responses"] != ZERO:
            raise NotElementwise(f"the {name}, which is not a sum over tokens")
        terms[name.removeprefix("report ")] = made.roots[f"{name} tokens"]
    return terms


class _KernelWriter(Writer):
    """Writes scalar code for one token, and the kernel around it.

    Attributes:
        objective: the function of one token, from its log-probability to its terms and its weight.
        head: the kernel.
    """

    def __init__(self, made: Staged, leaf: LogProb, terms: Mapping[str, Expr] | None) -> None:
        super().__init__(made.scope, made.prepared)
        self.log_pi = column_of(leaf) or ""
        weight = made.weight(leaf)
        roots = {"w": weight}
        if terms is not None:
            value, *reports = terms
            roots = {"J": terms[value], "w": weight}
            roots |= {self._fresh(name): terms[name] for name in reports}
        self._count(roots.values())
        results = [self._result(name, root) for name, root in roots.items()]
        self.objective = self._objective(results)
        self.head = self._head(results)

    # --- functions -------------------------------------------------------------------------------

    def _result(self, name: str, root: Expr) -> str:
        """A statement for a result, unless it has one already; its name."""
        said = self._at(root, TOKEN)
        if said.isidentifier():
            return said
        if self._is_number(root):
            said = f"tl.full((), {said}, {self.log_pi}.dtype)"
        self.lines.append(f"{name} = {said}")
        return name

    def _objective(self, results: list[str]) -> str:
        inputs = [self.log_pi, *map(_safe, self.inputs)]
        doc = "The weight of a token, w = dJ / dlog pi."
        if len(results) > 1:
            doc = (
                "Of a token: its term of J, its weight w = dJ / dlog pi, its terms of the reports."
            )
        lines = [f'"""{doc}"""', *without_unused([*self.lines, f"return {', '.join(results)}"])]
        return _function("objective", ", ".join(inputs), lines)

    def _head(self, results: list[str]) -> str:
        names = [_safe(name) for name in self.inputs]
        loaded = [
            f"tl.load({_safe(one.name)})" if one.indices == SCALAR
            else f"tl.load({_safe(one.name)} + i)"
            for one in self.inputs.values()
        ]  # fmt: skip
        many = len(results) - 1
        w = results[min(many, 1)]
        stored = [f"tl.store(terms + i * {many}, {results[0]})"] if many else []
        for k, name in enumerate(results[2:], 1):
            stored.append(f"tl.store(terms + i * {many} + {k}, {name})")
        shape = "bias, kept, softcap, temperature"
        arguments = ", ".join(
            ["z", "d", "rows", "target", self.log_pi, *(["terms"] if many else []), *names,
             shape, "stride", "d_stride", "kept_stride", "V", "BLOCK: tl.constexpr"]
        )  # fmt: skip
        doc = "A token of a chunk: its log-probability and terms and, unless `d` is None, gradient."
        lines = [
            f'"""{doc}"""',
            "c = tl.program_id(0).to(tl.int64)",
            "i = tl.load(rows + c)",
            "y = tl.load(target + c)",
            "z += c * stride",
            "if kept is not None:",
            "    kept += i * kept_stride",
            f"lse = log_sum_exp(z, {shape}, V, BLOCK)",
            f"logit, _ = logits(z, {shape}, y, V)",
            f"{', '.join(results)} = objective({', '.join(['logit - lse', *loaded])})",
            f"tl.store({self.log_pi} + i, logit - lse)",
            *stored,
            "if d is not None:",
            f"    write_gradient(d + c * d_stride, z, {shape}, y, lse, {w}, V, BLOCK)",
        ]
        return _function("head", arguments, lines)

    # --- expressions -----------------------------------------------------------------------------

    def _indices(self, node: Expr) -> Indices:
        return spread(node.indices) if node in self.stored else node.indices

    def _lift(self, have: Indices, want: Indices) -> str:
        return ""  # every value is that of one token

    def _input(self, name: str, indices: Indices) -> str:
        return _safe(super()._input(name, indices))

    def _is_number(self, node: Expr) -> bool:
        return all(n.children or isinstance(n, Const) for n in topological(node))

    def _argument(self, node: Expr) -> str:
        """A value as the argument of a function, where a bare number would be a float32."""
        said = self._at(node, node.indices)
        if not self._is_number(node):
            return said
        if (
            isinstance(node, Const)
            and struct.unpack("f", struct.pack("f", node.value))[0] == node.value
        ):
            return said if {"e", ".", "f"} & set(said) else f"{said}.0"
        return f"tl.full((), {said}, {self.log_pi}.dtype)"

    def _expression(self, node: Expr) -> tuple[str, int]:
        here = node.indices
        match node:
            case Const(value):
                if value in (float("inf"), float("-inf")):
                    return f'{"-" if value < 0 else ""}float("inf")', SIGN
                return number(value)
            case Param(name):
                return self._input(name, SCALAR), ATOM
            case Column() | LogProb():
                name = column_of(node) or ""
                return (name if name == self.log_pi else self._input(name, here)), ATOM
            case Length():
                return self._input("length", here), ATOM
            case Position():
                return self._input("position", here), ATOM
            case Reduce("sum", ("p",), x) if x == ONE:
                return self._input("n_prompts", SCALAR), ATOM
            case Unary("neg", x):
                return f"-{self._at(x, here, SIGN)}", SIGN
            case Unary("not", x) if not self._is_number(x):
                return f"~{self._at(x, here, SIGN + 1)}", SIGN
            case Unary("logsigmoid", x):
                return f"log_sigmoid({self._argument(x)})", ATOM
            case Unary("sign", x):
                over = self._at(x, here, ATOM)
                return f"tl.where({over} > 0, 1.0, tl.where({over} < 0, -1.0, 0.0))", ATOM
            case Unary(op, x) if op in FUNCTIONS:
                return f"tl.{op}({self._argument(x)})", ATOM
            case Binary("min" | "max" as op, a, b):
                return f"tl.{op}imum({self._argument(a)}, {self._argument(b)})", ATOM
            case Binary("pow", a, Const(0.5)):
                return f"tl.sqrt({self._argument(a)})", ATOM
            case Binary("pow", a, Const(k)) if k in (2, 3, 4):
                return " * ".join([self._named(a)] * int(k)), TIMES
            case Binary(op) if op != "pow":
                return self._infix(node)
            case Clip(x, lo, hi):
                return f"tl.clamp({', '.join(map(self._argument, (x, lo, hi)))})", ATOM
            case Where(m, a, b) if not self._is_number(m):
                return (
                    f"tl.where({self._at(m, here)}, {self._argument(a)}, {self._argument(b)})",
                    ATOM,
                )
        raise NotElementwise(text(node, self.scope.names))

    def _named(self, node: Expr) -> str:
        """The text of a value that is read several times."""
        said = self._at(node, node.indices, ATOM)
        if not said.isidentifier():
            name = self._name_for(node)
            self.lines.append(f"{name} = {said}")
            self.text[node] = (name, ATOM)
            said = name
        return said


def _is_float32(value: float) -> bool:
    try:
        return bool(struct.unpack("f", struct.pack("f", value))[0] == value)
    except OverflowError:
        return False


def _safe(name: str) -> str:
    return f"{name}_" if name in OWN else name


def _function(name: str, arguments: str, lines: list[str]) -> str:
    """A function of Triton, its arguments and statements cut to the width."""
    head = f"def {name}({arguments}):"
    if len(head) > WIDTH:
        cut = textwrap.wrap(f"{arguments},", WIDTH - 4)
        head = f"def {name}(\n" + "".join(f"    {line}\n" for line in cut) + "):"
    body = [cut for line in lines for cut in wrap(f"    {line}", WIDTH)]
    return "\n".join(["@triton.jit", head, *body])
