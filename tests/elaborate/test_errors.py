"""Wrong names, wrong indices, malformed files: each gets a message that a person can act on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objdsl import driver
from objdsl.errors import ObjectiveError
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.lint.fixes import fixed
from objdsl.render.terminal import render
from objdsl.source import Source
from objdsl.syntax.language import SOFT
from objdsl.syntax.read import read

GOOD = "maximize mean[p,i] (reward * sum[t] log(pi))"
BRANCH = "sample from mu: branch"

BROKEN = {
    "unknown name": "maximize mean[p,i] (rewrd * sum[t] log(pi))",
    "unknown function": "maximize mean[p,i,t] clp(pi / old, 0.8, 1.2)",
    "unknown reduction": "maximize avg[p,i,t] log(pi)",
    "indices in a name": f"A = reward\nB = A_i * 2\n{GOOD}",
    "index in the name of a reduction": "maximize mean[p,i] (reward * sum_t(log(pi)))",
    "capital that is another name": "r = pi / old\nmaximize mean[p,i,t] (r * R)",
    "mean of a product": "A = reward\nmaximize mean[p,i] (mean(A * log(pi)))",
    "option of another library": f"sample from mu: num_generations 8\n{GOOD}",
    "setting of another library": f"A = scale_rewards * reward\n{GOOD}",
    "divergence of other names": "maximize mean[p,i,t] (log(pi) - KL(pi_theta, pi_ref))",
    "unknown index": "maximize mean[p,i,q] log(pi)",
    "reward has no token": "maximize mean[p,i] mean[t] reward",
    "tokens left": "maximize mean[p,i] (reward * log(pi))",
    "not a number": "A = reward - mean[i] reward\nmaximize mean[t] (A * log(pi))",
    "inner index": "maximize mean[p] mean[i] (reward * log(pi))",
    "empty mean": "maximize mean[p,i,t] -log(pi)",
    "no gradient": "maximize mean[p,i,t] (sg(pi / old) * reward)",
    "no policy": "maximize mean[p,i] reward",
    "cycle": f"A = B + 1\nB = A\n{GOOD}",
    "function of itself": f"def f(x) = f(x)\nA = f(1)\n{GOOD}",
    "arguments": "maximize mean[p,i,t] clip(pi / old, 0.8)",
    "function without arguments": "maximize mean[p,i,t] (log * pi)",
    "condition": "maximize mean[p,i,t] (log(pi) if pi else 0)",
    "defined twice": f"A = 1\nA = 2\n{GOOD}",
    "reserved": f"pi = 2\n{GOOD}",
    "default outside": f"param eps = 2 in (0, 1)\n{GOOD}",
    "empty domain": f"param eps = 0.2 in (1, 0)\n{GOOD}",
    "empty domain of a column": f"given score[p,i] in [2, 1]\n{GOOD}",
    "domain without its ends": f"param eps = 1 in (1, 1]\n{GOOD}",
    "no goal": "A = reward",
    "two goals": f"{GOOD}\n{GOOD}",
    "keep tokens": f"keep p where reward > 0\n{GOOD}",
    "keep responses": f"keep i where reward > 0\n{GOOD}",
    "keep by policy": f"keep p where mean[i] mean[t] pi > 0.5\n{GOOD}",
    "sampling option": f"sample from mu: temprature 1\n{GOOD}",
    "branch by a column that is not there": f"given node[p,i,t] before t\n{BRANCH} nod\n{GOOD}",
    "branch without a column": f"{BRANCH}\n{GOOD}",
    "branch by a column that is known late": f"given node[p,i,t]\n{BRANCH} node\n{GOOD}",
    "branch by responses that are known late": f"given tree[p,i]\n{BRANCH} tree\n{GOOD}",
    "branch by a reward": f"given reward in [0, 1]\n{BRANCH} reward\n{GOOD}",
    "flag with a value": f"sample from mu: keep_mask 1\n{GOOD}",
    "option without a number": f"sample from mu: group\n{GOOD}",
    "option that is a name": f"sample from mu: temperature T\n{GOOD}",
    "sampling value": f"sample from mu: group 0\n{GOOD}",
    "sampling policy": f"sample from nu: group 4\n{GOOD}",
    "indexed data": "maximize mean[p,i] (reward[i] * sum[t] log(pi))",
    "policy at a token": "maximize mean[p,i,t] log(pi[t])",
    "given twice the index": f"given x[p,p]\n{GOOD}",
    "leave one out of tokens": "maximize mean[p,i,t] (log(pi) * mean[j != i] log(pi))",
    "t inside a running sum": "maximize mean[p,i,t] (log(pi) * sum[s >= t] t)",
    "key inside": f"given turn[p,i,t]\nA = mean[i by turn] reward\n{GOOD}",
    "key outside": f"given domain[p]\nA = mean[i by domain] reward\n{GOOD}",
    "key with a gradient": "maximize mean[p,i,t] (mean[t by pi > 0.5] log(pi))",
    "key unknown": f"given parent[p,i]\nA = mean[i by parnt] reward\n{GOOD}",
    "keys over the vocabulary": "maximize mean[p,i,t] (sum[v by t] (pi[v] * log(pi[v])))",
    "known with no such index": f"given role[p,i] before t\n{GOOD}",
    "known before a vocabulary entry": f"given role[p,i] before v\n{GOOD}",
    "reward known before": f"given format[p,i] as reward before i\n{GOOD}",
    "built-in known before": f"given reward before t\n{GOOD}",
    "two tokens compared": "maximize mean[p,i,t] (log(pi) * sum[s < t] max(V_old[s], V_old[t]))",
    "tokens of others compared": f"given turn[p,i,t]\nA = max[j != i, t by turn] pi\n{GOOD}",
    "others of prompts": f"A = mean[q != p] reward\n{GOOD}",
    "running maximum": "maximize mean[p,i,t] (reward * max[s <= t] pi)",
    "element without the index": f"given x[p]\nA = mean[j != i] max(x[j], reward)\n{GOOD}",
    "unknown element": f"A = mean[j != i] max(reward[k], reward)\n{GOOD}",
    "length": "maximize mean[p,i] (y * sum[t] log(pi))",
    "several": "A = rewrd\nB = mean[t] reward\nmaximize mean[p,i] (A * B * pi)",
    "unknown base": f"objective mine from grop\n{GOOD}",
    "domain of an unknown column": f"given rewards in {{0, 1}}\n{GOOD}",
    "given as another kind": f"given score[p,i] as rewrd\n{GOOD}",
    "reward of a prompt": f"given level[p] as reward\n{GOOD}",
    "reward of a vocabulary entry": f"given score[p,i,t,v] as reward\n{GOOD}",
    "mask as a reward": f"given truncated as reward\n{GOOD}",
    "reward without its indices": f"given correct as reward\n{GOOD}",
    "reward bound to a sum": f"given a[p,i]\nreward = a + 1\n{GOOD}",
    "value as a function": f"A = reward(2)\n{GOOD}",
    "functions of each other": f"def f(x) = g(x)\ndef g(x) = f(x)\nA = f(1)\n{GOOD}",
    "base of itself": f"objective mine from mine\n{GOOD}",
    "prelude as a base": f"objective mine from std\n{GOOD}",
    "argument twice": f"def f(x, x) = x\n{GOOD}",
    "distribution of an argument": f"def f(p) = sum[v] p[v]\nA = sum[p,i,t] f(pi / old)\n{GOOD}",
    "reported twice": f"report x = sum[p,i] reward\nreport x = mean[p,i] reward\n{GOOD}",
    "sampled twice": f"sample from mu: group 8\nsample from mu: top_p 1\n{GOOD}",
    "kept twice": f"keep p where std[i] reward > 0\nkeep p where mean[i] reward < 1\n{GOOD}",
    "option twice": f"sample from mu: group 8, group 4\n{GOOD}",
    "fraction": f"M = top[p,i,t](old, 20)\n{GOOD}",
    "index that runs to itself": f"A = reward - mean[i != i] reward\n{GOOD}",
    "index that runs, named as a value": f"s = pi / old\nA = sum[s >= t] old\n{GOOD}",
    "index that runs, behind": f"A = sum[t <= s] old\n{GOOD}",
    "running product of what may be negative": f"A = prod[s <= t] (old - ref)\n{GOOD}",
    "condition with an inner index": f"A = mean[i | old > 0.5] reward\n{GOOD}",
    "policy without gradient": "maximize mean[p,i,t] (V * reward)",
    "power of a reduction": f"A = reward - mean[i] reward^2\n{GOOD}",
    "power behind brackets": f"{GOOD}\nminimize critic mean[p,i,t] (V - reward)^2",
    "power of nested reductions": f"A = -mean[p] mean[i] reward^2\n{GOOD}",
    "power and product": "maximize mean[p,i] (sum[t] old^2 * log(pi))",
    "product behind a reduction": "maximize mean[p,i] reward * sum[t] log(pi)",
    "quotient behind a reduction": f"A = reward / 2 * mean[i] reward / |y| + 1\n{GOOD}",
    "product behind a divisor": "maximize mean[p,i] (reward / std[i] reward * sum[t] log(pi))",
    "product behind a maximum": f"A = max[i] reward * 2\n{GOOD}",
    "product behind a running sum": "maximize mean[p,i,t] (sum[s > t] old * 0.9^(s - t) * log(pi))",
    "product behind the others": "maximize mean[p,i,t] (mean[j != i] reward * reward * log(pi))",
    "product in a condition": f"keep p where mean[i] reward * reward > 0\n{GOOD}",
    "product in a function": (
        "def f(x, w) = sum[t] x * w\nmaximize mean[p,i] (f(log(pi), reward) + f(log(pi), old))"
    ),
    "power in a function that is not called": f"def f(x) = mean[t] x^2\n{GOOD}",
    "product and unknown names": "maximize mean[p,i] (sum[t] lgo(pi) * old * rewrad)",
    "several names in a statement": "maximize mean[p,i] (rewrad * sum[t] clp(pi / odl, lo, 1.2))",
    "id of a token": "maximize mean[p,i,t] (token * log(pi))",
    "order of ids": "maximize mean[p,i,t] ((token > 5) * log(pi))",
    "two ids": "maximize mean[p,i,t] ((token == next(token)) * log(pi))",
    "part of an id": "maximize mean[p,i,t] ((token == 5.5) * log(pi))",
    "id of data": "maximize mean[p,i,t] ((token == reward) * log(pi))",
    "count of nothing": f"A = count * reward\n{GOOD}",
    "count of a number": f"report n = count[p,i] |y|\n{GOOD}",
    "count of others": f"report n = mean[p,i] count[j != i]\n{GOOD}",
    "count of tokens left": f"report n = count[p,i] (pi > 0.5)\n{GOOD}",
    "count of vocabulary entries": f"report n = mean[p,i,t] count[v]\n{GOOD}",
    "count of two": f"report n = count[p,i](truncated, reward)\n{GOOD}",
    "choices of the policy": "A = comb(sum[t] pi, 2)\nmaximize mean[p,i] (A * sum[t] log(pi))",
    "choose": f"A = choose(count[i], 2)\n{GOOD}",
    "live discount": "maximize mean[p,i] sum[t] (togo(reward, pi) * log(pi))",
    "median of the others": f"A = median[j != i] reward\n{GOOD}",
    "rank of the others": f"given kind[p,i]\nA = rank[j != i by kind] reward\n{GOOD}",
    "subset of the others": f"A = 1 if top[j != i](reward, 0.5) else 0\n{GOOD}",
    "running order": f"A = median[s <= t] V_old\n{GOOD}",
    "order of tokens by a key": f"given turn[p,i,t]\nA = rank[t by turn] V_old\n{GOOD}",
    "order of tokens by a key of responses": (
        f"given kind[p,i]\nA = 1 if top[i by kind](V_old, 0.5) else 0\n{GOOD}"
    ),
    "nucleus by a key": f"given kind[p,i]\nA = 1 if nucleus[i by kind](reward, 0.5) else 0\n{GOOD}",
    "others counted": f"A = count[j != i] (reward > 0)\n{GOOD}",
    "median": "maximize mean[p,i] ((reward - mode[i] reward) * sum[t] log(pi))",
    "softmax": f"A = softmax[i] reward\n{GOOD}",
    "cumulative sum": f"A = cumsum[t] old\n{GOOD}",
    "index before an unknown name": f"A = softmax[v]\n{GOOD}",
    "expectation of a reward": f"A = reward - E[reward]\n{GOOD}",
    "expectation of tokens": "maximize E(pi / old)",
    "expectation over indices": "maximize E[p,i,t] log(pi)",
    "divergence as a function": f"A = KL(pi, ref)\n{GOOD}",
    "divergence with a bar": f"A = KL[pi | ref]\n{GOOD}",
    "gradient is stopped": f"A = no_grad(old)\n{GOOD}",
    "log-probability": "maximize mean[p,i] (reward * sum[t] logp)",
    "log-probabilities": "maximize mean[p,i,t] (exp(logprobs - old_logp) * advantages)",
    "parts of code": "maximize mean[p,i,t] (clamp(ratio, 1 - epsilon_low, 2) - kl_coef * pi_ref)",
    "mean without an index": f"A = reward - mean(reward)\n{GOOD}",
    "maximum without an index": f"A = max(old)\n{GOOD}",
    "critic defined": "V = reward - mean[i] reward\nmaximize mean[p,i] (V * sum[t] log(pi))",
    "another Greek letter": f"A = nu * old\n{GOOD}",
    "learned number of a prompt": f"learn tau[p] = 1\n{GOOD}",
    "learned choice": f"learn tau = 1 in {{0, 1}}\n{GOOD}",
    "learned number outside": f"learn tau = 2 in (0, 1)\n{GOOD}",
    "learned temperature": f"learn temperature = 1\n{GOOD}",
    "learned number behind sg": f"learn tau = 1\n{GOOD} + sg(tau)",
    "learned number in a report": f"learn tau = 1\nreport x = tau\n{GOOD}",
    "learned discount": f"learn g = 0.9\nx = togo(reward, g)\n{GOOD} + g",
    "learned number in keep": f"learn g = 1\nkeep p where mean[i] reward > g\n{GOOD} + g",
    "learned number in a state": f"learn g = 1\nstate x = 0 next g\n{GOOD} + g",
    "nothing is learned": f"{GOOD}\nminimize learn mean[p,i] reward",
    "state of a response": f"state x[p,i] = 0 next reward\n{GOOD}",
    "state of a prompt as one number": f"state x = 0 next mean[i] reward\n{GOOD}",
    "state that varies with tokens": f"state x[p] = 0 next log(old)\n{GOOD}",
    "state that starts from responses": f"state x[p] = (mean[i] reward) next x\n{GOOD}",
    "state that starts from a state": f"state x = 0 next x\nstate y = x next y\n{GOOD}",
    "state that reads the policy": f"kl = mean[p,i,t] k3(pi, ref)\nstate x = 0 next kl\n{GOOD}",
    "state that reads the critic": f"state x = 0 next mean[p,i,t] V\n{GOOD}",
    "state by chance": f"state x = 0 next sum[p,i,t] pick[p,i,t](old > 0.5, 0.1)\n{GOOD}",
    "state called as data": f"state log_old = 0 next 1\n{GOOD}",
    "state twice": f"state x = 0 next 1\nparam x = 2\n{GOOD}",
    "state of an unknown name": f"state x = 0 next xx + rewrad\n{GOOD}",
    "step with an index": f"A = step[p]\n{GOOD}",
    "almost a step": f"A = stpe + 1\n{GOOD}",
    "layer of no parameter": (
        f"param layer = 6\npolicy inner = pi at layer layr\nreport x = mean[p,i,t] inner\n{GOOD}"
    ),
    "layer that is no number": (
        f"param n = 2.5\npolicy inner = pi at layer n\nreport x = mean[p,i,t] inner\n{GOOD}"
    ),
    "layer 0": f"policy inner = pi at layer 0 without norm\nreport x = mean[p,i,t] inner\n{GOOD}",
    "critic without gradient": f"{GOOD}\nminimize critic mean[p,i,t] (log(pi)^2)",
}


# Those that hold more than one.
MISTAKES = {"several": 2, "product and unknown names": 3, "several names in a statement": 4,
    "log-probabilities": 3, "parts of code": 5, "state of an unknown name": 2,
    "divergence of other names": 2,
}  # fmt: skip


def messages(text: str) -> str:
    with pytest.raises(ObjectiveError) as error:
        driver.compile_source(Source("file.obj", text + "\n"))
    assert all(d.span is not None for d in error.value.diagnostics)
    return "\n".join(render(d) for d in error.value.diagnostics)


def test_messages(golden: Callable[[str, str], None]) -> None:
    """Every broken text above, and its messages."""
    shown = [f"# {title}\n\n{text}\n\n{messages(text)}" for title, text in BROKEN.items()]
    golden("elaborate/errors.txt", "\n\n".join(shown) + "\n")


def test_every_choice_ends_the_doubt() -> None:
    """Each suggested reading is a text, and not ambiguous at that place."""
    several = 0
    for text in BROKEN.values():
        checked = driver.check(Source("file.obj", f"objective x\n{text}\n"))
        for error in checked.findings:
            several += len(error.choices) > 1
            for choice in error.choices:
                source, count = fixed(checked.source, [replace(error, fix=choice)], unsafe=True)
                after = driver.check(source).findings
                assert count == 1
                assert error.message not in [x.message for x in after if x.code == error.code]
    assert several > 15


@pytest.mark.parametrize("title", BROKEN)
def test_one_error_for_one_mistake(title: str) -> None:
    with pytest.raises(ObjectiveError) as error:
        driver.compile_source(Source("file.obj", BROKEN[title] + "\n"))
    assert len(error.value.diagnostics) == MISTAKES.get(title, 1)


def test_a_chain_of_bases_may_not_close(tmp_path: Path) -> None:
    (tmp_path / "a.obj").write_text(f"objective a from b\n{GOOD}\n")
    (tmp_path / "b.obj").write_text("objective b from a\n")
    with pytest.raises(ObjectiveError) as error:
        driver.compile_source(read(tmp_path / "a.obj"))
    assert error.value.diagnostics[0].name == "cyclic-base"


def test_a_base_is_changed_by_name() -> None:
    text = "objective mine from grpo\nparam eps = 0.1 in (0, 1)\nA = reward - mean[i] reward\n"
    mine = driver.compile_source(Source("mine.obj", text))
    plain = driver.compile_source(Source("g.obj", "objective g from grpo\n"))
    assert mine.digest != plain.digest
    assert {param.name: param.default for param in mine.params}["eps"] == 0.1
    assert plain.digest == driver.compile_source(Source("h.obj", "objective h from grpo\n")).digest


_LEAVES = {"0": 0, "1": 0, "|y|": 2, "reward": 2, "truncated": 2, "pi": 3, "old": 3, "t": 3}


@st.composite
def _typed(draw: st.DrawFn, depth: int = 4) -> tuple[str, int]:
    """An expression in brackets, and how many of the indices `p, i, t` it has."""
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(sorted(_LEAVES.items())))
    (a, m), (b, n), (c, k) = (draw(_typed(depth - 1)) for _ in range(3))
    form = draw(st.sampled_from(["{} + {}", "{} - {}", "{} * {}", "{} / {}", "{} ^ {}", "{} > {}"]))
    if draw(st.booleans()):
        return f"({a} if {c} > 0 else {b})", max(m, n, k)
    b, n = draw(st.sampled_from([(b, n), (a, m)]))  # what is equal, or 0, is made simpler
    return f"({form.format(a, b)})", max(m, n)


@given(_typed())
def test_a_value_has_the_indices_that_are_written(typed: tuple[str, int]) -> None:
    """However simple it becomes: `pi - pi` is 0 for each token."""
    text, many = typed
    over = "pit"[:many]
    if over:
        text = f"sum[{','.join(over)}] {text if text[0] == '(' else f'({text})'}"
    source = Source("file.obj", f"report x = {text}\n{GOOD}\n")
    report = driver.compile_source(source).reports[0]
    assert report.value.indices == ()


_NUMBERS = st.recursive(
    st.sampled_from(["0", "1", "0.5", "2", "1e-300", "1e308", "inf"]),
    lambda x: st.one_of(
        st.builds("({} {} {})".format, x, st.sampled_from("+-*/^"), x),
        st.builds("{}({})".format, st.sampled_from(["-", "exp", "log", "sqrt", "sigmoid"]), x),
    ),
    max_leaves=6,
)


@given(_NUMBERS)
def test_whatever_numbers_make_is_a_number(text: str) -> None:
    """Too large is infinite, undefined is NaN, as in the evaluators: no text raises an
    exception."""
    source = Source("file.obj", f"report x = {text}\n{GOOD}\n")
    assert driver.torch_source(driver.compile_source(source))


def test_doubling_functions_end_quickly() -> None:
    lines = ["def f0(x) = x + x"]
    lines += [f"def f{k}(x) = f{k - 1}(f{k - 1}(x))" for k in range(1, 30)]
    text = "\n".join(lines) + "\nmaximize mean[p,i,t] f29(log(pi))\n"
    assert "too large" in messages(text)


@pytest.mark.parametrize("many", [300, 5_000])
def test_a_long_chain_of_names_ends_quickly(many: int) -> None:
    chain = [f"x{k} = x{k + 1} + 1" for k in range(many)]
    text = "\n".join([*chain, f"x{many} = reward", "maximize mean[p,i] (x0 * sum[t] log(pi))"])
    try:
        formula = driver.compile_source(Source("file.obj", text + "\n"))
    except ObjectiveError as error:
        assert error.diagnostics[0].name == "nested-too-deeply"
    else:
        assert driver.torch_source(formula)


@pytest.mark.parametrize(
    "text",
    [
        "sum[t] log(pi) / 4096",
        "mean[t] log(pi) * reward",
        "-sum[t] log(pi) * reward / |y|",
        "reward * sum[t] log(pi)",
        "reward * mean[t] log(pi) * 2 / |y|",
        "reward / (1 + mean[i] reward)",
        "reward / mean[i] |y|",
        "(mean[i] reward)^2",
        "mean[i] (reward^2)",
        "2 * sum[i] (mean[t] log(pi) * reward)",
        "sum[s <= t] log(pi) * reward",
        "sum[j != i] reward * mean[i] |y|",
        "mean[i] sum[t] log(pi) * mean[i] reward",
        "sum[t] log(pi) + reward^2",
        "sum[t | old * reward > 0] log(pi)",
        "top[p,i](reward, 0.2) * reward",
    ],
)
def test_what_reads_one_way_is_taken(text: str) -> None:
    """However brackets are added, the value is the same."""
    driver.compile_source(Source("x.obj", f"A = {text}\n{GOOD}\n"))


def test_a_sum_of_ones_counts() -> None:
    batch = Batch([0, 0, 0, 1, 1], [1, 2, 3, 1, 2], {}, 3)
    counts = {"sum[p] 1": 2, "sum[p,i] 1": 5, "sum[p] sum[i] 1": 5, "mean[p] (sum[i] 1)": 2.5,
              "sum[p,i] sum[t] 1": 9, "sum[p,i,t] 1": 9, "count[p]": 2, "count[p,i,t]": 9,
              "mean[p] count[i]": 2.5, "sum[p,i] count[t | t > 1]": 4, "count[p,i] (|y| > 1)": 3,
              "count[p,i | |y| < 3] (|y| > 1)": 2}  # fmt: skip
    lines = [f"report n{k} = {text}" for k, text in enumerate(counts)]
    formula = driver.compile_source(Source("x.obj", "\n".join([*lines, GOOD, ""])))
    assert evaluate([report.value for report in formula.reports], batch, {}) == [*counts.values()]


def test_a_sum_of_ones_and_a_count_are_the_same_formula() -> None:
    for ones, counted in (
        ("sum[i] 1", "count[i]"),
        ("|y|", "count[t]"),
        ("sum[p,i,t | pi > 0.5] 1", "count[p,i,t] (pi > 0.5)"),
        ("sum[p,i | reward > 0 and truncated] 1", "count[p,i | truncated] (reward > 0)"),
    ):
        goals = [
            driver.compile_source(Source("x.obj", f"A = {text}\n{GOOD[:-1]} * A)\n")).goal
            for text in (ones, counted)
        ]
        assert goals[0] == goals[1]


@pytest.mark.parametrize(
    "definition",
    [
        "given {}[p,i]\nA = {} + reward",
        "param {} = 2\nA = {} * reward",
        "{} = reward\nA = {} - 1",
        "def {}(x, y) = x * y\nA = {}(reward, 2)",
        "def f({}) = {} + 1\nA = f(reward)",
        "policy {}\nA = sg(mean[t] log(pi / {}))",
    ],
)
@pytest.mark.parametrize("word", sorted(SOFT))
def test_a_word_that_a_file_defines_is_the_files(word: str, definition: str) -> None:
    text = f"{definition.replace('{}', word)}\nmaximize mean[p,i] (A * sum[t] log(pi))\n"
    plain = f"{definition.replace('{}', 'mine')}\nmaximize mean[p,i] (A * sum[t] log(pi))\n"
    two = [driver.compile_source(Source("x.obj", x)).goal for x in (text, plain)]
    assert str(two[0]).replace(word, "mine") == str(two[1])


@pytest.mark.parametrize(
    ("function", "differs"),
    [
        ("def f(x) = mean[i] x^2", True),
        ("def f(x) = max[i] x * difficulty", True),
        ("def f(x) = sum[t] x * log(pi)", True),
        ("def f(x, y) = mean[i] x * (y * reward)", True),
        ("def f(x, y) = mean[i] x / g(y)", True),
        ("def f(x, y) = sum[t] x * y", False),
        ("def f(x, y) = 2 * mean[i] x * mean[i] (y + reward)", False),
        ("def f(x) = mean[i] x / difficulty", False),
        ("def f(x, y) = mean[i] x * (y * nothing)", False),
        ("def f(x) = f(x) * sum[t] x / f(x)", False),
    ],
)
def test_a_function_that_nothing_calls_is_read_as_well(function: str, differs: bool) -> None:
    text = f"given difficulty[p]\ndef g(x) = x + reward\n{function}\n"
    expected = ["two-readings"] if differs else []
    library = driver.check(Source("x.obj", text))
    objective = driver.check(Source("x.obj", text + GOOD))
    assert [finding.name for finding in library.findings] == expected
    assert (objective.objective is None) == differs
    if differs:
        assert render(objective.findings[0]) == render(library.findings[0])


def test_what_is_read_of_a_function_leaves_no_trace() -> None:
    calls = "def f(x) = mean[i] x / g(reward)\ndef g(x) = mean[i] x\n"
    plain, other = (driver.compile_source(Source("x.obj", x + GOOD)) for x in ("", calls))
    assert other.calls == plain.calls and other.bindings == plain.bindings
