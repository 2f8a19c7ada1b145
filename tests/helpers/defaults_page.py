"""docs/defaults.md: what frameworks compute by default, from their gallery entries.

Cells are read from the formula or measured on single tokens, verdicts are the checker's. The
figures, which take minutes, are measured by `make golden`; a digest of their formulas stands above
them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import objdsl
from helpers import gallery_pages
from objdsl import driver
from objdsl.analysis.explain import sections
from objdsl.analysis.facts import Facts, facts_of
from objdsl.audit import audit
from objdsl.audit.result import EXACT, number
from objdsl.diagnostic import Diagnostic
from objdsl.frozen import dataclass
from objdsl.ir.nodes import Binary, Expr, LogProb, Peers, Reduce, Unary, policies_in, topological
from objdsl.ir.text import text
from objdsl.objectives import gallery
from objdsl.source import Source

SIZE = {"vocabulary": 2, "horizon": 2, "prompts": 2, "group": 4, "policies": 3}
POLICIES = ("on policy", "stale 0.3", "mismatch 0.3")


@dataclass(frozen=True)
class Default:
    """A framework's objective, and the settings that remove most of what the checker finds.

    Attributes:
        asked: what a user sets to get it, besides defaults.
        settings: to change; empty where nothing can be.
        statements: what they change in the objective.
    """

    framework: str
    entry: str
    asked: str
    settings: str = ""
    statements: str = ""

    @property
    def changed(self) -> str:
        return f"objective changed from {self.entry}\n{self.statements}\n"


CLIPPED = "surrogate(r, A, 1 - eps, 1 + eps)"
CENTRED = "A = reward - mean[i] reward\n"
CONSTANT = "param L = 1024 in (0, inf)\n"

DEFAULTS = (
    Default(
        "TRL 1.16.0",
        "trl_grpo",
        "`GRPOConfig()`",
        "`scale_rewards: none`, `loss_type: dr_grpo`",
        f"{CONSTANT}{CENTRED}maximize mean[p,i] ((sum[t] {CLIPPED}) / L)",
    ),
    Default(
        "TRL 1.16.0 with vLLM",
        "trl_grpo_vllm",
        "`GRPOConfig(use_vllm=True)`",
        "`scale_rewards: none`, `loss_type: dr_grpo`",
        f"{CONSTANT}{CENTRED}maximize mean[p,i] ((W if W <= C else 0) * (sum[t] {CLIPPED}) / L)",
    ),
    Default(
        "verl 0.9.1",
        "verl_grpo",
        "`algorithm.adv_estimator=grpo`",
        "`algorithm.norm_adv_by_std_in_grpo=False`, "
        "`actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum-norm` (with a constant "
        "`loss_scale_factor`), `algorithm.rollout_correction.rollout_is=token` (with "
        "`actor_rollout_ref.rollout.calculate_log_probs=True`)",
        f"{CONSTANT}{CENTRED}maximize mean[p,i] "
        f"((sum[t] (min(old / mu, 2) * dual_clip({CLIPPED}, A, c))) / L)",
    ),
    Default(
        "AReaL 4aef98d",
        "areal_grpo",
        "`examples/math/gsm8k_grpo.yaml`",
        "`actor.reward_norm.std_level: null`, `actor.adv_norm: null`",
        "A = 10 * (reward - mean[i] reward)",
    ),
    Default(
        "OpenRLHF 3c3be62",
        "openrlhf_grpo",
        "`--algo.advantage.estimator group_norm`",
        "`--algo.advantage.estimator rloo`, `--algo.advantage.is_correction_enable`, "
        "`--algo.advantage.is_correction_threshold 0 5`",
        f"B = reward - mean[j != i] reward\nmaximize mean[p,i,t] (min(old / mu, 5) * {CLIPPED})",
    ),
    Default(
        "slime 624b824",
        "slime_grpo",
        "`--advantage-estimator grpo`",
        "`--disable-grpo-std-normalization`, `--calculate-per-token-loss`, `--use-tis`",
        f"{CENTRED}maximize mean[p,i,t] (min(old / mu, 2) * {CLIPPED})",
    ),
    Default("prime-rl 559b447", "prime_rl", "`trainer.loss` as it stands"),
    Default(
        "NeMo-RL 7ea279a",
        "nemo_grpo",
        "`examples/configs/grpo_math_1B.yaml`",
        "`grpo.normalize_rewards: false`, `loss_fn.use_importance_sampling_correction: true`",
        f"A = D\nmaximize mean[p,i,t] (old / mu * {CLIPPED} - beta * (pi / sg(pi)) * k3(pi, ref))",
    ),
    Default(
        "SkyRL a956457",
        "skyrl_grpo",
        "`trainer.algorithm.advantage_estimator=grpo`",
        "`trainer.algorithm.grpo_norm_by_std=false`, "
        "`trainer.algorithm.loss_reduction=seq_mean_token_sum_norm` (with `max_seq_len`), "
        "`trainer.algorithm.kl_estimator_type=k2`, "
        "`trainer.algorithm.off_policy_correction.tis_ratio_type=token`",
        f"{CONSTANT}{CENTRED}maximize mean[p,i] ((sum[t] (min(old / mu, 2) * {CLIPPED})) / L)"
        " - beta * mean[p,i] mean[t] k2(pi, ref)",
    ),
    Default("Tinker cookbook 9dfcc3a", "tinker_importance_sampling", "`importance_sampling`"),
)


def digest() -> str:
    """The digest of all formulas that figures are of."""
    parts = [gallery_pages.digest(f"frameworks/{x.entry}") + x.statements for x in DEFAULTS]
    return gallery_pages.hashed("\n".join(parts))


# --- the page ------------------------------------------------------------------------------------


def page(figures: dict[str, str]) -> str:
    """The page, with the figures of each entry, see `measured`."""
    return "\n".join(_page(figures))


def _page(figures: dict[str, str]) -> Iterator[str]:
    yield "# What GRPO is, by default, in nine frameworks\n"
    yield (
        "The same name, and nine objectives. Each is an entry of the [gallery](gallery/README.md), "
        "whose page says what confirms it; this page is generated from their formulas, the "
        "[checker](checking.md) and the [audit](biases.md).\n"
    )
    titles = [title for title, _ in COLUMNS]
    yield f"| | {' | '.join(titles)} |"
    yield "| --- |" + " --- |" * len(titles)
    for default in DEFAULTS:
        facts = facts_of(driver.bundled(f"frameworks/{default.entry}"))
        cells = " | ".join(cell(facts) for _, cell in COLUMNS)
        yield f"| [{default.framework}](#{_anchor(default.framework)}) | {cells} |"
    yield (
        "\nA token *stops* where its gradient is 0. `A` is its advantage, `r` the ratio in the "
        "first column. A std with ddof 1 divides by G - 1, one with ddof 0 by G.\n"
    )
    yield (
        "Figures are exact: all steps of two prompts with four responses each are summed, in a "
        "language of two tokens and an end, and averaged over three random policies. The residual "
        "is what is left of the expected gradient without the best multiple of that of the "
        "expected reward, relative to it: 0 is the right direction.\n"
    )
    yield f"<!-- of {digest()} -->\n"
    for default in DEFAULTS:
        yield from _section(default, figures[default.entry])


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-").replace(".", "")


def _section(default: Default, figures: str) -> Iterator[str]:
    name = f"frameworks/{default.entry}"
    source = gallery.find(name)
    yield f"## {default.framework}\n"
    page = f"[{default.entry}](gallery/{default.entry}.md)"
    yield f"Asked for by {default.asked}. In the gallery: {page}; `objdsl check {name}`.\n"
    yield f"```math\n{driver.mathematics(driver.compile_source(source), latex=True).strip()}\n```\n"
    yield "| finding | what it does to the gradient | what to do |\n| --- | --- | --- |"
    rows = (
        f"| {_link(x)} | {_cell(x.gradient or x.message)} | {_cell(x.help)} |"
        for x in findings(source)
    )
    yield from dict.fromkeys(rows)
    yield ""
    if default.settings:
        left = dict.fromkeys(map(_link, findings(Source("changed.obj", default.changed))))
        yield f"To change: {default.settings}. Then the checker finds: {', '.join(left)}.\n"
    yield figures


def findings(source: Source) -> list[Diagnostic]:
    """What the checker finds, including what the file accepts."""
    checked = driver.check(source)
    return [*checked.suppressed, *checked.findings]


def _link(finding: Diagnostic) -> str:
    return f"[{finding.name}](rules/{finding.name}.md)"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


# --- cells ---------------------------------------------------------------------------------------


def _ratio(facts: Facts) -> str:
    """The ratio that the gradient enters by; all are of tokens."""
    (policy,) = {
        x.x.b.policy
        for x in topological(facts.objective.goal)
        if isinstance(x, Unary) and x.op == "exp" and _is_log_ratio(x.x)
    }
    return f"`pi / {policy}` of the token"


def _is_log_ratio(x: Expr) -> bool:
    """Whether it is `log(pi / policy)`, of a policy that samples."""
    match x:
        case Binary("sub", LogProb("pi"), LogProb("old" | "mu")):
            return True
    return False


def _baseline(facts: Facts) -> str:
    means = [x for x in _of_advantage(facts) if x.op == "mean"]
    return ", then ".join(f"`{facts.written(x)}`" for x in means)


def _scale(facts: Facts) -> str:
    advantage = topological(_advantage(facts))
    cells = []
    for std in (x for x in _of_advantage(facts) if x.op in DDOF):
        (epsilon,) = {
            x.b for x in advantage if isinstance(x, Binary) and x.op == "add" and x.a == std
        }
        name = facts.written(std)
        shown = text(std) if name.isidentifier() else name
        cells.append(f"`{shown} + {text(epsilon)}`, ddof {DDOF[std.op]}")
    return ", then ".join(cells) or "none"


DDOF = {"std": 1, "pstd": 0}


def _advantage(facts: Facts) -> Expr:
    return next(x.value for x in facts.objective.bindings if x.name == "A")


def _of_advantage(facts: Facts) -> list[Reduce | Peers]:
    return [x for x in topological(_advantage(facts)) if isinstance(x, Reduce | Peers)]


def _kl(facts: Facts) -> str:
    objective = facts.objective
    goal = topological(objective.goal)
    sizes = {x.name: x.default for x in objective.params}
    for square in (x for x in goal if isinstance(x, Binary) and x.op == "pow"):
        if _is_log_ratio(square.a):
            return f"{sizes['tau']:g} `{facts.written(square)}` in the loss, to the sampler"
    calls = {x.name: x.value for x in objective.calls if x.value in goal}
    estimator = next((name for name in ("k1", "k2", "k3") if name in calls), None)
    if estimator is None:
        assert policies_in(*goal) <= {"pi", "old", "mu"}
        return "none"
    where = "advantage" if calls[estimator] in topological(_advantage(facts)) else "loss"
    (penalty,) = facts.penalties
    divisors = [DIVISORS[f"1 / {facts.written(x.base)}"] for x in penalty.scale]
    by = f", divided by {' and '.join(divisors)}" if divisors != [_divisor(facts)] else ""
    descends = penalty.descends.value.partition(",")[0]
    return f"{sizes['beta']:g} {estimator} in the {where}{by}; descends {descends}"


def _divisor(facts: Facts) -> str:
    lines = _explained(facts, "The reward is multiplied by")
    divisors = [DIVISORS[name.translate(BARE)] for name, _ in lines if "std" not in name]
    return " and ".join(divisors) or "none: a sum over tokens"


BARE = str.maketrans("", "", "()")
DIVISORS = {
    "1 / sum[p,i] |y|": "tokens of the step",
    "1 / sum[p] sum[i] |y|": "tokens of the step",
    "1 / N": "responses",
    "1 / |y|": "tokens of the response",
}


def _explained(facts: Facts, title: str) -> list[tuple[str, str]]:
    return [line for x in sections(facts) if x.title == title for line in x.lines]


def _engines(facts: Facts) -> str:
    by = dict(_explained(facts, "Off policy, to first order"))["between the engines, old / mu"]
    if "pi / mu" in _ratio(facts):
        return "in the ratio"
    if by == "not corrected":
        return "none"
    x = 1 + torch.arange(0.005, 9, 0.01, dtype=torch.float64)
    h = _curve(facts, True, 0.25, old_to_mu=x)
    dropped = x[h.abs() < 1e-12]
    assert len(dropped)
    return f"{by.removeprefix('corrected by ')}; 0 above {_bound(dropped[0]):g}"


# --- measured on responses of one token ----------------------------------------------------------

GRID = torch.arange(0.005, 3.3, 0.01, dtype=torch.float64)


def _stops(facts: Facts) -> str:
    """Where the gradient of a token is 0, by the sign of its advantage."""
    parts = []
    for positive in (True, False):
        regions = [_zero(facts, positive, base) for base in (0.25, 0.3)]
        if regions[0] == regions[1]:
            cells = [f"`r {side} {bound:g}`" for side, bound in regions[0]]
        else:  # a bound of probabilities, not of ratios
            moved = [
                [(side, base * (x - 1)) for side, x in region]
                for base, region in zip((0.25, 0.3), regions, strict=True)
            ]
            assert all(
                math.isclose(x, y, abs_tol=2e-3) for (_, x), (_, y) in zip(*moved, strict=True)
            )
            cells = [f"`pi - mu {side} {x:.1f}`" for side, x in moved[0]]
        if cells:
            parts.append(f"{', '.join(cells)} if `A {'>' if positive else '<'} 0`")
    return "; ".join(parts) or "nowhere"


def _zero(facts: Facts, positive: bool, base: float) -> list[tuple[str, float]]:
    """The ends of the grid at which the gradient is 0, up to their bounds."""
    zero = _curve(facts, positive, base, pi_to_old=GRID).abs() < 1e-12
    edges = zero.diff().nonzero()[:, 0].tolist()
    return [("<" if zero[k] else ">", _bound(GRID[k] + 0.01)) for k in edges]


def _bound(first: Tensor) -> float:
    """Between two points of the grid."""
    return round(float(first) - 0.005, 2)


def _curve(
    facts: Facts,
    positive: bool,
    base: float,
    pi_to_old: Tensor | None = None,
    old_to_mu: Tensor | None = None,
) -> Tensor:
    """The weight of a response of one token by its ratios, without penalties. Each has a group of
    its own, with a second response that has not moved."""
    objective = objdsl.load(f"frameworks/{facts.objective.name}")
    objective = objective.with_params(**{x: 0.0 for x in ("beta", "tau") if x in objective.params})
    ratio = pi_to_old if pi_to_old is not None else old_to_mu
    n = len(ratio)
    old = torch.full((n, 2, 1), math.log(base), dtype=torch.float64)
    pi, mu = old.clone(), old.clone()
    if pi_to_old is not None:
        pi[:, 0, 0] += pi_to_old.log()
    if old_to_mu is not None:
        mu[:, 0, 0] -= old_to_mu.log()
    reward = torch.tensor([1.0, 0.0] if positive else [0.0, 1.0], dtype=torch.float64).repeat(n)
    columns = {"log_old": old, "log_mu": mu, "log_ref": old}
    step = objective.prepare(
        mask=torch.ones(2 * n, 1, dtype=torch.bool),
        prompt=torch.arange(n).repeat_interleave(2),
        reward=reward,
        **{name: x.flatten(0, 1) for name, x in columns.items() if name in objective.columns},
    )
    weights = objective.weights(pi.flatten(0, 1), step)[1]["log_pi"]
    return weights.view(n, 2)[:, 0]


COLUMNS: tuple[tuple[str, Callable[[Facts], str]], ...] = (
    ("ratio r", _ratio),
    ("stops", _stops),
    ("A: baseline", _baseline),
    ("A: scale", _scale),
    ("KL", _kl),
    ("divided by", _divisor),
    ("weight between the engines, old / mu", _engines),
)


# --- figures -------------------------------------------------------------------------------------


def figures_of(written: str) -> tuple[dict[str, str], str]:
    """The figures of a page that is there, by entry, and the digest of what they are of."""
    mark = re.search(r"<!-- of (\w+) -->", written)
    tables = re.findall(r"^\| residual \|.*\n(?:\|.*\n)+", written, re.MULTILINE)
    entries = [default.entry for default in DEFAULTS]
    figures = dict(zip(entries, tables, strict=False)) if len(tables) == len(entries) else {}
    return figures, mark[1] if mark and figures else ""


def measured(default: Default) -> str:
    """The residuals of a default, and of what is left after its settings are changed."""
    lines = ["| residual | " + " | ".join(POLICIES) + " |", "| --- |" + " --- |" * len(POLICIES)]
    lines += [f"| the default | {_residuals(objdsl.load(f'frameworks/{default.entry}'))} |"]
    if default.settings:
        lines += [f"| with changes | {_residuals(objdsl.loads(default.changed))} |"]
    return "\n".join(lines) + "\n"


def _residuals(objective: objdsl.Objective) -> str:
    result = audit(objective, **SIZE, drifts=(0.3,))
    figures = (result.row(policies, "real").residual.mean for policies in POLICIES)
    return " | ".join(number(x if x > EXACT else 0.0) for x in figures)
