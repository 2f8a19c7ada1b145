"""Objectives of the gallery and random ones, with names that clash with others: numbers, reports,
findings, JSON and LaTeX are those of the plain names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from itertools import chain
from typing import Any, get_type_hints

import pytest
import torch

import objdsl
from helpers import random_objectives
from helpers.declared_domains import nearest
from helpers.hostile_names import renamed
from helpers.samples import thinned
from objdsl import driver
from objdsl.ir.columns import LogProbs
from objdsl.ir.latex import symbol
from objdsl.ir.nodes import NODES, Expr
from objdsl.objectives import gallery
from objdsl.source import Source
from objdsl.syntax import tree
from objdsl.syntax.parse import parse


def stripped(text: str) -> str:
    return re.sub(r"#.*", "", text)


def held_equal(text: str, seed: int, case: Any, packed: bool = False) -> None:
    other, new, columns = renamed(text, seed)
    old = {name: plain for plain, name in new.items()}
    plain, hostile = objdsl.loads(text), objdsl.loads(other)
    compare_numbers(plain, hostile, new, case, packed)
    compare_json(plain, hostile, old)
    for weights in (
        False,
        True,
    ):  # where lines and common parts begin depends on how long names are
        assert driver.mathematics(hostile.formula, weights=weights)
        shown = driver.mathematics(hostile.formula, weights=weights, latex=True)
        assert shown.count("{") == shown.count("}")
    if not columns:  # a column may be known by its name
        reports = [driver.check(Source("x.obj", form)).findings for form in (text, other)]
        rules = [[finding.code for finding in findings] for findings in reports]
        assert rules[0] == rules[1]


def compare_numbers(
    plain: objdsl.Objective,
    hostile: objdsl.Objective,
    new: Mapping[str, str],
    case: Any,
    packed: bool,
) -> None:
    outcomes = []
    for objective, names in ((plain, {}), (hostile, new)):
        columns = {names.get(name, name): x for name, x in case.columns.items()}
        for policy in (policy.name for policy in plain.formula.policies):
            column = LogProbs(names.get(policy, policy)).name
            columns[column] = case.columns["log_ref"]
            columns[f"{column}_dist"] = case.columns["log_ref_dist"]
        missing = objective.columns.keys() - columns.keys()
        assert not missing, missing
        wanted = {name: columns[name] for name in objective.columns}
        if packed:
            tokens = {n: x for n, x in wanted.items() if len(objective.columns[n].indices) > 2}
            wanted |= {name: x[case.mask] for name, x in tokens.items()}
        shape = {"lengths": case.mask.sum(-1)} if packed else {"mask": case.mask}
        live = {name: wanted.pop(name) for name in objective.live}
        step = objective.prepare(prompt=case.prompt, **shape, **wanted)
        value, weights, reports = objective.weights(step=step, **live)
        outcomes.append((value, [*weights.values()], reports))
    (value, weights, reports), (value_2, weights_2, reports_2) = outcomes
    reports = {new.get(name, name): x for name, x in reports.items()}
    torch.testing.assert_close(value, value_2, rtol=1e-12, atol=1e-14, equal_nan=True)
    for w, w_2 in zip(weights, weights_2, strict=True):
        torch.testing.assert_close(w, w_2, rtol=1e-12, atol=1e-14, equal_nan=True)
    torch.testing.assert_close(reports, reports_2, rtol=1e-12, atol=1e-14, equal_nan=True)


def meanings(graph: Mapping[str, Any]) -> list[str]:
    """What stands for each formula, whatever the order of nodes, and of factors, which goes by
    their names where a divisor is a product."""
    kinds = {kind.__name__: get_type_hints(kind) for kind in NODES}
    done: list[str] = []
    products: list[list[str]] = []
    for node in graph["nodes"]:
        hints = kinds[node["node"]]
        is_product = node["node"] == "Binary" and node["op"] == "mul"
        operands = {
            name: place
            for name, place in node.items()
            if hints.get(name) in (Expr, Expr | None) and place is not None
        }
        if is_product:
            factors = sorted(factor for place in operands.values() for factor in products[place])
            meaning = "product of " + " ".join(factors)
        else:
            meaning = json.dumps({**node, **{name: done[k] for name, k in operands.items()}})
        done.append(sha256(meaning.encode()).hexdigest())
        products.append(factors if is_product else [done[-1]])
    several = (graph.get(key, {}).values() for key in ("reports", "bindings", "weights"))
    roots = [graph["goal"], *chain.from_iterable(several)]
    roots += [graph[key] for key in ("critic", "keep") if graph.get(key) is not None]
    return sorted(done[place] for place in roots)


def compare_json(
    plain: objdsl.Objective, hostile: objdsl.Objective, old: Mapping[str, str]
) -> None:
    graphs = [json.loads(driver.ir(x.formula)) for x in (plain, hostile)]
    for node in graphs[1]["nodes"]:
        for key in ("name", "policy"):
            if key in node:
                node[key] = old.get(node[key], node[key])
    plainly, hostilely = map(meanings, graphs)
    assert plainly == hostilely


def stands_alone(name: str) -> bool:
    """Whether a file starts from no other: names of the other file mean something in both."""
    statements = parse(gallery.find(name)).statements
    return not any(isinstance(x, tree.Header) and x.base for x in statements)


OWN = [name for name in gallery.names() if stands_alone(name)]


@pytest.mark.parametrize("name", OWN)
def test_the_gallery_under_hostile_names(name: str) -> None:
    text = stripped(gallery.find(name).text)
    seed = OWN.index(name)
    case = random_objectives.data(seed)
    spare = {0: "pace", 1: "difficulty", 2: "margin", 3: "noise_column", 4: "log_ref_dist"}
    for column, facts in objdsl.loads(text).columns.items():
        if column not in case.columns:
            case.columns[column] = case.columns[spare[len(facts.indices)]]
    for column, domain in objdsl.loads(text).formula.domains.items():
        case.columns[column] = torch.from_numpy(nearest(domain, case.columns[column]))
    held_equal(text, seed, case, packed=bool(seed % 2))


@pytest.mark.parametrize("first", thinned(range(0, 40, 10), 2))
def test_random_objectives_under_hostile_names(first: int) -> None:
    for seed in range(first, first + 10):
        held_equal(random_objectives.text(seed), seed, random_objectives.data(seed))


@pytest.mark.parametrize(
    "name", ["hard_it", "x_i", "r_ext_t", "i_i", "_x", "lambda", "x_", "eps_it"]
)
def test_latex_is_the_same_but_for_the_symbol(name: str) -> None:
    """A plain name whose symbol is one upright word becomes the symbol of the other name."""
    text = (
        "given NAME[p,i]\nparam c = 1\n"
        "A = NAME * (reward - mean[j != i] (NAME * reward)) / (std[i] (NAME + c) + 1)\n"
        "maximize mean[p,i] (A * sum[t] log(pi)) - mean[p,i] ((NAME / |y|) * sum[t] log(pi))\n"
    )
    plain, other = (
        driver.mathematics(objdsl.loads(text.replace("NAME", x)).formula, latex=True)
        for x in ("plainly", name)
    )
    expected = re.sub(
        r"\\mathrm\{plainly\}_\{(\w)\}",
        lambda m: (
            f"{symbol(name)[:-1]},{m[1]}}}"
            if symbol(name).endswith("}}")
            else f"{symbol(name)}_{{{m[1]}}}"
        ),
        plain,
    )
    assert other == expected
    assert other.count("_{j}") + other.count(",j}") >= 2
