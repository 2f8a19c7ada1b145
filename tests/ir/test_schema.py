"""An objective in JSON is the same objective; other JSON gets one error, at the place of the
mistake."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from helpers.random_objectives import text as random_text
from helpers.samples import entries
from objdsl import driver
from objdsl.diagnostic import Diagnostic
from objdsl.errors import ObjectiveError
from objdsl.ir import nodes, objective, schema
from objdsl.ir.differentiate import weights_of
from objdsl.ir.exchange.reader import loads
from objdsl.ir.exchange.writer import dumps
from objdsl.ir.indices import Indices
from objdsl.ir.nodes import NODES, Expr, fields_of
from objdsl.objectives import gallery
from objdsl.source import Source

JSON = dict[str, Any]


# --- the models are the data classes -------------------------------------------------------------

OPERANDS = {
    Expr: "Place",
    Expr | None: "Place | None",
    tuple[Expr, ...]: "tuple[Place, ...]",
}
LEAVES = {float: ("Number", "Real"), tuple[float, ...]: ("tuple[Real, ...]",)}


def test_there_is_a_model_of_every_node() -> None:
    union, _ = get_args(schema.Node)
    assert [model.__name__ for model in get_args(union)] == [kind.__name__ for kind in NODES]


def described(kind: type, name: str) -> tuple[str, ...]:
    """The schema of a field of a data class."""
    hint = get_type_hints(kind)[name]
    if hint in OPERANDS:
        return (OPERANDS[hint],)
    if hint == Indices:
        return ("tuple[Index, ...]",) if kind is nodes.Column else ("Over",)
    if hint in (float, tuple[float, ...]):
        return LEAVES[hint]
    if hint in (str, str | None):
        return ("Name", "Name | None")
    return (str(get_type_hints(kind)[name]), kind.__annotations__[name])


@pytest.mark.parametrize("kind", NODES, ids=lambda kind: kind.__name__)
def test_a_model_has_the_fields_of_its_node(kind: type[Expr]) -> None:
    model: type[BaseModel] = getattr(schema, kind.__name__)
    first, *names = model.model_fields
    assert (first, names) == ("node", [*fields_of(kind)])
    assert model.model_fields["node"].annotation == schema.Literal[kind.__name__]
    compared(model, kind, names)


@pytest.mark.parametrize("name", ["Domain", "Parameter", "Policy", "Sampling"])
def test_a_model_has_the_fields_of_what_a_file_declares(name: str) -> None:
    model, kind = getattr(schema, name), getattr(objective, name)
    names = [field.name for field in dataclasses.fields(kind) if field.compare]
    assert [*model.model_fields] == names
    compared(model, kind, names)


def compared(model: type[BaseModel], kind: type, names: list[str]) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    if kind is objective.Sampling:
        defaults["policy"] = dataclasses.MISSING  # JSON says it
    for name in names:
        assert model.__annotations__[name] in described(kind, name), name
        default = model.model_fields[name].default
        if defaults[name] is not dataclasses.MISSING:
            assert default == defaults[name], name
        elif name != "domain":
            assert default is PydanticUndefined, name


# --- round trips ---------------------------------------------------------------------------------

RANDOM = {f"random {k}": Source(f"{k}.obj", random_text(k)) for k in range(16)}


@pytest.mark.parametrize("name", [*entries(), *RANDOM])
def test_round_trip(name: str) -> None:
    returns_the_same(RANDOM.get(name) or gallery.bundled(name))


def returns_the_same(source: Source) -> None:
    """An objective that is written as JSON and read again."""
    before = driver.compile_source(source)
    text = driver.written_out(Source("x.json", driver.ir(before)))
    after = driver.compile_source(text)
    assert text.name == "x.json"
    assert (after.digest, after.name) == (before.digest, before.name)
    for field in ("policies", "sampling", "domains", "keep", "reports"):
        assert getattr(after, field) == getattr(before, field), field
    unread = {x.name for x in before.params} - {x.name for x in after.params}
    assert not unread & {x.name for x in before.used_params}
    assert after.params == tuple(x for x in before.params if x.name not in unread)
    # What is compared with itself by elements, `x[i]`, gets a name, if it has none.
    bound = [{b.name: b.value for b in objective.bindings} for objective in (before, after)]
    assert bound[0].items() <= bound[1].items()
    assert findings_of(text) == findings_of(source)
    assert driver.layout(text) == text.text


def findings_of(source: Source) -> list[tuple[str, str]]:
    """All findings, except those about comments and about names that nothing reads: neither is in
    the JSON."""
    checked = driver.check(source)
    findings = [*checked.findings, *checked.suppressed]
    stay = ("OBJ90", "OBJ801")
    return sorted((x.code, x.message) for x in findings if not x.code.startswith(stay))


STATEMENTS = """
objective all
param eps = 0.2 in (0, 1)
param n = 2 in {1, 2, 4}
param free = -3
param depth = 6 in [1, inf)
policy teacher
policy early = pi at layer depth without norm
given reward in [0, 1)
given V_old in (-1, 1)
given difficulty[p]
given step_reward[p,i,t] in {0, 0.5, 1} as reward
given words[p,i,t,v]
state pace = (eps / 2) next clip(pace * limit_of_step, 0.001, 1)
state base[p] = difficulty next 0.9 * base + 0.1 * mean[i] reward * (step < steps / 2)
state idle = -1 next idle
limit_of_step = mean[p,i] reward + mean[p,i,t] log(old / ref)
sample from teacher: group 8, temperature 0.7, top_p 0.9, top_k 50, staleness 2, keep_mask
limit = mean[p,i] reward
keep p where std[i] reward > 0.01 * limit and difficulty < 3
A = reward - mean[j != i] reward + 1e-12 * limit - base * pace * (step / steps)
on = A > 0
off = not (A > 0) or truncated
as_number = 1 if A > 0 else 0
same = log(pi) - log(pi)
nothing = 0 * log(pi)
chain = 1 - (2 - A) - (A - 1) / (2 / A) / A * (3 * (A * 5))
powers = (A^2)^(-n)^2
running = sum[s >= t] (s * step_reward * sum[u < t] (u * s * step_reward))
discounted = togo(step_reward, 0.9) + next(V_old) + mean[s < t] step_reward
both = on if truncated else off
report chosen = mean[p,i] (on and not truncated)
report of_kept = mean[p,i | on] reward
report part = mean[p,i,t] top[p,i,t](V_old, 0.2)
report drawn = mean[p,i,t | pick[p,i,t](step_reward > 0.2, 0.3)] t
minimize critic mean[p,i,t] ((V - reward)^2)
minimize -mean[p,i] (A * as_number * free * n * eps * sum[t] (running * (pi / sg(old)))) + (
    mean[p,i,t] (chain * powers * discounted * log(early / teacher) * log(pi) * (same + nothing))
    + mean[p,i,t] sum[v] (words * (pi[v] / ref[v]))
    + mean[p,i] ((prod[t] (pi / old)) * (inf - inf))
    + 0.1 * mean[p,i] max(both, 0)
)
"""


def test_every_statement_survives() -> None:
    returns_the_same(Source("all.obj", STATEMENTS))


def test_weights_are_written() -> None:
    formula = driver.compile_source(gallery.bundled("ppo"))
    written = json.loads(driver.ir(formula))
    assert set(written["weights"]) == {"log_pi", "value"} == set(formula.trained)
    alone = dumps(formula)
    assert "weights" not in json.loads(alone)
    assert loads(Source("x.json", alone)).objective.digest == formula.digest
    assert len(weights_of(formula)) == 2


def test_what_is_shared_is_not_written_again() -> None:
    """Sixty doublings are a text of sixty names."""

    def doubled(ir: JSON) -> None:
        for _ in range(60):
            last = len(ir["nodes"]) - 1
            ir["nodes"].append({"node": "Binary", "op": "add", "a": last, "b": last})
        last = len(ir["nodes"]) - 1
        ir["nodes"].append({"node": "Reduce", "op": "mean", "over": ["p", "i", "t"], "x": last})
        ir["goal"] = last + 1

    ir = graph("reinforce")
    ir["nodes"].append({"node": "LogProb", "policy": "pi", "trained": True})
    doubled(ir)
    text = driver.written_out(Source("x.json", json.dumps(ir)))
    assert len(text.text) < 4000


def test_names_do_not_meet() -> None:
    """Neither letters of indices nor names that the text needs are those of the file."""
    text = "param j = 1\nparam s = 2\nparam u1 = 3\npolicy k\ngiven u[p,i]\n" + (
        "maximize mean[p,i] (j * s * u1 * (mean[l != i] u) * sum[t] (log(k) * log(pi)"
        " + sum[q >= t] log(pi)))\n"
    )
    returns_the_same(Source("x.obj", "objective x\n" + text))


def test_a_domain_is_that_of_the_column_where_none_is_said() -> None:
    ir = graph()
    node("Column", values=[0.0, 1.0], lower=0.0, upper=1.0)(ir)
    ir["nodes"].append({"node": "Column", "name": "unread", "over": ["p"], "lower": 0.0})
    text = driver.written_out(Source("x.json", json.dumps(ir))).text
    assert "\ngiven reward in {0, 1}\n" in text and "unread" not in text


# --- what is wrong -------------------------------------------------------------------------------


def graph(name: str = "grpo") -> JSON:
    written: JSON = json.loads(driver.ir(driver.compile_source(gallery.bundled(name))))
    del written["weights"]
    return written


def errors(ir: JSON | str) -> list[Diagnostic]:
    text = ir if isinstance(ir, str) else json.dumps(ir, indent=1)
    with pytest.raises(ObjectiveError) as raised:
        driver.written_out(Source("x.json", text))
    str(raised.value)  # shown, with its frame
    diagnostics = list(raised.value.diagnostics)
    assert all(x.span is not None and x.span.source.name == "x.json" for x in diagnostics)
    return diagnostics


def node(kind: str, **values: Any) -> Callable[[JSON], None]:
    """Changes fields of the first node of a kind; None removes one."""

    def change(ir: JSON) -> None:
        entry = next(entry for entry in ir["nodes"] if entry["node"] == kind)
        entry.update(values)
        for name in [name for name, value in values.items() if value is None]:
            del entry[name]

    return change


def objective_with(**values: Any) -> Callable[[JSON], None]:
    return lambda ir: ir.update(values)


def named(**added: Any) -> Callable[[JSON], None]:
    """Adds a node under the name z."""

    def change(ir: JSON) -> None:
        ir["bindings"]["z"] = len(ir["nodes"])
        ir["nodes"].append(added)

    return change


MALFORMED = "malformed-ir"
UNWRITABLE = "not-in-the-language"


@pytest.mark.parametrize(
    ("change", "name", "place", "message", "help"),
    [
        (node("Binary", op=None, opp="sub"), MALFORMED, '"opp"', "no field `opp`", "mean `op`?"),
        (node("Reduce", whre=4), MALFORMED, '"whre"', "no field `whre`", "mean `where`?"),
        (node("Reduce", surprise=4), MALFORMED, '"surprise"', "no field `surprise`", "known are"),
        (node("Unary", x=None), MALFORMED, "{", "lacks the field `x`", ""),
        (node("Unary", node="Unry"), MALFORMED, '"Unry"', "no node `Unry`", "mean `Unary`?"),
        (node("Binary", op="sbu"), MALFORMED, '"sbu"', "cannot be `sbu`", "mean `sub`?"),
        (node("Reduce", over=["j"]), MALFORMED, '"j"', "cannot be `j`", "p, i, t, v"),
        (node("Reduce", over=[]), MALFORMED, "[]", "a list that is not empty", ""),
        (node("Unary", x=1.5), MALFORMED, "1.5", "a whole number", ""),
        (node("Unary", x=True), MALFORMED, "true", "a whole number", ""),
        (node("Unary", x=-1), MALFORMED, "-1", "0 or more", ""),
        (node("Unary", x=10_000), MALFORMED, "10000", "is not before node", "no cycle"),
        (node("Const", value="1"), MALFORMED, '"1"', "a number", ""),
        (node("LogProb", policy="oldd"), MALFORMED, '"oldd"', "is no policy", "mean `old`?"),
        (node("Param", name="epz"), MALFORMED, '"epz"', "is no parameter", "mean `eps`?"),
        (node("Param", name="x\n"), MALFORMED, '"x\\n"', "letters of ASCII", ""),
        (objective_with(goal=10_000), MALFORMED, "10000", "`goal` is node 10000", "from 0"),
        (objective_with(version=2), MALFORMED, "2", "cannot be `2`", "known are: 1"),
        (lambda ir: ir["sampling"].update(grup=4), MALFORMED, '"grup"', "`grup`", "mean `group`?"),
        (objective_with(name='x"""'), MALFORMED, '"x\\"\\"\\""', "letters of ASCII", ""),
        (objective_with(bindings={"a b": 1}), MALFORMED, '"a b"', "letters of ASCII", ""),
        (objective_with(bindings={"\x1b[31m": 1}), MALFORMED, '"\\u001b[31m"', "ASCII", ""),
        (objective_with(domains={"rewrd": {"lower": 0}}), MALFORMED, '"rewrd"', "no column", "rew"),
        (objective_with(params=[{"name": "eps", "default": "NaN"}, {"name": "beta", "default": 1}]),
         MALFORMED, '"NaN"', "not NaN", ""),
        (objective_with(policies=[{"name": "e", "layer": 3}]), UNWRITABLE, None, "`policies`", ""),
        (objective_with(policies=[{"name": "e", "of": "pi", "layer": "epps"}]), MALFORMED,
         '"epps"', "no parameter of `params`", "mean `eps`?"),
        (objective_with(policies=[{"name": "e", "of": "pi", "layer": 0}]), MALFORMED, "0",
         "the number of a layer", ""),
        (objective_with(policies=[{"name": "e", "of": "pi", "layer": True}]), MALFORMED, "true",
         "the number of a layer", ""),
        (node("LogProb", trained=False), UNWRITABLE, None, "this LogProb", "`trained` True"),
        (node("Param", lower=-1.0), UNWRITABLE, None, "this Param", "`lower` 0.0"),
        (node("Column", mask=True), UNWRITABLE, None, "this Column", "`mask` False"),
        (named(node="Unary", op="neg", x=8), UNWRITABLE, None, "this Unary", "`-0.0001`"),
        (named(node="Shift", x=0, by=2), UNWRITABLE, None, "this Shift", "`by` 1"),
        (named(node="Scan", relation="<", x=0, decay=8), UNWRITABLE, None, "this Scan", "`decay`"),
        (lambda ir: ir["sampling"].update(group=0), "outside-domain", "group 0", "`group 0`", ""),
        (objective_with(bindings={"mean": 3}), "reserved-name", "mean", "`mean` already", ""),
        (lambda ir: ir["params"].append({"name": "keep", "default": 1}), "syntax", "keep",
         "`keep` is a keyword", ""),
        (objective_with(reports={"if": 35}), "syntax", "if", "`if` is a keyword", ""),
        (objective_with(reports={"x": 3}), "not-a-number", "r", "takes one number", ""),
    ],
)  # fmt: skip
def test_a_mistake_is_said_once_where_it_is(
    change: Callable[[JSON], None], name: str, place: str | None, message: str, help: str
) -> None:
    ir = graph()
    change(ir)
    (error,) = errors(ir)
    assert error.span is not None
    assert error.name == name and message in error.message and help in error.help
    assert place is None or error.span.text == place


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{", '{"nodes": ' + "[" * 100_000, '{"goal": ' + "9" * 10_000 + "}",
        '{"a": "' + "\\ud800" + '"}', '{"version": 1, "version": 1}',
    ],
)  # fmt: skip
def test_what_is_no_objective_at_all(text: str) -> None:
    assert {diagnostic.name for diagnostic in errors(text)} == {MALFORMED}


def test_no_more_errors_than_anybody_mends() -> None:
    ir = graph()
    ir["nodes"] += [{"node": "Unry"}] * 5_000
    assert len(errors(ir)) == 100


def test_long_chains_are_read() -> None:
    ir = graph()
    at = 3
    for _ in range(2_000):
        ir["nodes"].append({"node": "Unary", "op": "sigmoid", "x": at})
        at = len(ir["nodes"]) - 1
    ir["bindings"]["deep"] = at
    assert "deep = sigmoid(" in driver.written_out(Source("x.json", json.dumps(ir))).text


def test_numbers_that_json_lacks_are_words() -> None:
    text = "maximize mean[p,i] ((reward + (inf - inf) * reward) * sum[t] log(pi)) - inf\n"
    formula = driver.compile_source(Source("x.obj", text))
    written = driver.ir(formula)
    assert '"NaN"' in written and '"Infinity"' in written
    json.loads(written, parse_constant=pytest.fail)
