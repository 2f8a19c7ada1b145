"""What is computed when: the stages of an objective, which every emitted language shares.

Data is known before the policy is asked, for the whole optimizer step. Statistics couple responses
through the current policy. The rest is local to a response, mostly to a token. A number that is
learned beside the policy changes with every optimizer step, too: nothing that reads it is data.

A decision that depends on several responses (which of them is the largest, which tokens a count
counts) is made once, where the whole step is seen, and carried to its rows. Log-probabilities are
rounded differently in batches of a different size: made again from those, it could differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import Literal, assert_never

import objdsl.ir.nodes as n
from objdsl.analysis.schedule.coupling import is_statistic
from objdsl.emit.describe import Describer
from objdsl.emit.helpers import torch_helpers
from objdsl.emit.identifiers import Identifiers
from objdsl.emit.lower import is_constant, lower, operands, shares
from objdsl.frozen import dataclass
from objdsl.ir.build import ONE, count, real, sub
from objdsl.ir.columns import column_of, columns_in
from objdsl.ir.differentiate import Leaf, is_learned, weights_of
from objdsl.ir.indices import PROMPT, RESPONSE, VOCAB, Indices
from objdsl.ir.objective import Objective

Layout = Literal["padded", "packed"]

Kind = Literal["column", "param", "stored", "environment"]
"""Where an input comes from: data and trained inputs, hyper-parameters, results of `prepare` and
`couple`, and what a step knows of its shape."""

ENVIRONMENT = (
    "mask", "length", "row", "position", "prompt", "n_prompts", "group_size", "dtype",
)  # fmt: skip
RESERVED = (
    "torch", "math", "prepare", "couple", "objective", "advance", "J", "weights", "reports",
)  # fmt: skip
"""Names of the emitted module and of its functions."""

_VOCABULARY_SIZE = count(("v",))

_MOST_CALLS = 16
"""How many calls of one function get names by what they read."""


@dataclass(frozen=True)
class Input:
    """An argument of an emitted function, or a result of one.

    Attributes:
        name: its identifier in the source.
        indices: of its value.
        kind: where it comes from.
        key: what it is called there: a column or a parameter by its name in the file.
    """

    name: str
    indices: Indices
    kind: Kind
    key: str


@dataclass(frozen=True, eq=False, slots=True)
class Carried(n.Stop):
    """A decision that was taken over the whole step: `x`, as a value of each row or token."""


@dataclass(frozen=True)
class Staged:
    """An objective, or expressions of one, with the values sorted into stages.

    Attributes:
        roots: the lowered parts of its value, its reports and its derivatives by learned numbers,
            and its weights; or the expressions.
        weights: before lowering.
        prepared: the data that is stored.
        statistics: those that are stored.
    """

    roots: dict[str, n.Expr]
    weights: dict[Leaf, n.Expr]
    scope: Scope
    prepared: list[n.Expr]
    statistics: list[n.Expr]

    def weight(self, leaf: Leaf) -> n.Expr:
        return self.roots[f"weight {column_of(leaf).name}"]

    @property
    def core(self) -> list[n.Expr]:
        """The roots without those of reports."""
        return [root for name, root in self.roots.items() if not name.startswith("report ")]

    def coupled(self, roots: Iterable[n.Expr]) -> bool:
        """Whether some of these values need a statistic."""
        needed = _needed(roots, self.scope, ("data", "statistic"))
        return any(self.scope.stage(node) == "statistic" for node in needed)


def staged(ir: Objective, layout: Layout) -> Staged:
    """Sorts the values of an objective into stages, and names those that are stored."""
    weights = weights_of(ir)
    names = _names(ir)
    roots = _carried(_lowered(ir, weights), names)
    by_leaf = sorted({f"weight {column_of(x).name}" for x in weights if not is_learned(x)})
    for name in by_leaf:
        names.setdefault(roots[name], "w" if len(by_leaf) == 1 else name.replace("weight ", "w_"))
    return _sorted(ir, layout, roots, names, ir.nodes, weights)


def _roles(roots: Mapping[str, n.Expr]) -> dict[n.Expr, str]:
    """What values are to the objective: the terms of J and of reports, and weights."""
    roles: dict[n.Expr, str] = {}
    for name, root in roots.items():
        kind, _, rest = name.partition(" ")
        match kind:
            case "value":
                roles.setdefault(root, "J_terms")
            case "report":
                roles.setdefault(root, f"{rest.rpartition(' ')[0]}_terms")
            case "weight":
                roles.setdefault(root, f"w_{rest}")
            case "learned":
                roles.setdefault(root, f"w_{rest.rpartition(' ')[0]}_terms")
    return roles


def staged_values(ir: Objective, values: Mapping[str, n.Expr], layout: Layout) -> Staged:
    """Sorts the values of expressions over the inputs of an objective into stages."""
    lowered = lower([real(x) for x in values.values()])
    names = _names(ir)
    roots = _carried(dict(zip(values, lowered, strict=True)), names)
    return _sorted(ir, layout, roots, names, n.topological(*values.values()), {})


def staged_states(ir: Objective, layout: Layout) -> Staged:
    """The next values of the states of an objective, which are data."""
    lowered = lower([real(state.next) for state in ir.states])
    roots = {state.name: value for state, value in zip(ir.states, lowered, strict=True)}
    nodes = n.topological(*(state.next for state in ir.states))
    names = {value: f"next_{name}" for name, value in roots.items()} | _names(ir)
    return _sorted(ir, layout, roots, names, nodes, {})


def _sorted(
    ir: Objective,
    layout: Layout,
    roots: dict[str, n.Expr],
    names: dict[n.Expr, str],
    nodes: tuple[n.Expr, ...],
    weights: dict[Leaf, n.Expr],
) -> Staged:
    nonzero = frozenset(p.name for p in ir.params if not p.domain.holds(0.0))
    scope = Scope(layout, names, _roles(roots), _identifiers(ir), nonzero, *_vocabulary(nodes))
    needed_local = _needed(list(roots.values()), scope, stop_at=("data", "statistic"))
    statistics = [node for node in needed_local if scope.stage(node) == "statistic"]
    needed_coupled = _needed(statistics, scope, stop_at=("data",)) if statistics else []
    prepared = [
        node
        for node in dict.fromkeys([*needed_local, *needed_coupled])
        if scope.stage(node) == "data" and scope.is_stored(node)
    ]
    scope.name_all([*prepared, *statistics])
    return Staged(roots, weights, scope, prepared, statistics)


def _identifiers(ir: Objective) -> Identifiers:
    """The identifiers of the inputs of an objective."""
    identifiers = Identifiers({*RESERVED, *torch_helpers()})
    for key in ENVIRONMENT:
        identifiers.of("environment", key)
    for key in {**ir.columns, **ir.sampled_columns}:
        identifiers.of("column", key)
    for param in ir.params:
        identifiers.of("param", param.name)
    return identifiers


def _lowered(ir: Objective, weights: Mapping[Leaf, n.Expr]) -> dict[str, n.Expr]:
    """An objective as the roots of its computation: row sums, weights, reports; lowered."""
    total = ir.goal if ir.critic is None else sub(ir.goal, ir.critic)
    roots: dict[str, n.Expr] = {}
    scalars = {"value": total} | {f"report {report.name}": report.value for report in ir.reports}
    learned = {leaf: weight for leaf, weight in weights.items() if is_learned(leaf)}
    scalars |= {f"learned {column_of(leaf).name}": weight for leaf, weight in learned.items()}
    for name, scalar in scalars.items():
        parts = shares(scalar)
        roots[f"{name} tokens"], roots[f"{name} responses"] = parts.tokens, parts.responses
    for leaf, weight in weights.items():
        if leaf not in learned:
            roots[f"weight {column_of(leaf).name}"] = weight
    return dict(zip(roots, lower(list(roots.values())), strict=True))


def _carried(roots: dict[str, n.Expr], names: dict[n.Expr, str]) -> dict[str, n.Expr]:
    """The roots, with the decisions that are carried marked. What is marked keeps its name.

    A report by itself: the weights of a step shall not need `couple` because of what it counts.
    """
    groups: dict[str, dict[str, n.Expr]] = {}
    for name, root in roots.items():
        kind, _, rest = name.partition(" ")
        report = rest.rpartition(" ")[0] if kind == "report" else ""
        groups.setdefault(report, {})[name] = root
    marked: dict[str, n.Expr] = {}
    for group in groups.values():
        done = _marked(list(group.values()))
        marked |= {name: done[root] for name, root in group.items()}
        for node, name in list(names.items()):
            names.setdefault(done.get(node, node), name)
    return {name: marked[name] for name in roots}


def _marked(roots: list[n.Expr]) -> dict[n.Expr, n.Expr]:
    """The nodes below the roots, each with its decisions marked.

    Marked are those that a value of several responses depends on (what a count counts), and those
    that depend on such a value (whether a response is the largest of its group). Over the
    vocabulary, where there are as many as logits, only the first are.
    """
    order = n.topological(*roots)
    statistics = [node for node in order if is_statistic(node)]
    needed = {x for node in statistics for child in node.children for x in n.topological(child)}
    resting = n.holding(is_statistic, *roots)
    done: dict[n.Expr, n.Expr] = {}
    for node in order:
        rebuilt = node.rebuilt(done)
        rests = node in resting and node.indices != VOCAB
        carried = _decides(node) and (node in needed or rests)
        done[node] = Carried(rebuilt) if carried else rebuilt
    return done


def _decides(node: n.Expr) -> bool:
    """Whether the smallest change of the current policy may flip a value."""
    if not node.current or node.paired or is_statistic(node):
        return False
    match node:
        case n.Binary(_, n.Order(), n.Const()):
            return False  # the order is the decision
        case n.Binary(op):
            return op in n.COMPARISONS
        case n.Unary(op):
            return op in ("sign", "floor")
        case n.Order() | n.Pick():
            return True
        case n.Const() | n.Param() | n.Column() | n.LogProb() | n.LogDist() | n.Symbol():
            return False
        case n.Length() | n.Position() | n.Clip() | n.Where() | n.Stop() | n.Present():
            return False
        case n.Reduce() | n.Peers() | n.Quantile() | n.Scan() | n.Shift():
            return False
    assert_never(node)


def _vocabulary(nodes: Iterable[n.Expr]) -> tuple[str, bool]:
    """A column that has the size of the vocabulary, of data if there is one, and whether it is
    trained."""
    columns = [column for column in columns_in(nodes).values() if column.indices == VOCAB]
    columns.sort(key=lambda column: column.trained)
    return (columns[0].name, columns[0].trained) if columns else ("", False)


def _names(ir: Objective) -> dict[n.Expr, str]:
    """The file's own names for its formulas, after lowering.

    Where a function is called several times, a result is known by what the others do not read,
    too: `standardised_correct`.
    """
    named = [*ir.bindings, *ir.calls]
    names: dict[n.Expr, str] = {}
    for formula, node in zip(named, lower([formula.value for formula in named]), strict=True):
        if node.children:
            names.setdefault(node, formula.name)
    sharing: dict[str, list[n.Expr]] = {}
    for node, name in names.items():
        sharing.setdefault(name, []).append(node)
    for name, nodes in sharing.items():
        if 1 < len(nodes) <= _MOST_CALLS:
            names |= {node: "_".join([name, *what]) for node, what in _differences(nodes)}
    return names


def _differences(nodes: list[n.Expr]) -> Iterator[tuple[n.Expr, list[str]]]:
    """The first input that each of some nodes alone reads, if there is one."""
    inputs = [[name for x in n.topological(node) if (name := _input_name(x))] for node in nodes]
    for k, node in enumerate(nodes):
        others = {name for names in inputs[:k] + inputs[k + 1 :] for name in names}
        yield node, [name for name in inputs[k] if name not in others][:1]


def _input_name(node: n.Expr) -> str:
    match node:
        case n.LogProb(name) | n.LogDist(name) | n.Param(name) | n.Column(name):
            return name
    return ""


def _needed(roots: Iterable[n.Expr], scope: Scope, stop_at: tuple[str, ...]) -> list[n.Expr]:
    """The nodes below the roots, without what lies below a node of a stage in `stop_at`.

    Roots are always entered; nodes that are recomputed rather than stored are looked through.
    """
    needed: dict[n.Expr, None] = {}
    stack = [(root, True) for root in roots]
    while stack:
        node, is_root = stack.pop()
        if node in needed:
            continue
        needed[node] = None
        stage = scope.stage(node)
        stop = stage in stop_at and not (stage == "data" and not scope.is_stored(node))
        if stop and not (is_root and "statistic" not in stop_at):
            continue
        stack.extend((child, False) for child in operands(node))
    order = n.topological(*roots)
    return [node for node in order if node in needed]


@dataclasses.dataclass
class Scope:
    """What all functions of a program agree on: the stage of a node, and the names of values.

    Attributes:
        names: what the file calls a value.
        roles: what a value is to the objective.
        given: what stored values are called.
    """

    layout: Layout
    names: dict[n.Expr, str]
    roles: dict[n.Expr, str]
    identifiers: Identifiers
    nonzero: frozenset[str]
    """The parameters that cannot be 0."""
    vocabulary_column: str
    """A column over the vocabulary, which has its size; empty without one."""
    vocabulary_is_late: bool
    """Whether only trained policies have such columns: `prepare` does not know the size."""
    given: dict[n.Expr, str] = field(default_factory=dict)
    describe: Describer = field(init=False)
    _constant: dict[n.Expr, bool] = field(default_factory=dict)
    _late: dict[n.Expr, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.describe = Describer(self.names)

    def stage(self, node: n.Expr) -> Literal["constant", "data", "statistic", "local"]:
        if is_constant(node, self._constant):
            return "constant"
        if not node.current and not self._is_late(node):
            return "data"
        if not node.current:
            return "statistic" if _joins_rows(node) else "local"
        return "statistic" if isinstance(node, Carried) or is_statistic(node) else "local"

    def _is_late(self, node: n.Expr) -> bool:
        """Whether a value of the data waits for what is trained: for a learned number, or for the
        policy that has the size of the vocabulary."""
        late = self._late

        def find(x: n.Expr) -> bool:
            waits = isinstance(x, n.Column) and x.role == "learned"
            waits = waits or (self.vocabulary_is_late and x == _VOCABULARY_SIZE)
            return waits or any(late[child] for child in x.children)

        return n.bottom_up(node, late, find)

    def is_stored(self, node: n.Expr) -> bool:
        """Whether a data value is kept by `prepare`; columns are at hand, and a sign or a
        comparison is cheaper to compute again."""
        match node:
            case n.Length() | n.Position():
                return False
            case n.Reduce("sum", ("p",), x) if x == ONE:
                return False  # a number that every function may have
            case n.Column() | n.LogProb() | n.LogDist():
                return node.indices == PROMPT
            case n.Order(_, ("v",)):
                return False  # as large as all logits
            case n.Unary("neg" | "not") | n.Where():
                return self.names.get(node) is not None or not all(
                    self._at_hand(child) for child in node.children
                )
            case n.Binary(op) if op in n.BOOLEAN_OPS:
                return not all(self._at_hand(child) for child in node.children)
            case n.Const() | n.Param() | n.Unary() | n.Binary() | n.Clip() | n.Stop() | n.Present():
                return True
            case n.Reduce() | n.Peers() | n.Quantile() | n.Order() | n.Pick():
                return True
            case n.Scan() | n.Shift() | n.Symbol():
                return True
        assert_never(node)

    def _at_hand(self, node: n.Expr) -> bool:
        if self.stage(node) == "constant" or isinstance(node, n.Column | n.Length | n.Position):
            return node.indices != PROMPT
        return node in self.names or (node.boolean and not self.is_stored(node))

    def name_all(self, nodes: list[n.Expr]) -> None:
        for node in nodes:
            if node not in self.given:
                self.given[node] = self.identifiers.stored(*self.wishes(node))

    def wishes(self, node: n.Expr) -> list[str]:
        """What a value should be called, the best first: as the file calls it, by what it is to
        the objective, or by its parts."""
        known = [names[node] for names in (self.names, self.roles) if node in names]
        return [*known, *self.describe(node)]


def _joins_rows(node: n.Expr) -> bool:
    of_several = n.Reduce | n.Peers | n.Order | n.Pick
    return isinstance(node, of_several) and node.over[0] in ("p", "i")


def stored_indices(indices: Indices) -> Indices:
    """The indices of a stored value: what belongs to a prompt is handed to each of its rows."""
    return RESPONSE if indices == PROMPT else indices
