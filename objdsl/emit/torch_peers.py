"""Writes reductions that keep their elements: by keys, over the others, and of two elements."""

from __future__ import annotations

import objdsl.ir.nodes as n
from objdsl.emit.lower import Place, operands, place_of
from objdsl.emit.torch_expressions import TorchExpressions
from objdsl.emit.writer import ATOM, string
from objdsl.ir.differentiate import swapped
from objdsl.ir.indices import PROMPT, RESPONSE, SCALAR, TOKEN, Indices
from objdsl.ir.ops import REDUCE


class TorchPeers(TorchExpressions):
    """Writes values of peers beside all others."""

    compared = ""
    """The rows that each row is compared with, in a value of two elements."""

    def _expression(self, node: n.Expr) -> tuple[str, int]:
        match node:
            case n.Peers():
                return self._peers(node), ATOM
            case Place():
                return self._place(node), ATOM
        return super()._expression(node)

    def _at(self, node: n.Expr, indices: Indices, precedence: int = 0) -> str:
        if not self.compared or self._isnumber(node):
            return super()._at(node, indices, precedence)
        if node.paired and not isinstance(node, n.Present):
            text, level = self._expression(node)
            return f"({text})" if level < precedence else text
        compared, self.compared = self.compared, ""
        present = isinstance(node, n.Present)
        value = node.x if isinstance(node, n.Present) else node
        text = super()._at(value, RESPONSE if value.indices else SCALAR, ATOM)
        self.compared = compared
        if not value.indices:
            return text
        return f"{text}[:, None]" if present else f"{text}[{compared}]"

    def _peers(self, node: n.Peers) -> str:
        x, here = node.x, node.indices
        place, reduce = place_of(node), string(REDUCE[node.op].method)
        if x.paired:
            return self._pairs(node)
        text = self._spread(x, here)
        if place is None:
            segment = self._environment("prompt", RESPONSE)
            return f"group_others({text}, {segment}, {reduce})"
        at = self._at(place, here)
        match node.relation:
            case "":
                return f"among({text}, {at}, {reduce})"
            case "!=" if here == TOKEN:
                return f"others_among({text}, {at}, {self._rows()}, {reduce})"
            case "!=":
                return f"group_others({text}, alike({at}), {reduce})"
        return f"running_among({text}, {at}, {node.relation!r}, {reduce})"

    def _pairs(self, node: n.Peers) -> str:
        """A sum, a product or an extremum of what compares each row with others of its group."""
        place, row = place_of(node), REDUCE[node.op]
        segment = self._environment("prompt", RESPONSE)
        if place is not None:
            segment = f"alike({self._at(place, RESPONSE)})"
        for part in operands(node):
            self._write(part)
        compared = self.identifiers.fresh("compared")
        self.lines.append(f"{compared} = compared_with({segment})")
        back = node.op == "sum" and _is_decided_there(node.x)
        self.compared = compared
        body = self._at(swapped(node.x) if back else node.x, RESPONSE)
        self.compared = ""
        if back:
            return f"handed_back({body}, {compared})"
        return f"torch.where({compared} >= 0, {body}, {row.neutral}).{row.method}(-1)"

    def _place(self, node: Place) -> str:
        """How many places before each element the first one stands that shares its keys."""
        here, over = node.here, node.over[0]
        keys = "".join(f", {self._at(key, here)}" for key in node.keys)
        segment = "None"
        if here == TOKEN and over == "t":
            segment = self._rows()
        elif over == "i":
            segment = self._environment("prompt", RESPONSE)
            if here == TOKEN:
                lift = f"[{self._environment('row', TOKEN)}]" if self.packed else "[:, None]"
                segment += lift
        if here == TOKEN and not self.packed:
            return f"token_places({self._environment('mask', TOKEN)}, {segment}{keys})"
        return f"places({segment}{keys})"

    def _rows(self) -> str:
        """The row of each token."""
        if self.packed:
            return self._environment("row", TOKEN)
        mask = self._environment("mask", TOKEN)
        return f"torch.arange(len({mask}), device={mask}.device)[:, None]"

    def _spread(self, x: n.Expr, here: Indices) -> str:
        """A value for every element, although some share it."""
        text = self._at(x, here)
        if x.indices and not self._isnumber(x):
            return text
        like = {TOKEN: "row" if self.packed else "mask", RESPONSE: "prompt", PROMPT: "group_size"}
        shape = self._environment(like[here], here)
        if self._isnumber(x):
            return f"torch.full_like({shape}, {text}, dtype={self._dtype()})"
        return f"torch.full_like({shape}, 1, dtype={self._dtype()}) * ({text})"


def _is_decided_there(x: n.Expr) -> bool:
    """Whether a value of two elements asks what the running one has found of the two, the larger
    or the smaller: to compute that again from the other side may round it otherwise."""
    return any(
        isinstance(node, n.Binary)
        and node.op in ("eq", "ne")
        and any(not side.paired and side.indices for side in node.children)
        and any(side.paired and not isinstance(side, n.Present) for side in node.children)
        for node in n.topological(x)
        if node.paired
    )
