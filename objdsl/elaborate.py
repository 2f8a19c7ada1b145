"""From the tree to the formula: names, indices, the prelude, `from`.

Every statement is elaborated, also after an error in another, so that one run reports all of them.
A name whose own statement is wrong is not reported again where it is used.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import NoReturn

from objdsl.codes import ErrorName, error
from objdsl.diagnostic import Diagnostic, Edit, Fix, Label, same_letters, spelled
from objdsl.errors import ObjdslError, ObjectiveError
from objdsl.ir import build
from objdsl.ir.bounds import bounds
from objdsl.ir.indices import (
    MEANING,
    PROMPT,
    RESPONSE,
    SCALAR,
    TOKEN,
    WORD,
    Index,
    Indices,
    over_to,
    remove,
    union,
    written,
)
from objdsl.ir.nodes import (
    Binary,
    Clip,
    Column,
    Const,
    Expr,
    Length,
    LogDist,
    LogProb,
    Others,
    Param,
    Pick,
    Position,
    Reduce,
    Role,
    Scan,
    Shift,
    Top,
    Unary,
    Where,
    topological,
)
from objdsl.ir.objective import (
    ARGUMENTS,
    BUILT_IN_POLICIES,
    CRITIC,
    DISTRIBUTION,
    Declared,
    Domain,
    Named,
    Objective,
    Parameter,
    Policy,
    Sampling,
    read_by,
)
from objdsl.ir.ops import FUNCTIONS as UNARY_FUNCTIONS
from objdsl.ir.ops import REDUCE, REDUCTIONS, SIGNS, unary
from objdsl.source import Source, Span
from objdsl.syntax import messages, tree
from objdsl.syntax.foreign import ALIASES, SYNONYMS, is_divergence, is_expectation, said_here
from objdsl.syntax.reach import PRODUCT, Loose, expressions, loose

Find = Callable[[str, Span], tree.File]
"""Finds the file of a base objective; raises ObjectiveError where there is none."""

COLUMNS: dict[str, Column] = {
    "reward": Column("reward", RESPONSE, role="reward"),
    "V": Column("V", TOKEN, trained=True),
    "V_old": Column("V_old", TOKEN),
    "truncated": Column("truncated", RESPONSE, mask=True),
}
FUNCTIONS: dict[str, int] = {
    **dict.fromkeys(UNARY_FUNCTIONS, 1), "sg": 1, "next": 1, "togo": 2, "clip": 3, "min": -2,
    "max": -2,
}  # fmt: skip
"""The number of arguments of each function; -2 is two or more."""

SUBSETS = ("top", "pick")
SAMPLING_NUMBERS = ("group", "temperature", "top_p", "top_k", "staleness")
SAMPLING_FLAGS = ("keep_mask", "keep_routing", "experts")
MAX_NODES = 20_000
# Definitions that are used before they stand in the file, or functions, one inside the other.
MAX_OPEN = 64
MAX_POLICIES = 32
# Nobody mends more than this before running again.
MAX_ERRORS = 100


def elaborate(file: tree.File, prelude: tree.File, find: Find) -> Objective:
    """The objective that a file describes.

    Args:
        file: the parsed file.
        prelude: the parsed `std.obj`, whose functions every file may use.
        find: looks up the file after `from`.

    Raises:
        ObjectiveError: with every error that was found.
    """
    elaborator = _Elaborator(prelude, find)
    try:
        return elaborator.objective(file)
    except RecursionError:
        raise ObjectiveError([too_deep(file)]) from None


@dataclass(frozen=True)
class Spellings:
    """What a text may be rewritten to without changing what it says.

    Attributes:
        clear: where the reductions start whose readings are all one value: what follows each of
            them leaves no doubt, brackets or not (`sum[t] x / 4096`).
        aliases: the names that are read as others, `detach` as `sg`, by where they start.
    """

    clear: frozenset[int]
    aliases: Mapping[int, str]


def spellings(file: tree.File, prelude: tree.File, find: Find) -> Spellings:
    """What may be rewritten in a file; of what its errors keep from being judged, nothing."""
    elaborator = _Elaborator(prelude, find)
    with suppress(ObjectiveError, RecursionError):
        elaborator.objective(file)
    clear = elaborator.clear - elaborator.doubtful
    return Spellings(
        frozenset(start for source, start in clear if source is file.source),
        {start: to for (source, start), to in elaborator.aliases.items() if source is file.source},
    )


def two_readings(found: Loose, differs: Sequence[bool], labels: tuple[Label, ...]) -> Diagnostic:
    """A reduction that may end before what follows it, or reach over it."""
    operator, span = found.nest[0].operator.id, found.span
    rest = Span(span.source, found.nest[0].span.end, span.end).text
    return error(
        "two-readings",
        f"the {_REDUCED.get(operator, operator)} may end before `{_cut(rest)}`, or reach over it",
        span, labels=labels, choices=found.readings(differs),
        help="brackets say which: on paper it reaches over a product, and here over one operand",
    )  # fmt: skip


_REDUCED = {"prod": "product", "max": "maximum", "min": "minimum", "std": "deviation"}


def undecided(file: tree.File) -> list[Diagnostic]:
    """The reductions of a file that read two ways whatever the indices of their values are."""
    return [
        two_readings(found, [True] * len(found.followers), ())
        for statement in file.statements
        for expression in expressions(statement)
        for found in loose(expression)
        if found.certain
    ]


SHALLOWER = (
    f"at most {MAX_OPEN} definitions are opened one inside the other; "
    "one that stands above its use is not opened again"
)


def too_deep(file: tree.File) -> Diagnostic:
    """What is said where a pass gives up: each of them follows definitions by recursion."""
    message = "the definitions of this file lean on each other too deeply"
    where = file.statements[-1].span if file.statements else None
    return error("nested-too-deeply", message, where, help=SHALLOWER)


class _PoisonedError(ObjdslError):
    """An error has been recorded; what depends on it is silent."""


@dataclass
class _Scope:
    """What the names of a file stand for. Bases come first, what overrides them later."""

    lets: dict[str, tree.Let] = field(default_factory=dict)
    defs: dict[str, tree.Def] = field(default_factory=dict)
    params: dict[str, tree.Param] = field(default_factory=dict)
    policies: dict[str, tree.Policy] = field(default_factory=dict)
    givens: dict[str, tree.Given] = field(default_factory=dict)
    reports: dict[str, tree.Report] = field(default_factory=dict)
    samples: dict[str, tree.Sample] = field(default_factory=dict)
    keeps: dict[str, tree.Keep] = field(default_factory=dict)
    goals: dict[bool, tree.Goal] = field(default_factory=dict)


@dataclass
class _Frame:
    """Names that stand for values while a function body or a running reduction is read."""

    values: dict[str, Expr] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)


class _Elaborator:
    def __init__(self, prelude: tree.File, find: Find) -> None:
        self.prelude = prelude
        self.find = find
        self.scope = _Scope()
        self.errors: list[Diagnostic] = []
        self.values: dict[str, Expr | None] = {}
        self.order: list[Named] = []
        self.calls: list[Named] = []
        self.open: list[tuple[str, Span]] = []
        self.frames: list[_Frame] = [_Frame()]
        self.site: Span | None = None
        self.made = 0
        self.kept: Expr | None = None
        self.loose: dict[int, tuple[tree.Binary, list[Loose]]] = {}  # by the product they stand in
        self.known: dict[int, Expr] = {}  # of factors that are looked at before their product
        self.clear: set[tuple[Source, int]] = set()  # where loose reductions start: read one way
        self.doubtful: set[tuple[Source, int]] = set()  # and two ways
        self.aliases: dict[tuple[Source, int], str] = {}  # names that are read as another's

    # --- statements ------------------------------------------------------------------------------

    def objective(self, file: tree.File) -> Objective:
        header = self._collect(file, ())
        self._declare_prelude()
        scope = self.scope
        self.params = {name: self._parameter(p) for name, p in scope.params.items()}
        self.givens = {}
        for name, given in scope.givens.items():
            with self._statement():
                self.givens[name] = self._given(given)
        policies = tuple(self._policy(p) for p in scope.policies.values())
        if len(policies) > MAX_POLICIES:
            self._record(
                "too-large", f"an objective has at most {MAX_POLICIES} policies of its own",
                [*scope.policies.values()][MAX_POLICIES].span,
            )  # fmt: skip
            raise ObjectiveError(self.errors)
        sampling = Sampling()
        for sample in scope.samples.values():
            with self._statement():
                sampling = self._sampling(sample)
        for keep in scope.keeps.values():
            with self._statement():
                self.kept = self._keep(keep)
        for name, let in scope.lets.items():
            if let.span.source is not self.prelude.source:
                with self._statement():
                    self._binding(name, let.name.span)
        reports = []
        for name, report in scope.reports.items():
            with self._statement():
                value = self._number(self._expr(report.value), report.value.span, "report")
                reports.append(Named(name, value, report.span))
        goal = critic = None
        for is_critic, statement in scope.goals.items():
            with self._statement():
                value = self._goal(statement)
                if is_critic:
                    critic = value if statement.sense == "minimize" else build.neg(value)
                else:
                    goal = value if statement.sense == "maximize" else build.neg(value)
        if False not in scope.goals:
            where = (
                header.span if header else (file.statements[-1].span if file.statements else None)
            )
            self._record("no-goal", "nothing is maximised", where, help="add `maximize ...`")
        if self.errors or goal is None:
            raise ObjectiveError(self.errors)
        if critic is not None and "critic_loss" not in scope.reports:
            reports.append(Named("critic_loss", critic))
        return Objective(
            name=header.name.id if header else "objective",
            goal=goal,
            critic=critic,
            reports=tuple(reports),
            bindings=tuple(self.order),
            calls=tuple(self.calls),
            params=tuple(self.params.values()),
            declared=tuple(
                Declared(CRITIC.get(name, name), self._domain(given.domain))
                for name, given in scope.givens.items()
                if given.domain is not None
            ),
            policies=policies,
            sampling=sampling,
            keep=self.kept,
            base=header.base.id if header and header.base else None,
            source=file.source,
        )

    def _collect(self, file: tree.File, bases: tuple[tuple[str, Span], ...]) -> tree.Header | None:
        """Puts the statements of the file, and of the files that it starts from, into the scope."""
        header = next((s for s in file.statements if isinstance(s, tree.Header)), None)
        if header and header.base:
            if any(header.base.id == name for name, _ in bases) or header.base.id == header.name.id:
                chain = " from ".join(
                    [*([name for name, _ in bases] or [header.name.id]), header.base.id]
                )
                self._record(
                    "cyclic-base",
                    f"`{header.base.id}` starts from itself",
                    header.base.span,
                    help=f"the chain is: {chain}",
                )
                raise ObjectiveError(self.errors)
            base = self.find(header.base.id, header.base.span)
            self._collect(base, (*bases, (header.base.id, header.base.span)))
        seen: dict[tuple[str, str], Span] = {}
        for statement in file.statements:
            self._add(statement, seen, first=statement is header)
        return header

    def _add(
        self, statement: tree.Statement, seen: dict[tuple[str, str], Span], first: bool
    ) -> None:
        scope = self.scope
        self._note_loose(statement)
        match statement:
            case tree.Header():
                if not first:
                    self._record(
                        "duplicate-name", "a file holds one objective", statement.span,
                        help="put the second one into a file of its own",
                    )  # fmt: skip
                return
            case (
                tree.Let(name)
                | tree.Def(name)
                | tree.Param(name)
                | tree.Given(name)
                | tree.Policy(name)
            ):
                if isinstance(statement, tree.Given) and statement.indices is None:
                    scope.givens[name.id] = statement
                    return
                if self._is_reserved(name) or self._is_twice(("name", name.id), name.span, seen):
                    return
                if isinstance(statement, tree.Def):
                    own: dict[tuple[str, str], Span] = {}
                    for argument in statement.arguments:
                        self._is_twice(("name", argument.id), argument.span, own)
                for table in (scope.lets, scope.defs, scope.params, scope.givens, scope.policies):
                    table.pop(name.id, None)  # an override may also change what kind of thing it is
                match statement:
                    case tree.Let():
                        scope.lets[name.id] = statement
                    case tree.Def():
                        scope.defs[name.id] = statement
                    case tree.Param():
                        scope.params[name.id] = statement
                    case tree.Given():
                        scope.givens[name.id] = statement
                    case tree.Policy():
                        scope.policies[name.id] = statement
            case tree.Report(name):
                if not self._is_twice(("report", name.id), name.span, seen):
                    scope.reports[name.id] = statement
            case tree.Sample():
                if not self._is_twice(("sample", ""), statement.span, seen):
                    scope.samples["sample"] = statement
            case tree.Keep():
                if not self._is_twice(("keep", ""), statement.span, seen):
                    scope.keeps["keep"] = statement
            case tree.Goal():
                what = "for the critic" if statement.critic else ""
                if not self._is_twice(("goal", what), statement.span, seen):
                    scope.goals[statement.critic] = statement

    def _note_loose(self, statement: tree.Statement) -> None:
        """Remembers the loose reductions of a statement for when the indices are known."""
        for expression in expressions(statement):
            for found in loose(expression):
                _, here = self.loose.setdefault(id(found.product), (found.product, []))
                here.append(found)
                if isinstance(statement, tree.Def) and found.certain:  # it may never be called
                    self._two_readings(found, [True] * len(found.followers))

    def _is_reserved(self, name: tree.Name) -> bool:
        taken = (
            name.id in COLUMNS
            or name.id in BUILT_IN_POLICIES
            or name.id in FUNCTIONS
            or name.id in REDUCTIONS
            or name.id in SUBSETS
            or name.id in MEANING
        )
        if name.id == "reward":
            self._record(
                "reserved-name", "`reward` is the reward that comes with the data", name.span,
                help="a sum of several has a name of its own, `R = correct + 0.1 * format`, and "
                "each is declared by itself: `given correct[p,i] as reward`",
            )  # fmt: skip
        elif taken:
            self._record(
                "reserved-name", f"`{name.id}` already has a meaning: {_meaning(name.id)}",
                name.span, help=f"choose another name, for example `{name.id}_2`",
            )  # fmt: skip
        if taken:
            self.values[name.id] = None  # what reads it is silent
        return taken

    def _is_twice(
        self, key: tuple[str, str], span: Span, seen: dict[tuple[str, str], Span]
    ) -> bool:
        if key not in seen:
            seen[key] = span
            return False
        match key:
            case "name", name:
                message, help = f"`{name}` is defined twice", ""
            case "report", name:
                message, help = f"`{name}` is reported twice", ""
            case "option", name:
                message, help = f"`sample` has the option `{name}` twice", ""
            case "goal", whose:
                message = " ".join(("a second goal", whose)).strip()
                help = "an objective has one: add its terms, or subtract what is minimized"
            case "keep", _:
                message, help = "a second `keep`", "join the two conditions by `and`"
            case keyword, _:
                message, help = f"a second `{keyword}`", "one statement takes all options"
        self._record(
            "duplicate-name", message, span, help=help,
            labels=(Label(seen[key], "first here"),),
        )  # fmt: skip
        return True

    def _declare_prelude(self) -> None:
        scope = self.scope
        taken = {*scope.lets, *scope.defs, *scope.params, *scope.givens, *scope.policies}
        for statement in self.prelude.statements:
            self._note_loose(statement)
            if isinstance(statement, tree.Def) and statement.name.id not in taken:
                scope.defs[statement.name.id] = statement
            if isinstance(statement, tree.Let) and statement.name.id not in taken:
                scope.lets[statement.name.id] = statement

    def _parameter(self, param: tree.Param) -> Parameter:
        domain = self._domain(param.domain)
        if not domain.empty and not domain.holds(param.default):
            self._record(
                "outside-domain",
                f"the default {param.default_text} of `{param.name.id}` is outside {domain}",
                param.span,
            )
        return Parameter(param.name.id, param.default, domain, param.span)

    def _domain(self, domain: tree.Interval | tree.Choice | None) -> Domain:
        match domain:
            case tree.Choice(values):
                return Domain(values=values)
            case tree.Interval(lower, upper, lower_closed, upper_closed, span):
                interval = Domain(lower, upper, lower_closed, upper_closed)
                if interval.empty:
                    self._record(
                        "empty-domain", f"no number is in {interval}", span,
                        help="a domain is written from its lower end to its upper end",
                    )  # fmt: skip
                return interval
        return Domain()

    def _given(self, given: tree.Given) -> Column:
        name = given.name.id
        domain = self._domain(given.domain)
        values = domain.values
        ends = values or (domain.lower, domain.upper)
        if given.indices is None:
            what = "declare a domain for" if given.role is None else "declare"
            if name not in COLUMNS or COLUMNS[name].trained:
                columns = [k for k, column in COLUMNS.items() if not column.trained]
                self._fail(
                    "unknown-name", f"there is no column `{name}` to {what}",
                    given.name.span, near_to=(name, columns),
                    help="a new column says its indices: "
                    f"`given {name}[p,i]{' as reward' if given.role else ''}`",
                )  # fmt: skip
            column = COLUMNS[name]
            if given.role is not None and self._role(given.role) != column.role:
                self._fail(
                    "wrong-type", f"`{name}` is no reward", given.role.span,
                    help="a reward of your own has a name of its own: "
                    "`given correct[p,i] as reward`",
                )  # fmt: skip
            return replace(column, values=values, lower=min(ends), upper=max(ends))
        indices = tuple(self._index(index) for index in given.indices)
        if indices not in (PROMPT, RESPONSE, TOKEN, WORD):
            self._fail(
                "wrong-index", f"a column cannot have the indices {written(indices)}",
                given.span, help="use [p], [p,i], [p,i,t] or [p,i,t,v]",
            )  # fmt: skip
        self._check_column(given.name)
        if given.role is None:
            return Column(name, indices, values=values, lower=min(ends), upper=max(ends))
        role = self._role(given.role)
        if indices not in (RESPONSE, TOKEN):
            why = (
                "it is the same for all responses to a prompt, and has no gradient"
                if indices == PROMPT
                else "it tells words apart that were not sampled"
            )
            self._fail(
                "wrong-index", f"`{name}` cannot be a reward: {why}", given.span,
                help="a reward is of a response, [p,i], or of a token, [p,i,t]",
            )  # fmt: skip
        return Column(name, indices, values=values, lower=min(ends), upper=max(ends), role=role)

    def _role(self, name: tree.Name) -> Role:
        if name.id != "reward":
            self._fail(
                "unknown-name", f"a column cannot be declared as `{name.id}`", name.span,
                near_to=(name.id, ("reward",)),
                help="the one kind is `reward`: what is to be raised",
            )  # fmt: skip
        return "reward"

    def _check_column(self, name: tree.Name) -> None:
        """A column is handed over by its name: nothing else may be."""
        reader = read_by(name.id, (*BUILT_IN_POLICIES, *self.scope.policies))
        if reader is not None:
            self._fail(
                "reserved-name", f"`{name.id}` is the column that `{reader}` reads", name.span,
                help="choose another name",
            )  # fmt: skip
        if name.id in ARGUMENTS:
            self._fail(
                "reserved-name", f"a column cannot be called `{name.id}`", name.span,
                help=f"`{name.id}=` says something else to `Objective.prepare` and to the "
                "objective itself; choose another name",
            )  # fmt: skip

    def _policy(self, policy: tree.Policy) -> Policy:
        name = policy.name.id
        if name.endswith(DISTRIBUTION):
            self._record(
                "reserved-name", f"a policy cannot be called `{name}`", policy.name.span,
                help=f"`log_{name}` is the distribution of `{name.removesuffix(DISTRIBUTION)}`; "
                "choose another name",
            )  # fmt: skip
        of = policy.of.id if policy.of else None
        if policy.of and of not in BUILT_IN_POLICIES:
            self._record(
                "unknown-name", f"there is no policy `{of}`", policy.of.span,
                near_to=(of or "", BUILT_IN_POLICIES),
                help="known are: " + ", ".join(BUILT_IN_POLICIES),
            )  # fmt: skip
        return Policy(name, of, policy.layer)

    def _sampling(self, sample: tree.Sample) -> Sampling:
        policy = self._read(sample.policy).id
        known = [*BUILT_IN_POLICIES, *self.scope.policies]
        if policy not in known:
            self._fail(
                "unknown-name", f"there is no policy `{policy}`", sample.policy.span,
                near_to=(policy, known), help="known are: " + ", ".join(known),
            )  # fmt: skip
        values: dict[str, float | int | bool] = {}
        seen: dict[tuple[str, str], Span] = {}
        for option in sample.options:
            name, value = option.name.id, option.value
            if self._is_twice(("option", name), option.span, seen):
                continue
            if name not in SAMPLING_NUMBERS and name not in SAMPLING_FLAGS:
                self._fail(
                    "unknown-name", f"`sample` has no option `{name}`", option.span,
                    near_to=(name, [*SAMPLING_NUMBERS, *SAMPLING_FLAGS]),
                    help="known are: " + ", ".join((*SAMPLING_NUMBERS, *SAMPLING_FLAGS)),
                )  # fmt: skip
            if (value is None) != (name in SAMPLING_FLAGS):
                self._fail(
                    "wrong-arguments",
                    f"`{name}` takes {'no' if value is not None else 'a'} number", option.span,
                )  # fmt: skip
            if value is None:
                values[name] = True
                continue
            whole = name in ("group", "top_k", "staleness")
            least = {"group": 1, "top_k": 1, "staleness": 0}.get(name, 0)
            good = value == int(value) and value >= least if whole else value > 0
            if not good or (name == "top_p" and value > 1):
                self._fail("outside-domain", f"`{name} {value:g}` is not possible", option.span)
            values[name] = int(value) if whole else value
        return Sampling(policy=policy, span=sample.span, **values)  # type: ignore[arg-type]

    def _keep(self, keep: tree.Keep) -> Expr:
        if keep.index.id != "p":
            self._fail(
                "wrong-index", f"`keep` chooses prompts, not `{keep.index.id}`", keep.index.span,
                help="write `keep p where ...`; single responses or tokens are left out by a mask",
            )  # fmt: skip
        condition = self._mask(self._expr(keep.condition), keep.condition.span)
        if condition.indices != PROMPT:
            self._fail(
                "wrong-index",
                f"the condition of `keep p` has the indices {written(condition.indices)}, not p",
                keep.condition.span, help=_reduce_hint(condition.indices, PROMPT),
            )  # fmt: skip
        if condition.current:
            self._fail(
                "wrong-type", "prompts are kept before training, so `pi` cannot decide on it",
                keep.condition.span,
            )  # fmt: skip
        return condition

    def _goal(self, goal: tree.Goal) -> Expr:
        verb = goal.sense + (" critic" if goal.critic else "")
        value = self._number(self._expr(goal.value), goal.value.span, verb)
        kinds = Column if goal.critic else (LogProb, LogDist)
        if not any(isinstance(leaf, kinds) for leaf in _trained_leaves(value)):
            trained = "V" if goal.critic else "pi"
            appears = any(isinstance(node, kinds) and node.live for node in topological(value))
            help = f"`{trained}` does not appear"
            if appears and goal.critic:
                help = "every path goes through `sg` or a comparison"
            elif appears:
                help = (
                    "every path goes through `sg` or a comparison; multiply by `log(pi)`, or "
                    "leave one ratio without `sg`"
                )
            elif value.live and not goal.critic:
                help += "; the critic has a goal of its own: `minimize critic ...`"
            self._fail(
                "no-gradient", f"no gradient reaches `{trained}`: training would do nothing",
                goal.value.span, help=help,
            )  # fmt: skip
        return value

    def _number(self, value: Expr, span: Span, what: str) -> Expr:
        value = build.real(value)
        if value.indices != SCALAR:
            self._fail(
                "not-a-number",
                f"`{what}` wants one number, but this has a value for each of "
                f"{written(value.indices)}",
                span, help=_reduce_hint(value.indices, SCALAR),
            )  # fmt: skip
        return value

    # --- names -----------------------------------------------------------------------------------

    def _binding(self, name: str, use: Span) -> Expr:
        if any(name == other for other, _ in self.open):
            names = [other for other, _ in self.open]
            cycle = [*names[names.index(name) :], name]
            self._fail(
                "cyclic-binding", f"`{name}` is defined by itself", use,
                help="the cycle is " + " -> ".join(cycle),
            )  # fmt: skip
        if name in self.values:
            value = self.values[name]
            if value is None:
                raise _PoisonedError
            return value
        let = self.scope.lets[name]
        self._open(name, use)
        frames, self.frames = self.frames, [_Frame()]
        site = self.site
        if let.span.source is not self.prelude.source:
            self.site = None
        self.values[name] = None
        try:
            value = self._expr(let.value)
        finally:
            self.frames, self.site = frames, site
            self.open.pop()
        self.values[name] = value
        # A name for an infinity or for no number is a mistake that the checker speaks of.
        if value.children or (isinstance(value, Const) and not math.isfinite(value.value)):
            self.order.append(Named(name, value, let.span))
        return value

    def _open(self, name: str, use: Span) -> None:
        """Begins a definition or a function, inside of those that are begun."""
        if len(self.open) == MAX_OPEN:
            message = f"definitions lean on each other here, more than {MAX_OPEN} deep"
            self._record("nested-too-deeply", message, use, help=SHALLOWER)
            raise ObjectiveError(self.errors)
        self.open.append((name, use))

    def _read(self, name: tree.Name) -> tree.Name:
        """A name, or the one that it is another word for; what the file defines wins."""
        scope, to = self.scope, ALIASES.get(name.id)
        own = (self.frames[-1].values, scope.lets, scope.defs, scope.params, scope.givens)
        if to is None or any(name.id in names for names in (*own, scope.policies)):
            return name
        self.aliases[name.span.source, name.span.start] = to
        return replace(name, id=to)

    def _name(self, name: tree.Name) -> Expr:
        name = self._read(name)
        frame = self.frames[-1]
        if name.id in frame.hidden:
            self._fail("unknown-name", frame.hidden[name.id], name.span)
        if name.id in frame.values:
            return frame.values[name.id]
        scope = self.scope
        if self.values.get(name.id, name) is None and name.id not in scope.lets:
            raise _PoisonedError
        if name.id in scope.lets:
            return self._binding(name.id, name.span)
        if name.id in self.params:
            domain = self.params[name.id].domain
            values = domain.values or (domain.lower, domain.upper)
            return Param(name.id, min(values), max(values))
        if name.id in self.givens:
            return self.givens[name.id]
        if name.id in scope.givens:
            raise _PoisonedError
        if name.id in COLUMNS:
            return COLUMNS[name.id]
        if name.id in BUILT_IN_POLICIES or name.id in scope.policies:
            return build.exp(LogProb(name.id, self._is_trained(name.id)))
        if name.id == "t":
            return Position()
        if name.id == "inf":
            return build.const(float("inf"))
        if name.id in MEANING:
            self._fail(
                "unknown-name", f"the index `{name.id}` has no value of its own", name.span,
                help="it stands in brackets: " + f"`mean[{name.id}] ...`",
            )  # fmt: skip
        if name.id == "y":
            self._fail(
                "unknown-name", "the response `y` has no value of its own", name.span,
                help="its length is written |y|",
            )  # fmt: skip
        if name.id in scope.defs or name.id in FUNCTIONS:
            self._fail(
                "wrong-arguments", f"`{name.id}` is a function; give it its arguments", name.span,
                help=f"`{name.id}({self._signature(name.id)})`",
            )  # fmt: skip
        self._fail(
            "unknown-name", f"there is no `{name.id}`", name.span,
            near_to=(name.id, self._known()),
            help=f"a hyper-parameter is declared by `param {name.id} = ...`, a column of the data "
            f"by `given {name.id}[p,i]`",
        )  # fmt: skip

    def _known(self) -> list[str]:
        """The names that stand for a value here."""
        scope = self.scope
        return [
            *self.frames[-1].values, *scope.lets, *self.params, *self.givens, *COLUMNS,
            *BUILT_IN_POLICIES, *scope.policies,
        ]  # fmt: skip

    def _is_trained(self, policy: str) -> bool:
        declared = self.scope.policies.get(policy)
        return policy == "pi" or bool(declared and declared.of and declared.of.id == "pi")

    def _signature(self, function: str) -> str:
        if function in self.scope.defs:
            return ", ".join(a.id for a in self.scope.defs[function].arguments)
        return {"clip": "x, lo, hi", "togo": "x, g", "min": "a, b", "max": "a, b"}.get(
            function, "x"
        )

    def _index(self, name: tree.Name) -> Index:
        if name.id not in MEANING:
            self._fail(
                "unknown-name", f"there is no index `{name.id}`", name.span,
                near_to=(name.id, MEANING),
                help="; ".join(f"{index}: {meaning}" for index, meaning in MEANING.items()),
            )  # fmt: skip
        return name.id

    # --- expressions -----------------------------------------------------------------------------

    def _expr(self, node: tree.Expression) -> Expr:
        if (value := self.known.pop(id(node), None)) is not None:
            return value
        self.made += 1
        if self.made > MAX_NODES:
            self._record("too-large", "the formula is too large once its functions are put in",
                         node.span)  # fmt: skip
            raise ObjectiveError(self.errors)
        return _located(self._build(node), self.site or node.span)

    def _build(self, node: tree.Expression) -> Expr:
        match node:
            case tree.Number(value):
                return build.const(value)
            case tree.Name():
                return self._name(node)
            case tree.Length():
                return Length()
            case tree.Unary("not", operand):
                return build.negation(self._mask(self._expr(operand), operand.span))
            case tree.Unary(sign, operand):
                x = build.real(self._expr(operand))
                return build.neg(x) if sign == "-" else x
            case tree.Binary(op, left, right):
                _, found = self.loose.get(id(node), (node, ()))
                if found:
                    self._judge(node, found)
                return self._binary(op, left, right)
            case tree.Conditional(then, condition, otherwise):
                a, b, m = self._all(then, otherwise, condition)
                m = self._mask(m, condition.span)
                chosen = build.where(m, a, b)
                if chosen.indices == union(m.indices, a.indices, b.indices):
                    return chosen
                both = a.boolean and b.boolean
                return Where(m, a, b) if both else Where(m, build.real(a), build.real(b))
            case tree.Call():
                return self._call(node)
            case tree.Indexed():
                return self._indexed(node)
            case tree.Reduction():
                return self._reduction(node)

    def _all(self, *nodes: tree.Expression) -> list[Expr]:
        """The values of several expressions; the errors of each, where one has any."""
        values: list[Expr] = []
        for node in nodes:
            with suppress(_PoisonedError):
                values.append(self._expr(node))
        if len(values) < len(nodes):
            raise _PoisonedError
        return values

    @contextmanager
    def _then(self, *nodes: tree.Expression) -> Iterator[None]:
        """Reports the errors of some expressions, too, after that of what they are part of."""
        try:
            yield
        finally:
            with suppress(_PoisonedError):
                self._all(*nodes)

    def _binary(self, op: str, left: tree.Expression, right: tree.Expression) -> Expr:
        a, b = self._all(left, right)
        result = self._operator(op, a, b, left, right)
        if result.indices == union(a.indices, b.indices):
            return result
        # `pi / pi` is 1, and still a value for each token: indices come from what is written.
        return Binary(SIGNS[op], build.real(a), build.real(b))

    def _judge(self, product: tree.Binary, found: Sequence[Loose]) -> None:
        """Raises _PoisonedError where a reduction of a product reads two ways."""
        doubts = False
        for one in found:
            place = (one.product.span.source, one.start)
            differs, labels = self._differs(one)
            if not any(differs):
                self.clear.add(place)
            elif not doubts:  # the readings of one reduction settle others
                doubts = True
                self._two_readings(one, differs, labels)
        if doubts:
            bound = frozenset[str]().union(*(one.bound for one in found))
            self._all(*(part for part in _factors(product) if not bound & _free(part)))
            raise _PoisonedError

    def _differs(self, found: Loose) -> tuple[list[bool], tuple[Label, ...]]:
        """For each follower of a reduction, whether it matters on which side of the end it is."""
        over = {index for one in found.nest for index in _reduced(one.binder)}
        differs: list[bool] = []
        labels: list[Label] = []
        for follower in found.followers:
            named = found.bound & _free(follower.right)
            if not found.distributes or follower.op == "^" or named:
                differs.append(True)
                continue
            try:
                value = self._expr(follower.right)
            except _PoisonedError:  # what it is will be known when its error is gone
                self.doubtful.add((found.product.span.source, found.start))
                differs.append(False)
                continue
            self.known[id(follower.right)] = value
            shared = [index for index in value.indices if index in over]
            differs.append(bool(shared))
            if shared:
                labels.append(Label(follower.right.span, f"varies with `{','.join(shared)}`"))
        if labels and self.open and self.open[-1][0].endswith("()"):
            labels.append(Label(self.open[-1][1], "in this call"))
        return differs, tuple(labels)

    def _two_readings(
        self, found: Loose, differs: Sequence[bool], labels: tuple[Label, ...] = ()
    ) -> None:
        self.doubtful.add((found.product.span.source, found.start))
        self._report(two_readings(found, differs, labels))

    def _operator(
        self, op: str, a: Expr, b: Expr, left: tree.Expression, right: tree.Expression
    ) -> Expr:
        match op:
            case "and" | "or":
                a, b = self._mask(a, left.span), self._mask(b, right.span)
                return build.both(a, b) if op == "and" else Binary("or", a, b)
            case "<" | "<=" | ">" | ">=" | "==" | "!=":
                return Binary(SIGNS[op], build.real(a), build.real(b))
            case "*":
                return build.mul(a, b)
            case "/":
                return build.div(a, build.real(b))
        a, b = build.real(a), build.real(b)
        match op:
            case "+":
                return build.add(a, b)
            case "-":
                return build.sub(a, b)
        return build.power(a, b)

    def _mask(self, value: Expr, span: Span) -> Expr:
        if value.boolean:
            return value
        if isinstance(value, Column) and not value.trained:
            return Binary("ne", value, build.ZERO)
        self._fail(
            "wrong-type", "a condition is wanted here, and this is a number", span,
            help="compare it with something: `x > 0`",
        )  # fmt: skip

    def _call(self, call: tree.Call) -> Expr:
        call = replace(call, function=self._read(call.function))
        name = call.function.id
        if name in self.scope.defs:
            return self._inline(self.scope.defs[name], call)
        if name not in FUNCTIONS:
            with self._then(*call.arguments):
                self._no_function(call)
        self._check_arguments(call, FUNCTIONS[name])
        args = [build.real(value) for value in self._all(*call.arguments)]
        match name:
            case "sg":
                return build.stop(args[0])
            case "min" | "max":
                result = args[0]
                for other in args[1:]:
                    result = Binary("min" if name == "min" else "max", result, other)
                return result
            case "clip":
                return Clip(*args)
            case "next":
                return Shift(self._at_tokens(args[0], call.arguments[0].span), 1)
            case "togo":
                x = self._at_tokens(args[0], call.arguments[0].span)
                if args[1].current or args[1].indices != SCALAR:
                    self._fail("wrong-type", "a discount is one number", call.arguments[1].span)
                return Scan(">=", x, None if args[1] == build.ONE else args[1])
        return unary(UNARY_FUNCTIONS[name], args[0])

    def _no_function(self, call: tree.Call) -> NoReturn:
        name = call.function.id
        if name in REDUCTIONS or name in SUBSETS:
            self._no_index(call)
        if name in self._known() or name == "t":
            self._fail(
                "wrong-arguments", f"`{name}` is a value, not a function", call.function.span,
                help="a product is written with `*`",
            )  # fmt: skip
        policies = [a.id for a in call.arguments if isinstance(a, tree.Name)]
        if is_divergence(name) and len(policies) == len(call.arguments) == 2:
            self._raise(messages.divergence(call.span, *policies))
        if is_expectation(name) and len(call.arguments) == 1:
            (argument,) = call.arguments
            head = Span(call.span.source, call.span.start, argument.span.start)
            self._expectation(call.span, head, argument)
        self._fail(
            "unknown-name", f"there is no function `{name}`", call.function.span,
            near_to=(name, [*FUNCTIONS, *self.scope.defs]),
            help=f"a function is made by `def {name}(x) = ...`",
        )  # fmt: skip

    def _expectation(self, whole: Span, head: Span, operand: tree.Expression) -> NoReturn:
        """`E(x)` and `E[x]`; `head` is the text up to `x`."""
        indices = self._expr(operand).indices
        end = Span(whole.source, operand.span.end, whole.end)
        self._raise(messages.expectation(whole, head, end, indices))

    def _no_index(self, call: tree.Call) -> NoReturn:
        """`mean(reward)`: what it can run over depends on what its operand varies with."""
        name, choices = call.function.id, []
        shown, example = "...", "t"
        if call.arguments and name in REDUCTIONS:
            indices = self._expr(call.arguments[0]).indices
            shown = _shown(call.arguments[0]).strip("`").replace("this", "(...)")
            example = indices[-1] if indices else example
            choices = [
                Fix(
                    f"`{name}[{','.join(indices[k:])}] {shown}`: over {_runs_over(indices[k:])}",
                    (Edit(call.function.span, f"{name}[{','.join(indices[k:])}] "),),
                )
                for k in reversed(range(len(indices)))
            ]
        self._fail(
            "wrong-arguments", f"`{name}` needs the indices that it runs over", call.span,
            help=f"they stand in square brackets: `{name}[{example}] {shown}`",
            choices=tuple(choices) if len(call.arguments) == 1 else (),
        )  # fmt: skip

    def _check_arguments(self, call: tree.Call, wanted: int) -> None:
        given = len(call.arguments)
        if given == wanted or (wanted < 0 and given >= -wanted):
            return
        least = "at least " if wanted < 0 else ""
        name = call.function.id
        if name in REDUCTIONS and given == 1:
            self._no_index(call)
        self._fail(
            "wrong-arguments",
            f"`{name}` takes {least}{abs(wanted)} argument{'s' if abs(wanted) > 1 else ''}, "
            f"not {given}",
            call.span, help=f"`{name}({self._signature(name)})`",
        )  # fmt: skip

    def _inline(self, function: tree.Def, call: tree.Call) -> Expr:
        name = function.name.id
        self._check_arguments(call, len(function.arguments))
        names = [other for other, _ in self.open]
        if name + "()" in names:
            cycle = [*names[names.index(name + "()") :], name + "()"]
            self._fail(
                "cyclic-binding", f"the function `{name}` calls itself", call.span,
                help="the cycle is " + " -> ".join(cycle),
            )  # fmt: skip
        args = self._all(*call.arguments)
        bound = {a.id: value for a, value in zip(function.arguments, args, strict=True)}
        self._open(name + "()", call.span)
        self.frames.append(_Frame(bound))
        site = self.site
        if function.span.source is self.prelude.source:
            self.site = site or call.span
        try:
            value = self._expr(function.body)
            self.calls.append(Named(name, value, call.span))
            return value
        finally:
            self.site = site
            self.frames.pop()
            self.open.pop()

    def _indexed(self, node: tree.Indexed) -> Expr:
        name, binder = self._read(node.name).id, node.binder
        policies = (*BUILT_IN_POLICIES, *self.scope.policies)
        if name in REDUCTIONS or name in SUBSETS:
            self._fail(
                "wrong-arguments", f"`{name}` has nothing to work on", node.span,
                help=f"`{name}[{binder.span.text.strip('[]')}] x`; a minus needs brackets: "
                f"`{name}[t] (-x)`",
            )  # fmt: skip
        is_word = [index.id for index in binder.indices] == ["v"] and binder.condition is None
        if name in self.frames[-1].values and is_word:
            self._fail(
                "wrong-index", f"`{name}` is an argument here, a value without words", node.span,
                help="the distribution of a policy is an argument of its own: `f(pi, pi[v])`",
            )  # fmt: skip
        if name in policies and is_word:
            return build.exp(LogDist(name, self._is_trained(name)))
        if name in policies:
            self._fail(
                "wrong-index", f"`{name}` can be indexed by `v` only, the word of the vocabulary",
                binder.span, help=f"`{name}` alone is the probability of the sampled token",
            )  # fmt: skip
        if name not in self._known():
            self._unknown_indexed(node)
        self._fail(
            "wrong-index", f"`{name}` is not indexed: its indices are implied", node.span,
            help=f"write `{name}`",
        )  # fmt: skip

    def _unknown_indexed(self, node: tree.Indexed) -> NoReturn:
        """A name that is none, before square brackets: `E[reward]`, `KL[pi, ref]`, `softmax[v]`."""
        name, binder = node.name.id, node.binder
        inside, condition = [index.id for index in binder.indices], binder.condition
        if is_expectation(name) and len(inside) == 1 and condition is None:
            operand = binder.indices[0]
            head = Span(node.span.source, node.span.start, operand.span.start)
            self._expectation(node.span, head, operand)
        if is_divergence(name):
            named = [*inside, *([condition.id] if isinstance(condition, tree.Name) else [])]
            if len(named) == 2:
                self._raise(messages.divergence(node.span, *named))
        self._fail(
            "unknown-name", f"there is no `{name}`", node.name.span,
            near_to=(name, [*self._known(), *REDUCTIONS, *SUBSETS]),
            help=f"a reduction is applied to what follows it: `mean[{','.join(inside)}] x`",
        )  # fmt: skip

    # --- reductions ------------------------------------------------------------------------------

    def _reduction(self, node: tree.Reduction) -> Expr:
        op, binder = node.operator.id, node.binder
        if op in SUBSETS:
            return self._subset(node)
        if op not in REDUCTIONS:
            with self._then(*(node.operands if binder.relation is None else ())):
                self._no_reduction(node.operator)
        if len(node.operands) != 1:
            self._fail("wrong-arguments", f"`{op}` works on one value", node.span)
        if binder.relation is not None:
            return self._running(op, node, binder.relation)
        condition = () if binder.condition is None else (binder.condition,)
        x, *masks = self._all(node.operands[0], *condition)
        x = build.real(x)
        mask = None
        if binder.condition is not None:
            mask = self._mask(masks[0], binder.condition.span)
        over = self._over(binder, op, x, mask, node.operands[0])
        if "p" in over and self.kept is not None:
            mask = self.kept if mask is None else build.both(self.kept, mask)
        if op == "prod" and isinstance(x, Unary) and x.op == "exp":
            return build.exp(Reduce("sum", over, x.x, mask))
        return Reduce(REDUCTIONS[op], over, x, mask)

    def _no_reduction(self, operator: tree.Name) -> NoReturn:
        name = operator.id
        meant = "mean" if is_expectation(name) else SYNONYMS.get(name)
        if meant in REDUCTIONS:
            self._fail(
                "unknown-name", f"there is no reduction `{name}`", operator.span,
                help=f"it is called `{meant}`",
                fix=Fix(f"write `{meant}`", (Edit(operator.span, meant),)),
            )  # fmt: skip
        self._fail(
            "unknown-name", f"there is no reduction `{name}`", operator.span,
            near_to=(name, [*REDUCTIONS, *SUBSETS]),
            help="known are: " + ", ".join(REDUCTIONS),
        )  # fmt: skip

    def _over(
        self, binder: tree.Binder, op: str, x: Expr, mask: Expr | None, body: tree.Expression
    ) -> Indices:
        """The indices of a binder, if `x` can be reduced over them."""
        named = [self._index(index) for index in binder.indices]
        over = tuple(index for index in WORD if index in named)
        text = _shown(body)
        if len(over) != len(named):
            self._fail("wrong-index", "an index stands twice in the brackets", binder.span)
        carried = union(x.indices, mask.indices if mask is not None else SCALAR)
        # `sum[i] 1` is how many responses there are.
        counts = op == "sum" and mask is None and x == build.ONE and over[-1] != "v"
        if not counts and (not set(over) & set(carried) or over[-1] == "v" != carried[-1]):
            self._fail(
                "wrong-index",
                f"{text} has no {_index_name(over[-1])} index: it has {written(carried)}",
                body.span,
                labels=(Label(binder.span, f"`{op}` runs over `{written(over)}`"),),
                help=f"did you mean `{op}[{carried[-1]}]`?" if carried else "it is one number",
            )  # fmt: skip
        whole = union(carried, over_to(over))
        left = remove(whole, over)
        if left != whole[: len(left)]:
            inner = [index for index in whole[whole.index(over[0]) :] if index not in over]
            reduced = " ".join(f"mean[{index}]" for index in inner)
            guilty, place = text, body.span
            if binder.condition is not None and carried != x.indices:
                guilty, place = _shown(binder.condition), binder.condition.span
            self._fail(
                "wrong-index",
                f"{guilty} still varies along {written(tuple(inner))}, which "
                f"lie{'s' if len(inner) == 1 else ''} inside `{over[0]}`",
                place,
                labels=(Label(binder.span, f"`{op}` runs over `{written(over)}`"),),
                help=f"reduce it first, `{reduced} ...`, or name "
                f"{'it' if len(inner) == 1 else 'them'} in the brackets too",
            )  # fmt: skip
        return over

    def _running(self, op: str, node: tree.Reduction, relation: tree.Relation) -> Expr:
        body, bound = node.operands[0], relation.bound
        if bound.id in MEANING and relation.index.id not in MEANING:
            mirrored = relation.op.translate(str.maketrans("<>", "><"))
            self._fail(
                "wrong-index", "the index that runs stands first", node.binder.span,
                help=f"write `{op}[{relation.index.id} {mirrored} {bound.id}]`",
            )  # fmt: skip
        index = self._index(relation.index)
        if bound.id in self._known() or bound.id in MEANING:
            self._fail(
                "reserved-name", f"`{bound.id}` already has a meaning: {_meaning(bound.id)}",
                bound.span,
                help="the index that runs needs a name of its own: `j != i`, `s >= t`",
            )  # fmt: skip
        if node.binder.condition is not None:
            self._fail(
                "wrong-arguments", "a condition cannot stand after a relation",
                node.binder.condition.span, help="multiply by the mask instead",
            )  # fmt: skip
        if relation.op == "!=":
            if index != "i" or not REDUCE[REDUCTIONS[op]].others:
                self._fail(
                    "wrong-index", "only `sum[j != i]` and `mean[j != i]` leave one out",
                    node.binder.span,
                )  # fmt: skip
            with self._frame(_Frame(self.frames[-1].values, {bound.id: "`j` has no value"})):
                x = build.real(self._expr(body))
            if x.indices != RESPONSE:
                self._fail(
                    "wrong-index",
                    f"{_shown(body)} has the indices {written(x.indices)}, but `j != i` runs over "
                    "whole responses: p,i",
                    body.span, help=_reduce_hint(x.indices, RESPONSE),
                )  # fmt: skip
            return Others("sum" if op == "sum" else "mean", x)
        if index != "t":
            self._fail("wrong-index", "a running reduction follows the tokens: `s >= t`",
                       node.binder.span)  # fmt: skip
        message = f"inside `{op}[{bound.id} {relation.op} t]` the position is `{bound.id}`, not `t`"
        values = {**self.frames[-1].values, bound.id: Position()}
        with self._frame(_Frame(values, {"t": message})):
            x = self._at_tokens(build.real(self._expr(body)), body.span)
        match op:
            case "sum":
                return Scan(relation.op, x)
            case "mean":
                return build.div(Scan(relation.op, x), _reached(relation.op))
            case "prod" if bounds(x)[0] >= 0:
                return build.exp(Scan(relation.op, build.log(x)))
            case "prod":
                self._fail(
                    "wrong-type",
                    f"a running product is kept in log space, and {_shown(body)} may be negative",
                    body.span, help="a ratio never is, nor is `exp(x)` or `max(x, 0)`",
                )  # fmt: skip
        self._fail(
            "wrong-arguments", f"there is no running `{op}`", node.span,
            help="`sum`, `mean` and `prod` can run along the tokens",
        )  # fmt: skip

    def _subset(self, node: tree.Reduction) -> Expr:
        op, binder = node.operator.id, node.binder
        wanted = "(x, fraction)" if op == "top" else "(mask, fraction)"
        if len(node.operands) != 2 or binder.relation or binder.condition:
            self._fail("wrong-arguments", f"write `{op}[p,i,t]{wanted}`", node.span)
        first, second = node.operands
        x, fraction = self._all(first, second)
        if fraction.indices != SCALAR or fraction.current:
            self._fail("wrong-type", "a fraction is one number", second.span)
        if isinstance(fraction, Const) and not 0 <= fraction.value <= 1:
            self._fail("outside-domain", "a fraction lies between 0 and 1", second.span)
        value = build.real(x) if op == "top" else self._mask(x, first.span)
        over = self._over(binder, op, value, None, first)
        if value.indices != over_to(over) or value.indices == WORD:
            self._fail(
                "wrong-index",
                f"{_shown(first)} has the indices {written(value.indices)}; `{op}` chooses among "
                "them, so the last one stands in the brackets",
                node.span,
            )  # fmt: skip
        if op == "pick" and value.indices != TOKEN:
            self._fail("wrong-index", "`pick` chooses tokens", node.span)
        return Top(over, value, fraction) if op == "top" else Pick(over, value, fraction)

    def _at_tokens(self, x: Expr, span: Span) -> Expr:
        if x.indices != WORD:
            return x
        self._fail("wrong-index", "this has a value for each word `v` of the vocabulary", span)

    # --- errors ----------------------------------------------------------------------------------

    @contextmanager
    def _frame(self, frame: _Frame) -> Iterator[None]:
        self.frames.append(frame)
        try:
            yield
        finally:
            self.frames.pop()

    @contextmanager
    def _statement(self) -> Iterator[None]:
        try:
            yield
        except _PoisonedError:
            self.frames, self.open, self.site = [_Frame()], [], None
            self.known.clear()

    def _record(
        self,
        name: ErrorName,
        message: str,
        span: Span | None,
        *,
        help: str = "",
        labels: tuple[Label, ...] = (),
        near_to: tuple[str, Iterable[str]] | None = None,
        choices: tuple[Fix, ...] = (),
        fix: Fix | None = None,
    ) -> None:
        if near_to is not None:
            unknown, known = near_to
            found, said = spelled(unknown, known), said_here(unknown)
            if found is not None and (said is None or same_letters(unknown, found)):
                help = f"did you mean `{found}`?"
                if span is not None:
                    fix = Fix(f"write `{found}`", (Edit(span, found),))
            elif said is not None:
                help = said
        if self.site is not None and span is not None and span.source is self.prelude.source:
            span = self.site
        self._report(error(name, message, span, labels=labels, help=help, fix=fix, choices=choices))

    def _report(self, error: Diagnostic) -> None:
        """Adds an error, once: a function may be called, and a factor looked at, several times."""
        if any(e.message == error.message and e.span == error.span for e in self.errors):
            return
        self.errors.append(error)
        if len(self.errors) == MAX_ERRORS:
            raise ObjectiveError(self.errors)

    def _raise(self, error: Diagnostic) -> NoReturn:
        self._report(error)
        raise _PoisonedError

    def _fail(
        self,
        name: ErrorName,
        message: str,
        span: Span | None,
        *,
        help: str = "",
        labels: tuple[Label, ...] = (),
        near_to: tuple[str, Iterable[str]] | None = None,
        choices: tuple[Fix, ...] = (),
        fix: Fix | None = None,
    ) -> NoReturn:
        self._record(
            name, message, span, help=help, labels=labels, near_to=near_to, choices=choices, fix=fix
        )
        raise _PoisonedError


def _trained_leaves(value: Expr) -> Iterator[Expr]:
    """The trained leaves that a gradient reaches from a value."""
    seen, waiting = {value}, [value]
    while waiting:
        node = waiting.pop()
        if node.live and not node.children:
            yield node
        below = [child for child in node.children if child.live and child not in seen]
        seen.update(below)
        waiting += below


def _located(expr: Expr, span: Span) -> Expr:
    """The node with its place, if it has none yet. Leaves may be shared, so they are copied."""
    if expr.span is not None:
        return expr
    if not expr.children:
        expr = copy.copy(expr)
    object.__setattr__(expr, "span", span)
    return expr


def _reached(relation: str) -> Expr:
    """How many `s` there are with `s R t`; 1 instead of none, as the mean of nothing is 0."""
    t = Position()
    many = {
        "<=": t,
        "<": build.sub(t, build.ONE),
        ">=": build.add(build.sub(Length(), t), build.ONE),
        ">": build.sub(Length(), t),
    }[relation]
    return many if relation in ("<=", ">=") else Binary("max", many, build.ONE)


def _factors(node: tree.Expression, top: bool = True) -> Iterator[tree.Expression]:
    """The parts of a product, each a value of its own; of a loose reduction its operand."""
    bracketed = isinstance(node, tree.Unary | tree.Binary | tree.Reduction) and node.bracketed
    match node:
        case tree.Binary(op, left, right) if op in PRODUCT and (top or not bracketed):
            yield from _factors(left, False)
            yield from _factors(right, False)
        case tree.Unary("-" | "+", operand) if not bracketed:
            yield from _factors(operand, False)
        case tree.Reduction(_, tree.Binder(_, None, _), (operand,)) if not bracketed:
            yield from _factors(operand, False)
        case tree.Reduction() if not bracketed:
            pass  # its operand may name the index that runs
        case _:
            yield node


def _reduced(binder: tree.Binder) -> tuple[str, ...]:
    """The indices that a reduction takes away, or runs along."""
    if binder.relation is not None:
        return (binder.relation.index.id,)
    return tuple(index.id for index in binder.indices)


def _free(node: tree.Expression) -> set[str]:
    """The names that an expression reads, without the indices that run inside it."""
    match node:
        case tree.Name(id):
            return {id}
        case tree.Reduction(_, tree.Binder(_, relation, condition), operands):
            inside = set[str]().union(*map(_free, operands), _free(condition) if condition else ())
            return inside - ({relation.bound.id} if relation else set())
        case tree.Unary(_, operand):
            return _free(operand)
        case tree.Binary(_, left, right):
            return _free(left) | _free(right)
        case tree.Conditional(then, condition, otherwise):
            return _free(then) | _free(condition) | _free(otherwise)
        case tree.Call(_, arguments):
            return set[str]().union(*map(_free, arguments))
        case tree.Number() | tree.Length() | tree.Indexed():
            return set()


_MEANINGS = {
    "pi": "the policy that is trained", "old": "the policy at rollout time",
    "mu": "the inference engine that samples", "ref": "the frozen reference policy",
    "reward": "the outcome reward of a response, p,i", "V": "the critic that is trained, p,i,t",
    "V_old": "the critic at rollout time, p,i,t",
    "truncated": "whether a response hit the length limit, p,i",
}  # fmt: skip


def _meaning(name: str) -> str:
    """What a name of the language stands for."""
    if name in _MEANINGS:
        return _MEANINGS[name]
    if name in MEANING:
        return f"the index of the {MEANING[name]}"
    if name in FUNCTIONS:
        return "a function"
    return "a reduction" if name in REDUCTIONS or name in SUBSETS else "a value of this file"


def _runs_over(indices: Indices) -> str:
    return "all " + MEANING[indices[-1]] if len(indices) == 1 else {
        ("p", "i"): "the responses of the step", ("i", "t"): "the tokens of a group",
        ("p", "i", "t"): "the tokens of the step",
    }.get(indices, "all of " + ",".join(indices))  # fmt: skip


def _index_name(index: Index) -> str:
    return {"p": "prompt", "i": "response", "t": "token", "v": "word"}[index]


def _reduce_hint(have: Indices, want: Indices) -> str:
    extra = remove(have, want)
    if not extra:
        return "it is the same for all of them"
    nested = " ".join(f"mean[{index}]" for index in extra)
    if len(extra) == 1:
        return f"reduce it: `{nested} ...`"
    return f"reduce it: `{nested} ...`, or `mean[{','.join(extra)}] ...` with one denominator"


def _shown(node: tree.Expression) -> str:
    text = " ".join(node.span.text.split())
    return f"`{text}`" if len(text) <= 30 else "this"


def _cut(text: str) -> str:
    """A piece of text on one line, without its end where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= 30 else text[:27].rstrip() + "..."


__all__ = ["COLUMNS", "FUNCTIONS", "REDUCTIONS", "SUBSETS", "elaborate"]
