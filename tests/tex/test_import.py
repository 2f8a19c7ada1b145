"""From LaTeX to objectives: formulas of papers, formulas that objdsl prints, and formulas that are
refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from objdsl import driver
from objdsl.cli.app import main
from objdsl.errors import ObjectiveError
from objdsl.ir.objective import Objective
from objdsl.ir.unparse import declarations
from objdsl.objectives import gallery
from objdsl.render.terminal import render
from objdsl.source import Source
from objdsl.syntax.parse import parse
from objdsl.tex import imported

PAPERS = sorted((Path(__file__).parent / "papers").glob("*.tex"))


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_what_papers_print(path: Path, golden: Callable[[str, str], None]) -> None:
    text = imported(Source(path.name, path.read_text(encoding="utf-8")), path.stem)
    formula = driver.compile_source(Source(f"{path.stem}.obj", text))
    assert formula.goal.live
    golden(f"tex/{path.stem}.obj", text)


def read_back(formula: Objective) -> Objective:
    """What `objdsl import tex` makes of an objective's LaTeX, with its declarations in comments."""
    comments = "".join(f"% objdsl: {line}\n" for line in declarations(formula))
    printed = comments + driver.mathematics(formula, latex=True)
    return driver.compile_source(Source("x.obj", imported(Source("x.tex", printed), "x")))


@pytest.mark.parametrize("name", gallery.names())
def test_what_the_writer_prints_is_read_as_it_was(name: str) -> None:
    formula = driver.compile_source(gallery.find(name))
    again = read_back(formula)
    assert again.goal == formula.goal
    for part in ("states", "keep", "reports", "critic", "policies", "sampling"):
        assert getattr(again, part) == getattr(formula, part)


DECLARED = """\
given parent[p,i] before i
given domain[p]
given turn[p,i,t] before t
given m[p,i]
"""


@pytest.mark.parametrize(
    "value",
    [
        "mean[i by parent] reward",
        "max[i by parent, m | m > 0] (2 * reward)",
        "mean[p,i by domain] reward",
        "mean[j != i by parent] reward",
        "std[j != i by parent | m > 0] reward",
        "prod[j != i] (1 - reward)",
        "median[i | m > 0] reward",
        "quantile[p,i](reward, 0.3) + rank[i] m",
        "1 if topk[i](reward, 2) else 0",
        "mean[i by m > 0] reward",
        "sum[t by turn] V_old",
        "mean[i,t by turn, parent] V_old",
        "mean[j != i, t by turn | turn > 1] V_old",
        "mean[i by t] V_old",
        "mean[t | first(turn)] V_old",
        "sum[s < t by turn] V_old",
        "count[t by floor(t / 2)]",
        "1 if trim[p,i,t | V_old > 0](V_old, 0.1) else 0",
        "(mean[i,t | turn > 1] (V_old - m)) * turn",
        "abs(V_old) * abs(turn) + count[p,i,t]",
        "1 - step / steps",
    ],
)
def test_what_groups_and_orders_print_is_read_as_it_was(value: str) -> None:
    text = f"{DECLARED}x = {value}\nmaximize mean[p,i,t] (x * log(pi))\n"
    formula = driver.compile_source(Source("x.obj", text))
    assert read_back(formula).goal == formula.goal


def test_learned_numbers_and_their_goal_are_read_as_they_were() -> None:
    text = """\
learn beta = 0.1 in [0, inf)
kl = mean[p,i,t] k3(pi, ref)
maximize mean[p,i] (reward * sum[t] log(pi)) - sg(beta) * kl
minimize learn beta * (0.1 - sg(kl))
"""
    formula = driver.compile_source(Source("x.obj", text))
    again = read_back(formula)
    assert (again.goal, again.dual) == (formula.goal, formula.dual)
    assert again.learned == formula.learned


def test_a_definition_that_is_an_equation_is_read_as_it_was() -> None:
    text = "best = reward == max[i] reward\nmaximize mean[p,i] (best * sum[t] log(pi))\n"
    formula = driver.compile_source(Source("x.obj", text))
    assert r"\mathbb{1}\left[ R_i = " in driver.mathematics(formula, latex=True)
    assert read_back(formula).goal == formula.goal


GROUP = r"\mathbb{E}_x \frac{1}{G} \sum_{i=1}^{G} "
SPELLINGS = {
    r"\mathbb{E}_{x}\left[\frac{1}{G}\sum_{i=1}^{G} R_i \log \pi_\theta(y_i \mid x)\right]":
        "mean[p] mean[i] (reward * sum[t] log(pi))",
    r"\mathbb{E}_{x \sim D, y \sim \pi_\theta}\!\left[ R(x,y) \log \pi_\theta(y|x) \right]":
        "mean[p,i] (reward * sum[t] log(pi))",
    r"\frac{1}{N} \sum_{x} \sum_{i=1}^{G} R_i \sum_{t=1}^{|y_i|} \log \pi_\theta(y_{i,t}|y_{i,<t})":
        "mean[p,i] (reward * sum[t] log(pi))",
    GROUP + r"\sum_t R_i \pi_{it}": None,
    r"\mathbb{E}_x \frac{1}{G |o_i|}": None,
    GROUP + r"\left(\frac{\pi_\theta(o_i|q)}{\pi_{\theta_{old}}(o_i|q)}\right)^{1/|o_i|} R_i":
        "mean[p] mean[i] ((prod[t] (pi / old))^(1 / |y|) * reward)",
    GROUP + r"\max_{t} \log \frac{\pi_\theta(o_{i,t}|q)}{\mu(o_{i,t}|q)}":
        "mean[p] mean[i] max[t] log(pi / mu)",
    r"\mathbb{E}_x \frac1K \sum_{i=1}^{K} (R_i - \frac1{K-1}\sum_{j \ne i} R_j) \log\pi(y_i|x)":
        "mean[p] mean[i] ((reward - mean[j != i] reward) * sum[t] log(pi))",
    GROUP + r"\sum_t (\sum_{s \ge t} \gamma^{s-t} R_{i,s}) \log \pi_\theta(y_{i,t}|x)":
        "mean[p] mean[i] sum[t] (togo((t == |y|) * reward, gamma) * log(pi))",
    GROUP + r"\sum_t (\sum_{t'=t}^{|y_i|} c_{i,t'}) \log \pi_\theta(y_{i,t}|x)":
        "mean[p] mean[i] sum[t] ((sum[s >= t] c) * log(pi))",
    r"\max_\theta " + GROUP + r"\mathbb{1}[R_i > 0] \log \pi_\theta(y_i|x)":
        "mean[p] mean[i] ((reward > 0) * sum[t] log(pi))",
    GROUP + r"\binom{4}{2} \log\pi_\theta(y_i|x)":
        "mean[p] mean[i] (comb(4, 2) * sum[t] log(pi))",
    GROUP + r"2 \times 10^{-3} R_i \log\pi_\theta(y_i|x)":
        "mean[p] mean[i] (2e-3 * reward * sum[t] log(pi))",
    GROUP + r"\sum_t \log \pi_\theta(y_{i,t}|x) \cdot \mathrm{stop\_gradient}(\hat{A}_i)":
        "mean[p] mean[i] sum[t] (log(pi) * sg(A))",
    GROUP + r"\left| R_i \right| \log \pi_\theta(y_i | x)":
        "mean[p] mean[i] (abs(reward) * sum[t] log(pi))",
    GROUP + r"A_i (B_i \quad \log\pi_\theta(y_i|x)) \quad A_i = 2 R_i \qquad B_i = R_i":
        "mean[p] mean[i] (2 * reward * (reward * sum[t] log(pi)))",
}  # fmt: skip


@pytest.mark.parametrize(("latex", "expected"), SPELLINGS.items())
def test_formulas(latex: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(ObjectiveError):
            driver.compile_source(Source("x.obj", imported(Source("x.tex", latex), "x")))
        return
    text = imported(Source("x.tex", latex), "x")
    head = re.search(r"^(?:maximize|minimize)", text, re.MULTILINE)
    assert head is not None
    wanted = f"{text[: head.start()]}maximize {expected}\n"
    goals = [driver.compile_source(Source("x.obj", x)).goal for x in (text, wanted)]
    assert goals[0] == goals[1], text


UNREADABLE = {
    "state": r"J = \mathbb{E}_x \beta R_i \log \pi(y_i|x), \quad \beta \leftarrow 2 \beta",
    "macro": r"\E_x \foo{R_i}",
    "two responses": r"\sum_{i=1}^G \frac{1}{G} \sum_{j=1}^G \max(R_i, R_j) \log \pi(y_i|x)",
    "dots": r"\frac{1}{G} (R_1 + \cdots + R_G)",
    "bracket": r"\frac{1}{G} \sum_{i=1}^G \left( R_i",
    "no index": r"\sum R_i",
    "nothing summed": r"\frac{1}{G} \sum_{i=1}^G",
    "cycle": r"J = \mathbb{E}_x A_i, \quad A_i = B_i, \quad B_i = A_i",
    "empty": "% nothing\n",
    "divergence of one": r"D_{KL}(\pi_\theta)",
    "approximation": r"J = \mathbb{E}_x [R_i \approx 1]",
    "environment": r"\begin{tikzpicture*2}",
}  # fmt: skip


def test_what_cannot_be_read_is_said_at_its_place(golden: Callable[[str, str], None]) -> None:
    shown = []
    for name, text in UNREADABLE.items():
        with pytest.raises(ObjectiveError) as caught:
            imported(Source("paper.tex", text))
        report = "\n".join(render(x, color=False, width=100) for x in caught.value.diagnostics)
        shown.append(f"# {name}\n\n{text}\n\n{report}")
    golden("tex/errors.txt", "\n\n".join(shown) + "\n")


@pytest.mark.parametrize("seed", range(12))
def test_damaged_text_ends_with_a_message_or_an_objective(seed: int) -> None:
    random = Random(seed)
    text = PAPERS[seed % len(PAPERS)].read_text(encoding="utf-8")
    pieces = re.findall(r"\\[A-Za-z]+|\s+|.", text)
    for _ in range(25):
        damaged = list(pieces)
        for _ in range(random.randint(1, 3)):
            at = random.randrange(len(damaged))
            match random.randrange(3):
                case 0:
                    del damaged[at]
                case 1:
                    damaged.insert(at, random.choice(damaged))
                case 2:
                    damaged[at] = random.choice(
                        ["{", "}", "|", "_", "^", "\\sum", "=", ",", "0", "&"]
                    )
        try:
            parse(Source("x.obj", imported(Source("x.tex", "".join(damaged)), "x")))
        except ObjectiveError as error:
            assert all(x.span is not None for x in error.diagnostics)


def test_the_command(tmp_path: Path) -> None:
    paper, mine = tmp_path / "paper.tex", tmp_path / "mine.obj"
    runner = CliRunner()
    paper.write_text(runner.invoke(main, ["compile", "grpo", "--latex"]).output)
    result = runner.invoke(main, ["import", "tex", str(paper), "-o", str(mine)])
    assert result.exit_code == 0, result.output
    assert runner.invoke(main, ["diff", "grpo", str(mine)]).exit_code == 0
    printed = runner.invoke(main, ["import", "tex", "-"], input=r"\mathbb{E}_x [A_i]").output
    assert "# guessed: no equation defines it" in printed
    failed = runner.invoke(main, ["import", "tex", "-"], input=r"\mathbb{E}_x [\foo]")
    assert failed.exit_code == 2
