"""Formulas of papers as formulas of the language: trees to text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from lark import Token, Tree

from objdsl.ir.ops import AND, APPLY, ATOM, COMPARE, IF, NOT, OR, PLUS, TIMES
from objdsl.ir.ops import FUNCTIONS as UNARY
from objdsl.source import Source, Span
from objdsl.tex import names
from objdsl.tex.lexer import unreadable
from objdsl.tex.names import INDICES, POLICIES, SIZES, Parts, accented, identifier, parts_of, word
from objdsl.tex.parse import Equation, Node, leaves, span_of, tree_of
from objdsl.tex.pieces import (
    Piece,
    applied,
    compared,
    infix,
    logarithm,
    negated,
    number,
    over,
    raised,
    reduced,
    resolved,
    times,
)

Factor = tuple[str, Tree[Token]]
_STOPS = {"sg", "stopgrad", "stop_grad", "stop_gradient", "stopgradient", "detach", "nograd", "sg_"}
_STATISTICS = {"mean": "mean", "std": "std", "pstd": "pstd", "max": "max", "min": "min",
               "median": "median", "logsumexp": "logsumexp", "avg": "mean"}  # fmt: skip
_COUNTS = {("i",): "count[i]", ("p", "i"): "count[p,i]", ("p",): "count[p]", ("t",): "|y|",
           ("p", "i", "t"): "count[p,i,t]", ("i", "t"): "count[i,t]"}  # fmt: skip
_RELATIONS = {"<": "<", ">": ">", "lt": "<", "gt": ">", "le": "<=", "leq": "<=", "leqslant": "<=",
              "ge": ">=", "geq": ">=", "geqslant": ">=", "ne": "!=", "neq": "!=", "≤": "<=",
              "≥": ">="}  # fmt: skip


@dataclass(frozen=True)
class _Binder:
    """What stands under a sum: `i=1`, `j \\ne i`, `s \\ge t`."""

    over: tuple[str, ...]
    letters: tuple[str, ...]
    relation: str = ""
    mask: tuple[Token, ...] = ()
    running: bool = False


@dataclass
class Reading:
    """What is known while equations are read.

    Attributes:
        definitions: the equations by the names that they define.
        lets: the texts of names, each after what it uses, with what was guessed of them.
        params, givens, policies: what the formula reads, and no equation defines.
        declared: names that comments of the text declare, with how many indices each carries.
        masks: the columns among them.
        letters: which index a letter runs along.
        response, token: the letters that are spoken of.
        position: what the position of the token is called.
        bound: the indices that are reduced around here.
        kept: whether a comment says which prompts are kept.
        guesses: what was guessed of the formula itself.
    """

    source: Source
    definitions: dict[str, Equation] = field(default_factory=dict)
    declared: dict[str, int] = field(default_factory=dict)
    masks: frozenset[str] = frozenset()
    kept: bool = False
    sizes: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(SIZES))
    lets: dict[str, tuple[Piece, str]] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    givens: dict[str, str] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    letters: dict[str, str] = field(default_factory=dict)
    response: str = ""
    token: str = ""
    position: str = "t"
    bound: tuple[str, ...] = ()
    guesses: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def value(self, tokens: Sequence[Token]) -> Piece:
        """The value of a formula.

        Raises:
            ObjectiveError: it is not read.
        """
        return self.read(tree_of(self.source, tokens))

    def guess(self, text: str) -> None:
        if text not in self.guesses:
            self.guesses.append(text)

    def fail(self, message: str, at: Node | Sequence[Token], help: str = "") -> Exception:
        tokens = leaves(at) if isinstance(at, Tree | Token) else list(at)
        return unreadable(message, self.span(tokens), help)

    def span(self, tokens: Sequence[Token]) -> Span:
        return span_of(self.source, tokens)

    # --- formulas --------------------------------------------------------------------------------

    def read(self, node: Node) -> Piece:
        assert isinstance(node, Tree)
        parts = node.children
        match str(node.data):
            case "either" | "both" as kind:
                sign, level = ("or", OR) if kind == "either" else ("and", AND)
                return compared(self.read(parts[0]), sign, self.read(parts[2]), level)
            case "negation":
                x = self.read(parts[1])
                return Piece(f"not {x.held(NOT)}", NOT, x.depth, mask=True)
            case "relation":
                return self._relation(node)
            case "sum":
                sign = "+" if parts[1] == "+" else "-"
                return infix(self.read(parts[0]), sign, self.read(parts[2]), PLUS)
            case "signed":
                x = self.read(parts[1])
                return x if parts[0] == "+" else negated(x)
            case "product":
                return self._factors(_flat(node))
            case "factor":
                return self._factors([("", node)])
        raise self.fail("this is not read", node)

    def _relation(self, node: Tree[Token]) -> Piece:
        left, sign, right = node.children
        assert isinstance(sign, Token)
        written = "==" if sign.type == "EQUAL" else _RELATIONS.get(str(sign))
        if written is None:
            raise self.fail(f"`\\{sign}` is no comparison", sign)
        if isinstance(left, Tree) and left.data == "relation":  # a < b < c
            first, middle = self._relation(left), self.read(left.children[2])
            return compared(first, "and", compared(middle, written, self.read(right), COMPARE), AND)
        a, b = self.read(left), self.read(right)
        if (
            b.text == "0" and a.text in self.masks and written in ("==", "!=")
        ):  # a column, as a mask
            return a if written == "!=" else Piece(f"not {a.text}", NOT, a.depth, mask=True)
        return compared(a, written, b, COMPARE)

    def _factors(self, items: Sequence[Factor]) -> Piece:
        pieces: list[tuple[str, Piece]] = []
        at = 0
        while at < len(items):
            op, factor = items[at]
            base = factor.children[0]
            if isinstance(base, Token) and base.type == "EVAL":
                shift = self._parts(factor, "SUB").shift
                if not pieces or shift != 1:
                    raise self.fail("only the value at the next token is read", factor)
                last = pieces.pop()
                pieces.append((last[0], applied("next", last[1])))
                at += 1
                continue
            if isinstance(base, Token) and base.type == "BIG":
                pieces.append((op, self._big(items, at, pieces)))
                break
            piece, at = self._unit(items, at)
            pieces.append((op, piece))
        if not pieces:
            raise self.fail("a factor is missing", [t for _, f in items for t in leaves(f)])
        total = pieces[0][1]
        for op, piece in pieces[1:]:
            if total.text.isdigit() and piece.text.startswith("1e-"):
                total = number(f"{total.text}{piece.text[1:]}")
            else:
                total = over(total, piece) if op == "/" else times(total, piece)
        return total

    # --- sums ------------------------------------------------------------------------------------

    def _big(self, items: Sequence[Factor], at: int, before: list[tuple[str, Piece]]) -> Piece:
        """A run of sums over what follows; those that are divided by their sizes are means."""
        first = items[at][1]
        op = str(first.children[0]).replace("∑", "sum").replace("∏", "prod")
        run: list[_Binder] = []
        while at < len(items):
            base = items[at][1].children[0]
            if not (
                isinstance(base, Token)
                and base.type == "BIG"
                and str(base) == str(first.children[0])
            ):
                break
            binder = self._binder(items[at][1])
            if run and (binder.relation or binder.mask):
                break
            run.append(binder)
            at += 1
            if binder.relation or binder.mask:
                break
        if at == len(items):
            raise self.fail("what is summed is missing", first)
        if run[0].relation:
            others = before[-1][1].text if before else ""
            if run[0].over == ("i",) and others == "1 / (count[i] - 1)":
                before.pop()
                op = "mean"
            return self._related(op, run[0], items[at:], first)
        classes = tuple(index for binder in run for index in binder.over)
        mask = self._mask(run[0].mask, run) if run[0].mask else ""
        with self._inside(run):
            body = (
                resolved(self._factors(items[at:])) if "i" in classes else self._factors(items[at:])
            )
        if op == "prod":
            return self._reductions([("prod", classes)], body, mask, first)
        if body.text == "|y|" and not mask:
            whole = (*classes, "t")
            return Piece(
                f"sum[{','.join(classes)}] |y|",
                APPLY,
                self._left(classes, 2),
                counted=(whole,),
                open=True,
            )
        groups: list[tuple[str, tuple[str, ...]]] = [("sum", (index,)) for index in classes]
        while before and before[-1][1].sizes and before[-1][0] != "/" and not mask:
            sizes = list(before[-1][1].sizes)
            for size in sorted(before[-1][1].sizes, key=len, reverse=True):
                for k in range(len(groups)):
                    part = groups[k : k + len(size)]
                    if tuple(index for _, (index, *_) in part for index in [index]) == size and all(
                        kind == "sum" and len(over) == 1 for kind, over in part
                    ):
                        groups[k : k + len(size)] = [("mean", size)]
                        sizes.remove(size)
                        break
            sign, fraction = before.pop()
            if len(sizes) == len(fraction.sizes):
                before.append((sign, fraction))
                break
            rest = Piece(fraction.above, 0 if not fraction.above.isalnum() else ATOM)
            for size in sizes:
                rest = over(rest, Piece(_COUNTS[size], counted=(size,)))
            if rest.text != "1":
                before.append((sign, rest))
                break
        return self._reductions(groups, body, mask, first)

    def _reductions(
        self, groups: list[tuple[str, tuple[str, ...]]], body: Piece, mask: str, at: Node
    ) -> Piece:
        merged: list[tuple[str, tuple[str, ...]]] = []
        for kind, indices in groups:
            merged.append((kind, indices))
        for kind, indices in reversed(merged):
            depth = self._left(indices, body.depth)
            binder = ",".join(indices) + (f" | {mask}" if mask else "")
            body = reduced(kind, binder, body, depth)
        return body

    def _left(self, indices: Sequence[str], depth: int) -> int:
        whole = max(depth, "pitv".index(indices[-1]) + 1)
        return len([index for index in "pitv"[:whole] if index not in indices])

    def _binder(self, factor: Tree[Token]) -> _Binder:
        sub, sup = _script(factor, "SUB"), _script(factor, "SUP")
        colon = next((k for k, token in enumerate(sub) if token.type in ("COLON", "MID")), len(sub))
        mask = tuple(sub[colon + 1 :])
        sub = [
            token for token in sub[:colon] if token.type not in ("LPAR", "RPAR", "LBRACE", "RBRACE")
        ]
        if not sub:
            raise self.fail("a sum names its index", factor)
        kinds = [token.type for token in sub]
        primed = kinds[1:2] == ["PRIME"]
        letter = str(sub[0]) + ("'" if primed else "")
        rest = sub[2:] if primed else sub[1:]
        if kinds[0] not in ("LETTER", "GREEK", "WORD"):
            raise self.fail("a sum names its index", factor)
        if rest and rest[0].type == "COMMA":
            letters = [str(token) for token in sub if token.type == "LETTER"]
            indices = tuple(index for index in "pitv" if index in map(self._index, letters))
            return _Binder(indices, tuple(letters), mask=mask)
        if rest and rest[0].type == "RELATION" and str(rest[0]) in _RELATIONS:
            relation = _RELATIONS[str(rest[0])]
            index = "i" if relation == "!=" else "t"
            return _Binder((index,), (letter,), relation, mask)
        many = [str(token) for token in sup]
        if rest[:1] and rest[0].type == "EQUAL" and len(rest) > 1:
            start = str(rest[1])
            if start == (self.token or "t") and letter != start:
                return _Binder(("t",), (letter,), ">=" if len(rest) == 2 else ">", mask)
            ends = [x for x in many if x in (self.token or "t")]
            if (
                ends
                and "|" not in many
                and letter[0] in "tsuhkl"
                and many[0] == (self.token or "t")
            ):
                return _Binder(("t",), (letter,), "<=" if len(many) == 1 else "<", mask)
            if start == "0" and letter in "lk" and ("infty" in many or "-" in many):
                return _Binder(("t",), (letter,), ">=", mask, running=True)
        return _Binder((self._index(letter, sup, rest),), (letter,), mask=mask)

    def _index(self, letter: str, sup: Sequence[Token] = (), rest: Sequence[Token] = ()) -> str:
        kinds, texts = [token.type for token in sup], [str(token) for token in sup]
        if "LBAR" in kinds or texts[:1] in (["T"], ["L"], ["H"], ["n"]):
            return "t"
        if texts[:1] and texts[0] in self.sizes and self.sizes[texts[0]] in (("i",), ("p",)):
            return self.sizes[texts[0]][-1]
        if texts[:1] in (["N"], ["M"], ["G"], ["K"]) or "SIZE" in kinds:
            return "i"
        if any(str(token) == "V" for token in rest):
            return "v"
        return INDICES.get(letter[0], "i")

    @contextmanager
    def _inside(self, run: Sequence[_Binder]) -> Iterator[None]:
        """Speaks of the elements that a sum runs over."""
        before = self.response, self.token, self.bound
        for binder in run:
            self.bound = (*self.bound, *binder.over)
            for letter in binder.letters:
                index = binder.over[0] if len(binder.over) == 1 else self._index(letter)
                if index == "i":
                    self.response = letter
                if index == "t":
                    self.token = letter
        try:
            yield
        finally:
            self.response, self.token, self.bound = before

    def _mask(self, tokens: Sequence[Token], run: Sequence[_Binder]) -> str:
        if self.kept and "p" in run[0].over:
            return ""
        with self._inside(run):
            return self.value(tokens).text

    def _related(self, op: str, binder: _Binder, items: Sequence[Factor], at: Node) -> Piece:
        """`\\sum_{j \\ne i}` and sums along the tokens, with their discounts."""
        if binder.over == ("i",):
            with self._inside([binder]):
                body = self._factors(items)
            return Piece(f"{op}[j != i] {body.held(APPLY)}", APPLY, 2, open=True)
        outer = self.token or "t"
        decays, items = self._decays(binder, list(items), outer)
        running = binder.letters[0]
        s = next(x for x in "suqh" if x not in self.definitions and x not in self.lets)
        before, self.position = self.position, self.position if decays else s
        try:
            with self._inside([binder]):
                if binder.running:
                    self.token = f"{outer}+{running}"
                body = self._factors(items)
        finally:
            self.position = before
        if decays:
            if binder.relation != ">=":
                raise self.fail("a discount is read in a sum of what is to come", at)
            return applied("togo", body, _joined(decays))
        return Piece(f"{op}[{s} {binder.relation} t] {body.held(APPLY)}", APPLY, 3, open=True)

    def _decays(
        self, binder: _Binder, items: list[Factor], outer: str
    ) -> tuple[list[Piece], list[Factor]]:
        decays: list[Piece] = []
        running = binder.letters[0]
        while items:
            factor = items[0][1]
            sup = [
                str(token) for token in _script(factor, "SUP") if token.type not in ("LBAR", "RBAR")
            ]
            base = factor.children[0]
            if sup in ([running, "-", outer], [running]) and (len(sup) > 1 or binder.running):
                plain = Tree("factor", [c for c in factor.children if not _is_script(c, "SUP")])
                decays.append(self._factors([("", plain)]))
            elif (big := _big_product(base)) is not None and len(items) > 1:
                inner = self._binder(big[0])
                with self._inside([replace(inner, over=("t",))]):
                    decays.append(self._factors(big[1]))
            else:
                break
            items = items[1:]
        return decays, items

    # --- one factor ------------------------------------------------------------------------------

    def _unit(self, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
        """A factor, with the brackets behind it that are its argument."""
        _, factor = items[at]
        base = factor.children[0]
        group = _group_at(items, at + 1)
        if isinstance(base, Token):
            match base.type:
                case "NUMBER":
                    return self._power(self._number(base, factor), factor), at + 1
                case "INFINITY":
                    return number("inf"), at + 1
                case "NABLA":
                    self.guess("the gradient is taken by objdsl: the nabla is left out")
                    return self._unit(items, at + 1)
                case "FUNCTION":
                    return self._function(items, at)
                case "SIZE":
                    letter = str(items[at + 1][1].children[0])
                    size = {"i": ("i",), "x": ("p",), "t": ("t",)}.get(letter, ("p", "i"))
                    return Piece(_COUNTS[size], depth=_depth_of(size), counted=(size,)), at + 2
                case "DOTS":
                    raise self.fail("what the dots stand for is not written", base)
                case "BLACKBOARD":
                    return self._blackboard(items, at)
                case "GREEK" if str(base) in ("pi", "mu") and (group or self._names_policy(factor)):
                    return self._policy(factor, group), at + 1 + (group is not None)
                case "GREEK" if str(base) == "sigma" and group is not None:
                    x = self._single(group)
                    return replace(applied("sigmoid", x), logistic=x.text), at + 2
                case "LETTER" if str(base) == "e" and _script(factor, "SUP"):
                    return applied("exp", self.value(_script(factor, "SUP"))), at + 1
                case "LETTER" | "WORD" if self._is_divergence(factor) and group is not None:
                    return self._divergence(factor, group), at + 2
                case "WORD":
                    return self._word(items, at)
            return self._named(factor, base, group), at + 1 + self._skips(group)
        match str(base.data):
            case "accent":
                tokens = [t for t in leaves(base)[1:] if t.type not in ("OPEN", "CLOSE")]
                if tokens and str(tokens[0]) == "E":
                    return self._expectation(items, at)
                if str(tokens[0]) in ("pi",) and group is not None:
                    return self._policy(factor, group), at + 2
                return self._named(factor, tokens[0], group), at + 1 + self._skips(group)
            case "fraction":
                return self._power(self._fraction(base), factor), at + 1
            case "binomial":
                return applied("comb", *(self._plain(x) for x in base.children[1:])), at + 1
            case "root":
                return self._power(applied("sqrt", self._plain(base.children[1])), factor), at + 1
            case "braced":
                return self._plain(base.children[1]), at + 1
            case "plain_group":
                inner = self.read(base.children[1])
                return self._power(self._enclosed(inner), factor), at + 1
            case "group":
                if any(
                    x.lower().replace(" ", "_") in _STOPS for x in self._parts(factor, "SUB").words
                ):
                    return applied("sg", self._single(base)), at + 1
                return self._power(self._enclosed(self._single(base)), factor), at + 1
            case "bars":
                return self._power(self._bars(base), factor), at + 1
            case "cases":
                return self._cases(base), at + 1
        raise self.fail("this is not read", factor)

    def _enclosed(self, x: Piece) -> Piece:
        """In brackets; what is a condition stays one."""
        if x.level == ATOM or x.sizes or x.counted:
            return x
        return replace(x, text=f"({x.text})", level=ATOM, open=False)

    def _skips(self, group: Tree[Token] | None) -> int:
        """1 if a group behind a name is its argument, `(\\theta)`, and no factor."""
        if group is None:
            return 0
        inside = [t for t in leaves(group)[1:-1] if t.type not in ("COMMA", "MID", "LPAR", "RPAR")]
        plain = all(
            t.type in ("GREEK", "LETTER", "SUB", "SUP", "OPEN", "CLOSE", "WORD", "NUMBER")
            or (t.type in ("PLUS", "MINUS") and k and inside[k - 1].type == "LETTER")
            for k, t in enumerate(inside)
        )
        arguments = {"theta", "phi", "x", "y", "q", "o", "pi", "s", "a", "psi", "J", "omega"}
        first = next((str(t) for t in inside if t.type in ("LETTER", "GREEK", "CALLIGRAPHIC")), "")
        return int(plain and first in arguments)

    def _number(self, base: Token, factor: Tree[Token]) -> Piece:
        sup = "".join(str(token) for token in _script(factor, "SUP"))
        if str(base) == "10" and sup.lstrip("-").isdigit():
            factor.children[:] = factor.children[:1]
            return number(f"1e{sup}") if sup.startswith("-") else number(str(10 ** int(sup)))
        return number(str(base))

    def _power(self, x: Piece, factor: Tree[Token]) -> Piece:
        sup = _script(factor, "SUP")
        return raised(x, self.value(sup)) if sup else x

    def _plain(self, node: Node) -> Piece:
        """An argument of a command."""
        assert isinstance(node, Tree)
        inner = node.children[0]
        if isinstance(inner, Tree):
            return self.read(inner.children[1])
        return self._factors([("", Tree("factor", [inner]))])

    def _single(self, group: Tree[Token]) -> Piece:
        parts = _items(group)
        if len(parts) != 1 or parts[0] is None:
            raise self.fail("one value is read here", group)
        return self.read(parts[0])

    def _fraction(self, base: Tree[Token]) -> Piece:
        above, below = (self._plain(x) for x in base.children[1:])
        if below.counted and above.text == "1":
            return replace(over(above, below), sizes=below.counted, above="1")
        return over(above, below)

    def _bars(self, base: Tree[Token]) -> Piece:
        inside = leaves(base)[1:-1]
        first = inside[0]
        if str(first) in ("y", "o", "a", "tau", "z") and not any(
            t.type in ("PLUS", "MINUS", "TIMES", "FRAC") for t in inside
        ):
            parts = parts_of(inside[2:] if len(inside) > 2 else [], tuple(self.letters))
            self._check(parts, inside)
            at = _pair_of(parts, [])
            return Piece("|y|", depth=2, counted=(("t",),), at=at)
        if first.type == "CALLIGRAPHIC" and str(first) == "V":
            return Piece("count[v]", depth=3, counted=(("v",),))
        return applied("abs", self.read(base.children[1]))

    def _cases(self, base: Tree[Token]) -> Piece:
        rows = [child for child in base.children if isinstance(child, Tree)]
        values: list[tuple[Piece, Piece | None]] = []
        for row in rows:
            trees = [child for child in row.children if isinstance(child, Tree)]
            value, condition = self.read(trees[0]), None
            if len(trees) > 1 and isinstance(trees[1].children[0], Tree):
                condition = self.read(trees[1].children[0])
            values.append((value, condition))
        result = values[-1][0]
        for value, condition in reversed(values[:-1]):
            if condition is None:
                raise self.fail("a case has a condition", base)
            depth = max(value.depth, result.depth, condition.depth)
            text = f"{value.held(IF + 1)} if {condition.held(IF + 1)} else {result.held(IF)}"
            result = Piece(text, IF, depth)
        return Piece(f"({result.text})", ATOM, result.depth)

    # --- functions -------------------------------------------------------------------------------

    def _function(self, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
        factor = items[at][1]
        name = str(factor.children[0])
        group = _group_at(items, at + 1)
        if name in ("min", "max", "sup", "inf"):
            name = {"sup": "max", "inf": "min"}.get(name, name)
            if group is not None and len(_items(group)) > 1:
                operands = [self.read(x) for x in _items(group) if x is not None]
                return applied(name, *operands), at + 2
            if _script(factor, "SUB"):
                return self._statistic(name, items, at)
            raise self.fail(f"`\\{name}` is read of two values, or over an index", factor)
        if at + 1 == len(items):
            raise self.fail(f"what `\\{name}` is taken of is missing", factor)
        if name in ("log", "ln", "exp") and _is_big(items[at + 1][1]):
            x, after = self._factors(items[at + 1 :]), len(items)
        else:
            x, after = self._unit(items, at + 1)
        while (
            after < len(items)
            and isinstance(items[after][1].children[0], Token)
            and (
                items[after][1].children[0].type == "EVAL"  # type: ignore[union-attr]
            )
        ):
            x, after = applied("next", x), after + 1
        value = applied("exp", x) if name == "exp" else logarithm(x)
        return self._power(value, factor), after

    def _word(self, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
        factor = items[at][1]
        base = factor.children[0]
        assert isinstance(base, Token)
        name = str(base).strip()
        plain = name.lower().replace(" ", "_").replace("-", "_")
        group = _group_at(items, at + 1)
        if plain in _STATISTICS and (group is not None or _script(factor, "SUB")):
            return self._statistic(_STATISTICS[plain], items, at)
        if group is not None:
            if plain in _STOPS:
                return applied("sg", self._single(group)), at + 2
            if plain in ("clip", "clamp"):
                return self._clip(group), at + 2
            if plain in ("min", "max"):
                return applied(
                    plain, *(self.read(x) for x in _items(group) if x is not None)
                ), at + 2
            if plain in ("sign", "sgn"):
                return applied("sign", self._single(group)), at + 2
            if plain in UNARY:
                return applied(plain, self._single(group)), at + 2
            if plain in ("1", "i"):
                return self._condition(group), at + 2
        return self._named(factor, base, group), at + 1 + self._skips(group)

    def _clip(self, group: Tree[Token]) -> Piece:
        parts = [self.read(x) for x in _items(group) if x is not None]
        if len(parts) == 2:
            self.guess("a clip with one bound is taken for the interval around 1")
            width = parts[1].text
            parts = [parts[0], number(f"1 - {width}"), number(f"1 + {width}")]
        if len(parts) != 3:
            raise self.fail("a clip has a value and two bounds", group)
        return applied("clip", *parts)

    def _condition(self, group: Tree[Token]) -> Piece:
        x = self._single(group)
        return replace(self._enclosed(x), mask=True)

    def _statistic(self, name: str, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
        """`\\operatorname{mean}_{j}(R_j)`, `\\mathrm{std}(\\{R_1, ..., R_G\\})`, `\\max_t x`."""
        factor = items[at][1]
        group = _group_at(items, at + 1)
        binder = self._binder(factor) if _script(factor, "SUB") else None
        if binder is None:
            binder = _Binder(("i",), ("*",))
        mask = self._mask(binder.mask, [binder]) if binder.mask else ""
        with self._inside([binder]):
            if group is not None:
                inner = _items(group)[0]
                assert inner is not None
                deeper = _braced_set(inner)
                body = self.read(deeper if deeper is not None else inner)
                after = at + 2
            else:
                body, after = self._factors(items[at + 1 :]), len(items)
        if name == "std" and group is not None and _script(factor, "SUB") == []:
            self.guess("`std` divides by n - 1; with n it is `pstd`")
        reach = f" | {mask}" if mask else ""
        depth = self._left(binder.over, body.depth)
        piece = reduced(name, ",".join(binder.over) + reach, body, depth)
        return (self._enclosed(piece) if group is not None else piece), after

    def _blackboard(self, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
        factor = items[at][1]
        name = str(factor.children[0])
        group = _group_at(items, at + 1)
        if name == "E":
            return self._expectation(items, at)
        if name in ("1", "I"):
            if group is not None:
                return self._condition(group), at + 2
            condition = self.value(
                [t for t in _script(factor, "SUB") if t.type not in ("LBRACE", "RBRACE")]
            )
            return Piece(f"({condition.text})", depth=condition.depth, mask=True), at + 1
        if name in ("D", "KL") and group is not None:
            return self._divergence(factor, group), at + 2
        raise self.fail(f"`\\mathbb{{{name}}}` is not read here", factor)

    def _expectation(self, items: Sequence[Factor], at: int) -> tuple[Piece, int]:
        """A mean over what the value below it varies with."""
        factor = items[at][1]
        sub = _script(factor, "SUB")
        if at + 1 < len(items) and not sub and _samples(items[at + 1][1]):
            at, sub = at + 1, leaves(items[at + 1][1])
        group = _group_at(items, at + 1)
        colon = next((k for k, token in enumerate(sub) if token.type == "COLON"), len(sub))
        binder = _Binder(("p",), ("x",), mask=tuple(sub[colon + 1 :]))
        mask = self._mask(binder.mask, [binder]) if binder.mask else ""
        with self._inside([binder]):
            if group is not None:
                x, after = self._power(self._single(group), items[at + 1][1]), at + 2
            else:
                x, after = self._factors(items[at + 1 :]), len(items)
        x = resolved(x)
        if x.depth > 3:
            raise self.fail("an expectation over words is `\\sum_{v}`", factor)
        indices = "pit"[: max(x.depth, 1)]
        if x.depth == 3:
            self.guess("the expectation over tokens is a mean with one denominator, `mean[p,i,t]`")
        elif x.depth == 2 and any(str(token) == "G" for token in sub):
            self.guess("the responses of a group are averaged")
        binding = ",".join(indices) + (f" | {mask}" if mask else "")
        return reduced("mean", binding, x, 0), after

    # --- policies --------------------------------------------------------------------------------

    def _names_policy(self, factor: Tree[Token]) -> bool:
        return str(factor.children[0]) == "pi"

    def _policy_name(self, factor: Tree[Token]) -> str:
        tokens = leaves(factor)
        base = next(t for t in tokens if t.type == "GREEK")
        if base == "mu":
            return "mu"
        sub, sup = _script(factor, "SUB"), _script(factor, "SUP")
        key = "_".join((*names.words_of(sub), *names.words_of(sup)))
        key = key.lower().replace(" ", "_")
        while "__" in key:
            key = key.replace("__", "_")
        if key in self.declared:
            return key
        for candidate in (key, key.removeprefix("theta_"), key.split("_")[-1]):
            if candidate in POLICIES:
                return POLICIES[candidate]
        name = identifier(key.removeprefix("theta_"))
        self.policies.setdefault(name, "" if name in self.declared else "guessed: a frozen policy")
        return name

    def _policy(self, factor: Tree[Token], group: Tree[Token] | None) -> Piece:
        name = self._policy_name(factor)
        if group is None:
            return Piece(name, depth=3)
        tokens = leaves(group)[1:-1]
        mid = next((k for k, t in enumerate(tokens) if t.type == "MID"), len(tokens))
        asked, given = tokens[:mid], tokens[mid + 1 :]
        first = next((t for t in asked if t.type in ("LETTER", "GREEK", "WORD", "DOTS")), None)
        if first is None:
            raise self.fail("a policy is asked for a response, or a token of it", group)
        parts = parts_of(_first_script(asked, "SUB"), tuple(self.letters))
        later = parts_of(_first_script(asked, "SUP"), tuple(self.letters))
        self._check(parts, asked)
        at = _pair_of(parts, [str(t) for t in _first_script(asked, "SUP")])
        letters = [x for x in (*parts.indices, *later.indices) if not at or x not in "wl"]
        indices = {self._class(letter) for letter in letters}
        before = any(t.type == "RELATION" for t in given)
        inside = [t for k, t in enumerate(given) if k and given[k - 1].type in ("SUB", "OPEN")]
        state = any(t.type == "LETTER" and self._class(str(t)) == "t" for t in inside)
        if str(first) == "v" or (first.type == "DOTS" and (before or state)):
            return Piece(f"{name}[v]", depth=4)
        if "t" in indices or before or (str(first) == "a" and "i" not in indices):
            return Piece(name, depth=3, at=at)
        return Piece(f"prod[t] {name}", APPLY, 2, at, product=name, open=True)

    def _is_divergence(self, factor: Tree[Token]) -> bool:
        text = "".join(str(t) for t in (*leaves(factor)[:1], *_script(factor, "SUB")))
        return text.replace("_", "").lower() in ("dkl", "kl", "dtextkl", "d kl")

    def _divergence(self, factor: Tree[Token], group: Tree[Token]) -> Piece:
        parts = [x for x in _items(group) if x is not None]
        if len(parts) != 2:
            raise self.fail("a divergence is that of two policies", group)
        policies = []
        exact = False
        for part in parts:
            tokens = leaves(part)
            base = next((f for f in _flat_any(part) if str(leaves(f)[0]) in ("pi", "mu")), None)
            if base is None:
                raise self.fail("a divergence is that of two policies", part)
            exact |= any(t.type == "DOTS" for t in tokens) and any(
                t.type == "RELATION" or (t == "t" and t.type == "LETTER") for t in tokens
            )
            policies.append(self._policy_name(base))
        p, q = policies
        if exact:
            return Piece(f"sum[v] ({p}[v] * log({p}[v] / {q}[v]))", APPLY, 3, open=True)
        self.guess("the divergence is estimated from the sampled tokens by `k3`")
        x = Piece(f"k3({p}, {q})", depth=3)
        missing = [index for index in "it" if index not in self.bound]
        if "t" in missing:
            self.guess("and averaged over the tokens of a response")
            x = reduced("mean", "t", x, 2)
        if "i" in missing and "t" in missing and "p" in self.bound:
            x = reduced("mean", "i", x, 1)
        return x

    # --- names -----------------------------------------------------------------------------------

    def _class(self, letter: str) -> str:
        if letter == self.response:
            return "i"
        if letter == self.token or letter.rstrip("'") == "t":
            return "t"
        return self.letters.get(letter, INDICES.get(letter.rstrip("'"), ""))

    def _check(self, parts: Parts, at: Sequence[Token]) -> None:
        """What is spoken of is the response and the token at hand."""
        for letter in parts.indices:
            kind = self._class(letter)
            spoken = self.response if kind == "i" else self.token if kind == "t" else letter
            if letter in "wl" and len(parts.indices) == 1:
                continue  # of a pair
            if self.response == "*" and kind == "i":
                continue
            running = f"{letter}+{parts.running}" if parts.running else letter
            if spoken and spoken not in (letter, running):
                what = "response" if kind == "i" else "token"
                raise self.fail(
                    f"`{letter}` is a different {what} than the `{spoken}` of the sum around it",
                    at, "inside a reduction only the value of its own element can be said",
                )  # fmt: skip

    def _parts(self, factor: Tree[Token], kind: str) -> Parts:
        return parts_of(_script(factor, kind), tuple(self.letters))

    def _named(self, factor: Tree[Token], base: Token, group: Tree[Token] | None) -> Piece:
        """The value that a symbol stands for."""
        sub, sup = self._parts(factor, "SUB"), _script(factor, "SUP")
        powers: list[Token] = []
        suffix: tuple[str, ...] = ()
        pair = _pair_of(sub, [str(t) for t in sup])
        if group is not None and self._skips(group):
            argument = leaves(group)[1:-1]
            for k, token in enumerate(argument):
                if token.type == "SUB":
                    parts = parts_of(_first_script(argument[k:], "SUB"), tuple(self.letters))
                    indices = tuple(x for x in parts.indices if x not in (*sub.indices, "w", "l"))
                    sub = replace(
                        sub, indices=(*sub.indices, *indices), shift=sub.shift or parts.shift
                    )
        self._check(sub, leaves(factor))
        if sup:
            parts = parts_of(sup, tuple(self.letters))
            inside = [t for t in sup if t.type not in ("LPAR", "RPAR")]
            capitals = "".join(str(t) for t in sup)
            is_word = len(capitals) > 1 and capitals.isalpha() and capitals.isupper()
            if is_word:
                suffix = (capitals,)
            elif any(t.type in ("WORD", "CALLIGRAPHIC") for t in sup) or len(inside) < len(sup):
                suffix = tuple(x for x in parts.words if x.lower() not in ("gae", "pi"))
                sub = replace(sub, indices=(*sub.indices, *parts.indices))
            elif not pair and str(sup[0]) not in ("pi", "*", "star"):
                powers = sup
        head = word(base)
        accent = leaves(factor)[0]
        if accent.type == "ACCENT":
            suffix = (*suffix, *accented(str(accent), head))
        classes = {self._class(letter) for letter in sub.indices}
        depth = 3 if "t" in classes else 2 if "i" in classes else 1 if "p" in classes else 0
        piece = self._symbol(head, (*sub.words, *suffix), depth, factor, group)
        if sub.shift == 1:
            piece = applied("next", piece)
        elif sub.shift:
            raise self.fail("only the next token is read, `t+1`", factor)
        if pair:
            piece = replace(piece, at=pair)
        return raised(piece, self.value(powers)) if powers else piece

    def _symbol(
        self, head: str, words: tuple[str, ...], depth: int, factor: Tree[Token],
        group: Tree[Token] | None,
    ) -> Piece:  # fmt: skip
        if self.response == "*":  # the first of a set stands for each
            depth = max(depth, 2 if any(x.isdigit() for x in words) else 0)
            words = tuple(x for x in words if not x.isdigit())
        words = tuple(x for x in words if x not in ("theta", "w", "l", "chosen", "rejected"))
        name = identifier(head, *words)
        if head == (self.token or "t") and not words and head not in self.definitions:
            return Piece(self.position, depth=3)
        rewarded = depth == 3 and name in ("r", "R") and not _is_ratio(group)
        if rewarded and (name == "R" or self._is_of_weights(name)) and name not in self.declared:
            self.guess("the reward of a token is that of the response, with its last token")
            return Piece("(t == |y|) * reward", TIMES, 3)
        if name in self.definitions:
            return Piece(name, depth=self.define(name))
        if name in self.declared:
            return Piece(name, depth=self.declared[name])
        if name == "token":
            return Piece(name, depth=3)
        if not words and head in self.sizes and depth == 0:
            size = self.sizes[head]
            return Piece(_COUNTS[size], depth=_depth_of(size), counted=(size,))
        if name == "T" and depth == 0:
            self.guess("`T` is the length of the response")
            return Piece("|y|", depth=2, counted=(("t",),))
        if name in ("reward", "R", "rewards") or (
            head in ("r", "R") and not words and depth != 3 and not _is_ratio(group)
        ):
            return Piece("reward", depth=2)
        if name == "V" and "V" not in self.declared:
            self.guess("the critic in an advantage is `V_old`, that of the rollout")
            return Piece("V_old", depth=3)
        if name in ("V", "V_old", "truncated"):
            return Piece(name, depth=2 if name == "truncated" else 3)
        if name in names.PARAMS or (depth == 0 and head not in ("A", "r", "w", "s")):
            default = names.PARAMS.get(name, "1")
            self.params.setdefault(name, default)
            return Piece(name)
        return self._unknown(name, head, depth)

    def _is_of_weights(self, name: str) -> bool:
        """Whether an equation defines a symbol as a function of the weights: `r_t(\\theta)`."""
        equation = self.definitions.get(name)
        return equation is not None and any(str(t) == "theta" for t in equation.left)

    def _unknown(self, name: str, head: str, depth: int) -> Piece:
        """A symbol that no equation defines: what papers mean by it, or a column of the data."""
        if name in self.lets:
            return Piece(name, depth=self.lets[name][0].depth)
        if head == "A":
            value = Piece("(reward - mean[i] reward) / (std[i] reward + 1e-6)", depth=2)
            self.lets[name] = value, "guessed: no equation defines it"
            return Piece(name, depth=2)
        if head in ("r", "rho", "w", "ratio") and depth in (0, 3):
            self.lets[name] = Piece("pi / old", depth=3), "guessed: no equation defines it"
            return Piece(name, depth=3)
        if head == "s" and depth == 2:
            self.lets[name] = Piece("geo(pi / old)", depth=2), "guessed: no equation defines it"
            return Piece(name, depth=2)
        indices = "p,i,t,v".split(",")[:depth]
        self.givens.setdefault(name, f"[{','.join(indices)}]")
        return Piece(name, depth=depth)

    def define(self, name: str) -> int:
        """Reads the equation of a name, if that has not been done; the depth of its value."""
        if name in self.lets:
            return self.lets[name][0].depth
        equation = self.definitions[name]
        if name in self.open:
            raise self.fail(f"`{name}` is defined by itself", equation.left)
        before = self.response, self.token, self.bound, self.guesses
        letters = [t for t in equation.left if t.type == "LETTER"]
        parts = parts_of(_first_script(list(equation.left), "SUB"), tuple(self.letters))
        self.response = self.token = ""
        self.bound, self.guesses = (), []
        for letter in parts.indices:
            kind = INDICES.get(letter.rstrip("'"), "")
            self.response = letter if kind == "i" else self.response
            self.token = letter if kind == "t" else self.token
        del letters
        self.open.append(name)
        try:
            piece = resolved(self.value(equation.right))
            guessed = "; ".join(self.guesses)
        finally:
            self.open.pop()
            self.response, self.token, self.bound, self.guesses = before
        self.lets[name] = piece, f"guessed: {guessed}" if guessed else ""
        return piece.depth


# --- trees ---------------------------------------------------------------------------------------


def _flat(node: Tree[Token]) -> list[Factor]:
    """The factors of a product, each with the sign before it."""
    items: list[Factor] = []
    while True:
        *front, last = node.children
        assert isinstance(last, Tree)
        sign = front[1] if len(front) == 2 else None
        items.append(("/" if isinstance(sign, Token) and sign.type == "SLASH" else "", last))
        if not front:
            return items[::-1]
        assert isinstance(front[0], Tree)
        node = front[0]


def _flat_any(node: Node) -> list[Tree[Token]]:
    """The factors anywhere in a formula."""
    if isinstance(node, Token):
        return []
    factors = [node] if node.data == "factor" else []
    return factors + [factor for child in node.children for factor in _flat_any(child)]


def _is_script(node: Node, kind: str) -> bool:
    if not isinstance(node, Tree) or node.data != "script":
        return False
    first = node.children[0]
    return isinstance(first, Token) and first.type == kind


def _script(factor: Tree[Token], kind: str) -> list[Token]:
    """The tokens of a subscript or a superscript, without the braces around them."""
    for child in factor.children:
        if _is_script(child, kind):
            assert isinstance(child, Tree)
            tokens = leaves(child)[1:]
            if tokens and tokens[0].type == "OPEN":
                tokens = tokens[1:-1]
            return tokens
    return []


def _first_script(tokens: Sequence[Token], kind: str) -> list[Token]:
    """The same, of the first symbol of some tokens."""
    for k, token in enumerate(tokens):
        if token.type == kind:
            if tokens[k + 1].type != "OPEN":
                return [tokens[k + 1]]
            depth = 0
            for end in range(k + 1, len(tokens)):
                depth += (tokens[end].type == "OPEN") - (tokens[end].type == "CLOSE")
                if depth == 0:
                    return list(tokens[k + 2 : end])
    return []


def _group_at(items: Sequence[Factor], at: int) -> Tree[Token] | None:
    """The brackets that stand behind a symbol."""
    if at >= len(items) or items[at][0]:
        return None
    base = items[at][1].children[0]
    return base if isinstance(base, Tree) and base.data == "group" else None


def _items(group: Tree[Token]) -> list[Node | None]:
    inside = group.children[1]
    assert isinstance(inside, Tree)
    items: list[Node | None] = []
    for child in inside.children:
        if isinstance(child, Tree) and child.data == "item":
            items.append(child.children[0] if child.children else None)
    return items


def _braced_set(node: Node) -> Node | None:
    """What stands for each element of `\\{R_i\\}_{i=1}^G` and `\\{R_1, ..., R_G\\}`."""
    factors = _flat_any(node)
    if not factors:
        return None
    base = factors[0].children[0]
    if isinstance(base, Tree) and base.data == "group" and str(leaves(base)[0]) in ("{", "lbrace"):
        return _items(base)[0]
    return None


def _samples(factor: Tree[Token]) -> bool:
    """Whether brackets say what is sampled, as they may behind an expectation."""
    depth = 0
    for token in leaves(factor):
        if token.type == "RELATION" and str(token) == "sim" and depth <= 2:
            return True
        depth += (token.type in ("OPEN", "LSQ", "LPAR")) - (token.type in ("CLOSE", "RSQ", "RPAR"))
    return False


def _is_big(factor: Tree[Token]) -> bool:
    base = factor.children[0]
    return isinstance(base, Token) and base.type == "BIG"


def _big_product(base: Node) -> tuple[Tree[Token], list[Factor]] | None:
    """`(\\prod_{u=t}^{s-1} g)`, as its sign and its factors."""
    if not isinstance(base, Tree) or base.data != "group":
        return None
    inner = _items(base)[0]
    if not isinstance(inner, Tree) or inner.data != "product":
        return None
    items = _flat(inner)
    if not _is_big(items[0][1]) or str(items[0][1].children[0]) != "prod":
        return None
    return items[0][1], items[1:]


def _depth_of(size: tuple[str, ...]) -> int:
    """How many indices a number of elements carries."""
    return "pitv".index(size[0])


def _pair_of(parts: Parts, sup: Sequence[str]) -> str:
    marks = {*parts.words, *parts.indices, *(sup if len(sup) == 1 else ())}
    if marks & {"w", "chosen", "c", "plus", "+", "win"} and "t" not in marks:
        return "chosen"
    if marks & {"l", "rejected", "minus", "-", "lose"} and "t" not in marks:
        return "rejected"
    return ""


def _is_ratio(group: Tree[Token] | None) -> bool:
    """Whether a symbol has the weights for its argument: `r(\\theta)`."""
    return group is not None and [str(t) for t in leaves(group)[1:-1]] == ["theta"]


def _joined(decays: Sequence[Piece]) -> Piece:
    total = decays[0]
    for decay in decays[1:]:
        total = times(total, decay)
    return total
