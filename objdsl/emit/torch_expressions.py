"""Writes the values of formulas as tensor operations: element by element, and along indices."""

from __future__ import annotations

from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.emit.stages import Carried
from objdsl.emit.torch_elements import TorchElements
from objdsl.emit.writer import AND, ATOM, POWER, TIMES, number
from objdsl.ir.build import ONE
from objdsl.ir.indices import PROMPT, RESPONSE, SCALAR, TOKEN, VOCAB, Indices
from objdsl.ir.ops import BINARY, ORDER, REDUCE


class TorchExpressions(TorchElements):
    """Writes the values inside of one function."""

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

    # --- along indices ---------------------------------------------------------------------------

    def _reduce(self, node: n.Reduce) -> tuple[str, int]:
        x, op, index, row = node.x, node.op, node.over[0], REDUCE[node.op]
        if x == ONE:
            return self._how_many(index), ATOM
        if index == "v":
            return f"{self._at(x, VOCAB, ATOM)}.{row.method}(-1)", ATOM
        if index == "t":
            return self._over_tokens(op, x)
        if index == "p":
            match x:
                case n.Reduce("sum", ("i",), y) if op == "sum" and x not in self.stored:
                    if y == ONE:
                        return f"len({self._environment('prompt', RESPONSE)})", ATOM
                    return f"{self._at(y, RESPONSE, ATOM)}.sum()", ATOM
            return f"{self._at(x, PROMPT, ATOM)}.{row.method}()", ATOM
        where = f"{self._environment('prompt', RESPONSE)}, {self._environment('n_prompts', SCALAR)}"
        text = self._at(x, RESPONSE)
        match op:
            case "sum" | "mean":
                return f"group_{op}({text}, {where})", ATOM
            case "std" | "pstd":
                return f"group_std({text}, {where}, ddof={int(op == 'std')})", ATOM
            case "prod" | "max" | "min":
                return f'group_extreme({text}, {where}, "{row.method}")', ATOM
            case "logsumexp":
                raise TypeError(f"{op} is not written here")
        assert_never(op)

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
                case "prod" | "max" | "min":
                    return f'group_extreme({text}, {where}, "{row.method}")', ATOM
                case "std" | "pstd" | "logsumexp":
                    raise TypeError(f"{op} is not written here")
            assert_never(op)
        mask = self._environment("mask", TOKEN)
        method = "sum" if row.linear else row.method
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
