"""Parameters, columns, policies, sampling, `keep` and goals."""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from objdsl.diagnostic import Label
from objdsl.elaborate.checks import as_mask, as_number, refuse_learned
from objdsl.elaborate.collect import is_twice
from objdsl.elaborate.context import Context, RecordedError
from objdsl.elaborate.names import index_of, resolved
from objdsl.elaborate.wording import index_name, reduce_hint
from objdsl.ir.columns import DISTRIBUTION, reader_of
from objdsl.ir.declarations import (
    BUILT_IN_POLICIES,
    Branch,
    Domain,
    Parameter,
    Policy,
    Sampling,
    is_layer,
)
from objdsl.ir.indices import PROMPT, RESPONSE, TOKEN, VOCAB, Indices, decimal, written
from objdsl.ir.nodes import (
    Column,
    Expr,
    Known,
    LogDist,
    LogProb,
    Role,
    live_leaves,
    topological,
)
from objdsl.ir.objective import ARGUMENTS
from objdsl.source import Span
from objdsl.syntax import tree
from objdsl.syntax.foreign import RESPONSES_PER_PROMPT
from objdsl.syntax.language import (
    COLUMNS,
    SAMPLING_COLUMNS,
    SAMPLING_FLAGS,
    SAMPLING_NUMBERS,
    meaning,
)


def parameter_of(ctx: Context, param: tree.Param) -> Parameter:
    domain = domain_of(ctx, param.domain)
    if not domain.empty and not domain.holds(param.default):
        ctx.record(
            "outside-domain",
            f"the default {param.default_text} of `{param.name.id}` is outside {domain}",
            param.span,
        )
    return Parameter(param.name.id, param.default, domain, param.span)


def domain_of(ctx: Context, domain: tree.Interval | tree.Choice | None) -> Domain:
    match domain:
        case tree.Choice(values):
            return Domain(values=values)
        case tree.Interval(lower, upper, lower_closed, upper_closed, span):
            interval = Domain(lower, upper, lower_closed, upper_closed)
            if interval.empty:
                ctx.record(
                    "empty-domain", f"no number is in {interval}", span,
                    help="a domain is written from its lower end to its upper end",
                )  # fmt: skip
            return interval
    return Domain()


def given_column(ctx: Context, given: tree.Given) -> Column:
    name = given.name.id
    domain = domain_of(ctx, given.domain)
    values = domain.values
    ends = values or (domain.lower, domain.upper)
    if given.indices is None:
        what = "declare a domain for" if given.role is None else "declare"
        if name not in COLUMNS or COLUMNS[name].trained:
            columns = [k for k, column in COLUMNS.items() if not column.trained]
            ctx.fail(
                "unknown-name", f"there is no column `{name}` to {what}",
                given.name.span, near_to=(name, columns),
                help="a new column says its indices: "
                f"`given {name}[p,i]{' as reward' if given.role else ''}`",
            )  # fmt: skip
        column = COLUMNS[name]
        if given.known is not None:
            ctx.fail(
                "wrong-type", f"it is known when `{name}` is: {meaning(name)}", given.known.span,
                help="`before t` says it of a column of your own: `given state[p,i,t] before t`",
            )  # fmt: skip
        if given.role is not None and _role(ctx, given.role) != column.role:
            ctx.fail(
                "wrong-type", f"`{name}` is no reward", given.role.span,
                help="a reward of your own has a name of its own: "
                "`given correct[p,i] as reward`",
            )  # fmt: skip
        return replace(column, values=values, lower=min(ends), upper=max(ends))
    indices = tuple(index_of(ctx, index) for index in given.indices)
    if indices not in (PROMPT, RESPONSE, TOKEN, VOCAB):
        ctx.fail(
            "wrong-index", f"a column cannot have the indices {written(indices)}",
            given.span, help="use [p], [p,i], [p,i,t] or [p,i,t,v]",
        )  # fmt: skip
    check_column(ctx, given.name)
    known = _known(ctx, given, indices)
    if given.role is None:
        return Column(name, indices, values=values, lower=min(ends), upper=max(ends), known=known)
    role = _role(ctx, given.role)
    if indices not in (RESPONSE, TOKEN):
        why = (
            "it is the same for all responses to a prompt, and has no gradient"
            if indices == PROMPT
            else "it tells tokens apart that were not sampled"
        )
        ctx.fail(
            "wrong-index", f"`{name}` cannot be a reward: {why}", given.span,
            help="a reward is of a response, [p,i], or of a token, [p,i,t]",
        )  # fmt: skip
    return Column(name, indices, values=values, lower=min(ends), upper=max(ends), role=role)


_KNOWN: dict[str, Known] = {"before i": "before i", "before t": "before t", "at t": "at t"}


def _known(ctx: Context, given: tree.Given, indices: Indices) -> Known:
    """The part of a response of which a column is a function."""
    name, when = given.name.id, given.known
    if when is None:
        return "response"
    known = _KNOWN.get(f"{when.word} {when.index.id}")
    if known is None:
        ctx.fail(
            "wrong-index", f"a column cannot be known `{when.word} {when.index.id}`", when.span,
            help="`before i` is before the response is drawn, `before t` before its token is, and "
            "`at t` with the token",
        )  # fmt: skip
    if given.role is not None:
        ctx.fail("wrong-type", "a reward is known with the response", when.span)
    if when.index.id not in indices:
        ctx.fail(
            "wrong-index",
            f"`{name}` has no {index_name(index_of(ctx, when.index))} index: it has "
            f"{written(indices)}",
            when.span,
        )  # fmt: skip
    return known


def _role(ctx: Context, name: tree.Name) -> Role:
    if name.id != "reward":
        ctx.fail(
            "unknown-name", f"a column cannot be declared as `{name.id}`", name.span,
            near_to=(name.id, ("reward",)),
            help="the one kind is `reward`: what is to be raised",
        )  # fmt: skip
    return "reward"


def check_column(ctx: Context, name: tree.Name) -> None:
    """A column is handed over by its name: nothing else may be."""
    reader = reader_of(name.id, (*BUILT_IN_POLICIES, *ctx.scope.policies))
    if reader is not None:
        ctx.fail(
            "reserved-name", f"`{name.id}` is the column that `{reader}` reads", name.span,
            help="choose a different name",
        )  # fmt: skip
    if name.id in ARGUMENTS:
        ctx.fail(
            "reserved-name", f"a column cannot be called `{name.id}`", name.span,
            help=f"`{name.id}=` is already an argument of `Objective.prepare` or of the "
            "objective itself; choose a different name",
        )  # fmt: skip


def policy_of(ctx: Context, policy: tree.Policy) -> Policy:
    name = policy.name.id
    if name.endswith(DISTRIBUTION):
        ctx.record(
            "reserved-name", f"a policy cannot be called `{name}`", policy.name.span,
            help=f"`log_{name}` is the distribution of `{name.removesuffix(DISTRIBUTION)}`; "
            "choose a different name",
        )  # fmt: skip
    source = policy.source
    if source is not None and source.of.id not in BUILT_IN_POLICIES:
        ctx.record(
            "unknown-name", f"there is no policy `{source.of.id}`", source.of.span,
            near_to=(source.of.id, BUILT_IN_POLICIES),
            help="known are: " + ", ".join(BUILT_IN_POLICIES),
        )  # fmt: skip
    elif isinstance(source, tree.Every | tree.Average) and source.of.id != "pi":
        ctx.record(
            "wrong-type", f"`{source.of.id}` is not trained, so that nothing follows it",
            source.of.span, help="a policy follows `pi`",
        )  # fmt: skip
    if policy.top is not None and (source is not None or policy.top < 1):
        ctx.record(
            "outside-domain",
            "a policy of the run is known for the whole vocabulary" if source
            else "a policy is known for at least 1 entry of the vocabulary",
            policy.span, help="`policy teacher top 64` is one that is served with 64 entries",
        )  # fmt: skip
    match source:
        case tree.Layer(of, layer, norm):
            at = _layer(ctx, layer, source.span)
            return Policy(name, of.id, at, policy.top, norm=norm)
        case tree.Every(_, steps):
            return Policy(name, top=policy.top, every=steps)
        case tree.Average(_, decay):
            if not 0 <= decay < 1:
                ctx.record(
                    "outside-domain", "the decay of an average lies in [0, 1)", source.span,
                    help="at 1 the policy stays what it is: `policy anchor` is frozen",
                )  # fmt: skip
            return Policy(name, top=policy.top, decay=decay)
    return Policy(name, top=policy.top)


def _layer(ctx: Context, layer: int | tree.Name, place: Span) -> int | str:
    """A layer: its number, or the parameter that says it."""
    value: float
    if isinstance(layer, tree.Name):
        layer = resolved(ctx, layer)
        ctx.read.add(layer.id)
        place = layer.span
        if layer.id not in ctx.params:
            ctx.record(
                "unknown-name", f"there is no parameter `{layer.id}`", place,
                near_to=(layer.id, ctx.params),
                help=f"a layer is a number or a parameter, `param {layer.id} = 6 in [1, inf)`",
            )  # fmt: skip
            return layer.id
        value = ctx.params[layer.id].default
    else:
        value = layer
    if not is_layer(value):
        name = f"{layer.id} = " if isinstance(layer, tree.Name) else ""
        ctx.record(
            "outside-domain", f"no layer has the number {name}{decimal(value)}", place,
            help="a layer is a whole number, counted from 1",
        )  # fmt: skip
    return layer.id if isinstance(layer, tree.Name) else layer


def sampling_of(ctx: Context, sample: tree.Sample) -> Sampling:
    policy = resolved(ctx, sample.policy).id
    ctx.read.add(policy)
    known = [*BUILT_IN_POLICIES, *ctx.scope.policies]
    if policy not in known:
        ctx.fail(
            "unknown-name", f"there is no policy `{policy}`", sample.policy.span,
            near_to=(policy, known), help="known are: " + ", ".join(known),
        )  # fmt: skip
    values: dict[str, float | int | bool | Branch] = {}
    seen: dict[tuple[str, str], Span] = {}
    for option in sample.options:
        name, value = option.name.id, option.value
        if is_twice(ctx, ("option", name), option.span, seen):
            continue
        known = [*SAMPLING_NUMBERS, *SAMPLING_FLAGS, *SAMPLING_COLUMNS]
        if name not in known:
            help = "known are: " + ", ".join(known)
            if name in RESPONSES_PER_PROMPT:
                help = "the number of responses to a prompt is `group`: `group 8`"
            ctx.fail(
                "unknown-name", f"`sample` has no option `{name}`", option.span, help=help,
                near_to=None if name in RESPONSES_PER_PROMPT else (name, known),
            )  # fmt: skip
        match value:
            case None if name in SAMPLING_FLAGS:
                values[name] = True
                continue
            case tree.Name() if name in SAMPLING_COLUMNS:
                values[name] = _branch(ctx, value)
                continue
            case float() if name in SAMPLING_NUMBERS:
                pass
            case _:
                _wrong_value(ctx, option)
        whole = name in ("group", "top_k", "staleness")
        least = {"group": 1, "top_k": 1, "staleness": 0}.get(name, 0)
        good = value == int(value) and value >= least if whole else value > 0
        if not good or (name == "top_p" and value > 1):
            ctx.fail("outside-domain", f"`{name} {value:g}` is not possible", option.span)
        values[name] = int(value) if whole else value
    return Sampling(policy=policy, span=sample.span, **values)  # type: ignore[arg-type]


def _wrong_value(ctx: Context, option: tree.Option) -> NoReturn:
    name, value = option.name.id, option.value
    if name in SAMPLING_FLAGS:
        ctx.fail("wrong-arguments", f"`{name}` takes no value", option.span)
    if name in SAMPLING_COLUMNS:
        ctx.fail(
            "wrong-arguments", f"the value of `{name}` is a column", option.span,
            help=f"for example `{name} node`, with `given node[p,i,t] before t`",
        )  # fmt: skip
    help = f"for example `{name} 1`" + ("; it cannot be a parameter" if value is not None else "")
    ctx.fail("wrong-arguments", f"the value of `{name}` is a number", option.span, help=help)


def _branch(ctx: Context, name: tree.Name) -> Branch:
    """The column that says which responses share tokens."""
    given, column = ctx.scope.givens.get(name.id), ctx.givens.get(name.id)
    if given is None:
        ctx.fail(
            "unknown-name", f"`{name.id}` is no column that the file declares", name.span,
            near_to=(name.id, ctx.scope.givens), help=f"write `given {name.id}[p,i,t] before t`",
        )  # fmt: skip
    if column is None:  # its declaration has an error
        raise RecordedError
    ctx.read.add(name.id)
    declarations = [Branch(name.id, over) for over in (TOKEN, RESPONSE)]
    for branch in declarations:
        if (column.over, column.known, column.role) == (branch.over, branch.known, "data"):
            return branch
    responses = column.over == RESPONSE
    which = "they are" if responses else "each token is"
    declarable = name.id not in COLUMNS and column.over in (RESPONSE, TOKEN)
    ctx.fail(
        "wrong-type", f"`{name.id}` does not say which responses share tokens before {which} drawn",
        name.span, labels=(Label(given.span, "as it is declared"),),
        help=f"declare it as `{declarations[responses]}`"
        if declarable
        else "a column of its own does: `given node[p,i,t] before t`",
    )  # fmt: skip


def kept_prompts(ctx: Context, keep: tree.Keep) -> Expr:
    if keep.index.id != "p":
        ctx.fail(
            "wrong-index", f"`keep` chooses prompts, not `{keep.index.id}`", keep.index.span,
            help="write `keep p where ...`; single responses or tokens are left out by a mask",
        )  # fmt: skip
    condition = as_mask(ctx, ctx.expr(keep.condition), keep.condition.span)
    if condition.indices != PROMPT:
        ctx.fail(
            "wrong-index",
            f"the condition of `keep p` has the indices {written(condition.indices)}, not p",
            keep.condition.span, help=reduce_hint(condition.indices, PROMPT),
        )  # fmt: skip
    refuse_learned(ctx, condition, "prompts are kept by what is known", keep.condition.span)
    if condition.current:
        ctx.fail(
            "wrong-type", "prompts are kept before training, so `pi` cannot decide on it",
            keep.condition.span,
        )  # fmt: skip
    return condition


def goal_of(ctx: Context, goal: tree.Goal) -> Expr:
    whose = goal.whose
    verb = goal.sense + ("" if whose == "policy" else f" {whose}")
    if whose == "learn" and any("learn" in names for names in ctx.scope.named):
        ctx.record(
            "two-readings", "`learn` is a name of this file, and a keyword after `minimize`",
            goal.span, help="put brackets around what is minimized, or choose a different name",
        )  # fmt: skip
    value = as_number(ctx, ctx.expr(goal.value), goal.value.span, verb)
    leaves = live_leaves(value)
    if not any(_trains(leaf, whose) for leaf in leaves):
        trained = {"policy": "`pi`", "critic": "`V`", "learn": "a learned number"}[whose]
        appears = any(_trains(node, whose) and node.live for node in topological(value))
        help = f"{trained} does not appear"
        if appears and whose == "policy":
            help = (
                "every path goes through `sg` or a comparison; multiply by `log(pi)`, or "
                "leave one ratio without `sg`"
            )
        elif appears:
            help = "every path goes through `sg` or a comparison"
        elif whose == "learn":
            help += ": `learn beta = 0.1 in [0, inf)` declares one"
        elif whose == "policy" and any(_trains(leaf, "critic") for leaf in leaves):
            help += "; the critic has a goal of its own: `minimize critic ...`"
        ctx.fail(
            "no-gradient", f"no gradient reaches {trained}: training would do nothing",
            goal.value.span, help=help,
        )  # fmt: skip
    return value


def _trains(leaf: Expr, whose: tree.Whose) -> bool:
    """Whether a trained leaf is what a goal of this kind trains."""
    match leaf:
        case LogProb() | LogDist():
            return whose == "policy"
        case Column():
            return whose == ("learn" if leaf.role == "learned" else "critic")
    return False
