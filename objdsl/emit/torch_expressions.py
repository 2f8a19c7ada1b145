"""Writes the values of formulas as tensor operations, over the tokens of a layout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, assert_never

import objdsl.ir.nodes as n
from objdsl.emit.numbers import is_plain
from objdsl.emit.stages import Carried, Scope, stored_indices
from objdsl.emit.writer import AND, ATOM, POWER, TIMES, Writer, applied, number
from objdsl.ir.build import ONE, ZERO, count
from objdsl.ir.indices import PROMPT, RESPONSE, SCALAR, TOKEN, VOCAB, Indices
from objdsl.ir.ops import BINARY, ORDER, REDUCE, UNARY

_GROUP = count(("i",))


class TorchExpressions(Writer):
    """Writes the values inside of one function.

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

    # --- expressions -----------------------------------------------------------------------------

    def _expression(self, node: n.Expr) -> tuple[str, int]:
        here = node.indices
        match node:
            case n.Const(value):
                return number(value)
            case n.Param(name):
                return self._input("param", name, SCALAR), ATOM
            case n.Column() | n.LogProb() | n.LogDist():
                return self._column(node, here), ATOM
            case n.Length():
                return self._environment("length", RESPONSE), ATOM
            case n.Position():
                return self._position()
            case Carried(x):
                return self.text[x]
            case n.Unary():
                return self._unary(node)
            case n.Binary("min" | "max"):
                return self._extremum(node), ATOM
            case n.Binary("comb", a, b):
                sets, taken = (
                    self._tensor(x) if self._isnumber(x) else self._at(x, here) for x in (a, b)
                )
                return f"{BINARY['comb'].code}({sets}, {taken})", ATOM
            case n.Binary("and" | "or" as op, a, b) if self._isnumber(a) and self._isnumber(b):
                sign = BINARY[op].python
                return f"({self._at(a, here, ATOM)} {sign} {self._at(b, here, ATOM)})", ATOM
            case n.Binary("pow", a, b) if self._isnumber(a) and self._isnumber(b):
                # With a number as the exponent, the root of -inf is NaN in torch.
                return f"{self._tensor(a)}**{self._tensor(b)}", POWER
            case n.Binary("pow", a, b):
                return f"{self._at(a, here, POWER + 1)}**{self._at(b, here, ATOM)}", POWER
            case n.Binary("div", a, b) if self._isnumber(a) and self._isnumber(b):
                if self._isnumber(node):
                    return self._infix(node)
                return f"{self._tensor(a)} / {self._at(b, here, ATOM)}", TIMES
            case n.Binary():
                return self._infix(node)
            case n.Clip():
                return self._clip(node), ATOM
            case n.Where():
                return self._where(node), ATOM
            case n.Reduce():
                return self._reduce(node)
            case n.Scan(relation, x, decay):
                if decay is not None and decay.indices != SCALAR:
                    rest = f"{self._in_rows(decay)}, {relation!r}"
                    return self._along_tokens("decayed_sum", x, rest), ATOM
                factor = "1.0" if decay is None else self._at(decay, SCALAR)
                return self._along_tokens("running_sum", x, f"{factor}, {relation!r}"), ATOM
            case n.Shift(x, by):
                return self._along_tokens("shifted", x, str(by)), ATOM
            case n.Order():
                return self._order(node), ATOM
            case n.Pick():
                return self._pick(node), ATOM
            case n.Stop() | n.Peers() | n.Present() | n.Quantile() | n.Symbol():
                raise TypeError(f"{type(node).__name__} is not written here")
        assert_never(node)

    def _position(self) -> tuple[str, int]:
        if self.packed:
            return f"({self._environment('position', TOKEN)} + 1).to({self._dtype()})", ATOM
        mask, dtype = self._environment("mask", TOKEN), self._dtype()
        end = f"{mask}.shape[1] + 1"
        return f"torch.arange(1, {end}, dtype={dtype}, device={mask}.device)", ATOM

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

    def _reduce(self, node: n.Reduce) -> tuple[str, int]:
        x, op, index, row = node.x, node.op, node.over[0], REDUCE[node.op]
        if x == ONE:
            return self._how_many(index), ATOM
        if index == "v":
            return f"{self._at(x, VOCAB, ATOM)}.{row.torch}(-1)", ATOM
        if index == "t":
            return self._over_tokens(op, x)
        if index == "p":
            match x:
                case n.Reduce("sum", ("i",), y) if op == "sum" and x not in self.stored:
                    if y == ONE:
                        return f"len({self._environment('prompt', RESPONSE)})", ATOM
                    return f"{self._at(y, RESPONSE, ATOM)}.sum()", ATOM
            return f"{self._at(x, PROMPT, ATOM)}.{row.torch}()", ATOM
        where = f"{self._environment('prompt', RESPONSE)}, {self._environment('n_prompts', SCALAR)}"
        text = self._at(x, RESPONSE)
        match op:
            case "sum" | "mean":
                return f"group_{op}({text}, {where})", ATOM
            case "std" | "pstd":
                return f"group_std({text}, {where}, ddof={int(op == 'std')})", ATOM
        return f'group_extreme({text}, {where}, "{row.torch}")', ATOM

    def _how_many(self, index: str) -> str:
        if index == "p":
            return self._environment("n_prompts", SCALAR)
        if index == "i":
            size = self._environment("group_size", PROMPT)
            return f"{size}[{self._environment('prompt', RESPONSE)}]" if self.cut else size
        if index == "t":
            return self._environment("length", RESPONSE)
        size = f"{self._input('column', self.scope.vocabulary_column, VOCAB)}.shape[-1]"
        like = self._environment("row" if self.packed else "mask", TOKEN)
        return f"torch.full_like({like}, {size}, dtype={self._dtype()})"

    def _over_tokens(self, op: n.ReduceOp, x: n.Expr) -> tuple[str, int]:
        text, row = self._at(x, TOKEN), REDUCE[op]
        if self.packed:
            length = self._environment("length", RESPONSE)
            where = f"{self._environment('row', TOKEN)}, len({length})"
            match op:
                case "sum":
                    return f"group_sum({text}, {where})", ATOM
                case "mean":
                    return f"group_sum({text}, {where}) / {length}", TIMES
            return f'group_extreme({text}, {where}, "{row.torch}")', ATOM
        mask = self._environment("mask", TOKEN)
        method = "sum" if row.linear else row.torch
        total = f"torch.where({mask}, {text}, {row.neutral}).{method}(-1)"
        if op == "mean":
            return f"{total} / {self._environment('length', RESPONSE)}", TIMES
        return total, ATOM

    def _along_tokens(self, kernel: str, x: n.Expr, rest: str) -> str:
        text = f"{kernel}({self._in_rows(x)}, {self._environment('mask', TOKEN)}, {rest})"
        if self.packed:
            row, position = (self._environment(key, TOKEN) for key in ("row", "position"))
            return f"{text}[{row}, {position}]"
        return text

    def _in_rows(self, x: n.Expr) -> str:
        """A value at the tokens of responses, each a row."""
        mask = self._environment("mask", TOKEN)
        if self._isnumber(x):
            return f"torch.full_like({mask}, {self._at(x, SCALAR)}, dtype={self._dtype()})"
        if x.indices == SCALAR:  # a number or a tensor: counts are the one or the other
            ones = f"torch.full_like({mask}, 1, dtype={self._dtype()})"
            return f"{ones} * {self._at(x, SCALAR, ATOM)}"
        if x.indices == TOKEN:
            if not self.packed:
                return self._at(x, TOKEN)
            row, position = self._environment("row", TOKEN), self._environment("position", TOKEN)
            return f"to_rows({self._at(x, TOKEN)}, {row}, {position}, {mask})"
        text = self._at(x, x.indices, ATOM)
        if self._indices(x) == PROMPT:
            text += f"[{self._environment('prompt', RESPONSE)}]"
        return f"{text}[:, None].expand({mask}.shape)"

    def _order(self, node: n.Order) -> str:
        here = node.indices
        operands = [self._at(node.x, here)]
        if node.at is not None:
            operands.append(self._at(node.at, SCALAR))
        if node.over == ("v",):
            pool = "True" if node.where is None else self._at(node.where, here)
            return f"{node.op}_entries({', '.join([*operands, pool])})"
        operands += [self._pool(node.where, here), self._segment(node.over, here)]
        return f"{ORDER[node.op].torch}({', '.join(operands)})"

    def _pool(self, where: n.Expr | None, here: Indices) -> str:
        """The mask of the elements that are there, and among them of those that count."""
        padded = here == TOKEN and not self.packed
        mask = self._environment("mask", TOKEN) if padded else ""
        if where is None:
            return mask or "True"
        return f"{mask} & {self._at(where, here, AND + 1)}" if mask else self._at(where, here)

    def _segment(self, over: Indices, here: Indices) -> str:
        """The group of each element, as a number."""
        if here == PROMPT or over[0] == "p":
            return "0"
        if over[0] == "i":
            return self._environment("prompt", RESPONSE) + self._lift(RESPONSE, here)
        if self.packed:
            return self._environment("row", TOKEN)
        mask = self._environment("mask", TOKEN)
        return f"torch.arange(len({mask}), device={mask}.device)[:, None]"

    def _pick(self, node: n.Pick) -> str:
        over, here = node.over, node.indices
        chosen, noise = self._at(node.m, here), self._column(node, TOKEN)
        fraction = self._at(node.fraction, SCALAR)
        if over[0] == "p":
            segment, groups = "None", "1"
        elif over[0] == "i":
            segment = self._environment("prompt", RESPONSE)
            groups = self._environment("n_prompts", SCALAR)
        else:
            length = self._environment("length", RESPONSE)
            segment, groups = (
                f"torch.arange(len({length}), device={length}.device)",
                f"len({length})",
            )
        if self.packed:
            if segment != "None":
                row = self._environment("row", TOKEN)
                segment = row if over[0] == "t" else f"{segment}[{row}]"
            return f"pick_mask({chosen}, {noise}, {segment}, {groups}, {fraction})"
        mask = self._environment("mask", TOKEN)
        return f"pick_tokens({chosen}, {noise}, {mask}, {segment}, {groups}, {fraction})"
