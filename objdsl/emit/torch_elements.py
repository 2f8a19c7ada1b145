"""Writes what is computed element by element as tensor operations, over the tokens of a layout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import objdsl.ir.nodes as n
from objdsl.emit.numbers import is_plain
from objdsl.emit.stages import Carried, Scope, stored_indices
from objdsl.emit.writer import ATOM, Writer, applied
from objdsl.ir.build import ONE, ZERO, count
from objdsl.ir.indices import PROMPT, RESPONSE, SCALAR, TOKEN, VOCAB, Indices
from objdsl.ir.ops import BINARY, UNARY

_GROUP = count(("i",))


class TorchElements(Writer):
    """Writes the values inside of one function, where each is made of those at its own place.

    Args:
        scope: what it shares with the other functions of the program.
        kind: the name of the function.
        stored: values that it is given.
    """

    def __init__(
        self,
        scope: Scope,
        kind: Literal["prepare", "couple", "objective", "values", "advance"],
        stored: Iterable[n.Expr],
    ) -> None:
        super().__init__(scope, stored, scope.identifiers)
        self.kind = kind
        self.cut = kind in ("objective", "values")  # a part of a step, which knows no prompts
        self.numbers: dict[n.Expr, bool] = {}
        self.packed = scope.layout == "packed"

    # --- values ----------------------------------------------------------------------------------

    def _deserves_a_name(self, node: n.Expr, text: str) -> bool:
        known = node in self.scope.given and not text.isidentifier()
        if self.kind == "prepare" and known and not self._is_leaf(node):
            return node in self.scope.names or self.uses.get(node, 0) > 1
        if isinstance(node, Carried) and text.isidentifier():
            return False
        return super()._deserves_a_name(node, text)

    def _name_for(self, node: n.Expr) -> str:
        carried = Carried(node) if self.kind == "couple" else node
        return self.scope.given[carried] if carried in self.scope.given else super()._name_for(node)

    def _indices(self, node: n.Expr) -> Indices:
        """A part of a step knows no prompts, only rows."""
        return stored_indices(node.indices) if self.cut else node.indices

    def _lift(self, have: Indices, want: Indices) -> str:
        if have == SCALAR or len(have) >= len(want):
            return ""
        out = ""
        if have == PROMPT:
            out += f"[{self._environment('prompt', RESPONSE)}]"
            have = RESPONSE
        if have == RESPONSE and len(want) > 2:
            if self.packed:
                out += f"[{self._environment('row', TOKEN)}]"
            else:
                return out + ("[:, None]" if want == TOKEN else "[:, None, None]")
            have = TOKEN
        if have == TOKEN and want == VOCAB:
            out += "[..., None]"
        return out

    def _isnumber(self, node: n.Expr) -> bool:
        """Whether the text of a node is a Python number rather than a tensor."""

        def find(part: n.Expr) -> bool:
            match part:
                case _ if part in self.stored:
                    return False
                case n.Const() | n.Param():
                    return True
                case n.Reduce("sum", ("p",), x):
                    return x == ONE or (x == _GROUP and x not in self.stored)
                case n.Unary() | n.Binary() | n.Clip() | n.Where():
                    are_numbers = all(self.numbers[child] for child in part.children)
                    return are_numbers and is_plain(part, self.scope.nonzero)
            return False

        return n.bottom_up(node, self.numbers, find)

    def _tensor(self, node: n.Expr) -> str:
        """The text of a scalar as a tensor: in float64, if it is a number."""
        text = self._at(node, SCALAR, ATOM)
        return f"torch.tensor({text}, dtype=torch.float64)" if self._isnumber(node) else text

    # --- element by element ----------------------------------------------------------------------

    def _unary(self, node: n.Unary) -> tuple[str, int]:
        x, row = node.x, UNARY[node.op]
        if self._isnumber(node) and row.python is not None:
            return applied(row.python[0], lambda level: self._at(x, SCALAR, level))
        if self._isnumber(x) and node.op != "neg":
            return applied(row.torch, lambda _: self._tensor(x))
        return applied(row.torch, lambda level: self._at(x, x.indices, level))

    def _extremum(self, node: n.Binary) -> str:
        a, b, here = node.a, node.b, node.indices
        if self._isnumber(node):
            return f"{BINARY[node.op].python}({self._at(a, here)}, {self._at(b, here)})"
        bound = "max" if node.op == "min" else "min"
        if self._isnumber(b):
            operand = self._tensor(a) if self._isnumber(a) else self._at(a, here, ATOM)
            return f"{operand}.clamp({bound}={self._at(b, here)})"
        if self._isnumber(a):
            return f"{self._at(b, here, ATOM)}.clamp({bound}={self._at(a, here)})"
        return f"torch.{BINARY[node.op].code}({self._at(a, here)}, {self._at(b, here)})"

    def _clip(self, node: n.Clip) -> str:
        here = node.indices
        x, lo, hi = (self._at(part, here) for part in (node.x, node.lo, node.hi))
        numbers = self._isnumber(node.lo), self._isnumber(node.hi)
        if self._isnumber(node):
            return f"min(max({x}, {lo}), {hi})"
        if self._isnumber(node.x):
            x = self._tensor(node.x)
        if len(set(numbers)) == 1:
            return f"torch.clamp({x}, {lo}, {hi})"
        lower = f"torch.clamp({x}, min={lo})"
        return f"torch.clamp({lower}, max={hi})"

    def _where(self, node: n.Where) -> str:
        here = node.indices
        both = self._isnumber(node.a) and self._isnumber(node.b)
        if self._isnumber(node.m):
            m = self._at(node.m, SCALAR)
            if both:
                return f"({self._at(node.a, SCALAR)} if {m} else {self._at(node.b, SCALAR)})"
            m = f"{self._environment('mask', TOKEN)}.new_tensor({m})"
            return f"torch.where({m}, {self._at(node.a, here)}, {self._at(node.b, here)})"
        m = self._at(node.m, here)
        if both and not node.boolean:
            dtype = self._dtype()
            if node.a == ONE and node.b == ZERO:
                return f"{self._at(node.m, here, ATOM)}.to({dtype})"
            a = f"torch.full_like({m}, {self._at(node.a, here)}, dtype={dtype})"
            return f"torch.where({m}, {a}, {self._at(node.b, here)})"
        return f"torch.where({m}, {self._at(node.a, here)}, {self._at(node.b, here)})"

    def _dtype(self) -> str:
        return self._environment("dtype", SCALAR)
