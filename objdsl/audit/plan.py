"""The size of an audit: how large the language is, and how many draws are summed or sampled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

import objdsl.ir.nodes as n
from objdsl.audit.draws import Draws, Tree, all_draws, draw_count, some_draws, tree_of
from objdsl.audit.function import Function
from objdsl.audit.instance import Instance
from objdsl.audit.roles import Roles, roles_of
from objdsl.audit.world import World, world
from objdsl.frozen import dataclass
from objdsl.ir.columns import NOISE
from objdsl.ir.declarations import Domain
from objdsl.objective import Objective

ON_POLICY = "on policy"

# Languages (vocabulary, horizon), the most telling first; the first one that is quick is taken.
_LANGUAGES = ((3, 4), (3, 3), (2, 4), (2, 3))
# How many draws are quick, how many are summed at most, and how many are sampled beyond that: where
# they can be evaluated as one step, and where each needs a call of its own.
_QUICK = {True: 20_000, False: 150}
_MOST = {True: 200_000, False: 20_000}
_SAMPLES = {True: 50_000, False: 400}


@dataclass(frozen=True)
class Case:
    """A row of the audit: how rewards are drawn, and how the policies differ.

    Attributes:
        reward: `real`, `binary`, or `none`: all are 0.
        kind: `on policy`; `stale`: `old` differs from `pi`; `mismatch`: `mu` differs from `old`.
        drift: the standard deviation of the difference of their logits.
    """

    reward: str
    kind: str = ON_POLICY
    drift: float = 0.0

    @property
    def policies(self) -> str:
        return self.kind if self.kind == ON_POLICY else f"{self.kind} {self.drift:g}"


@dataclass(frozen=True)
class Plan:
    """How an objective is audited.

    Attributes:
        policies: the number of random policies.
        samples: the number of random draws; None where all are summed.
        rewards: the rewards, by name.
        domains: the declared domains of columns, by name.
    """

    world: World
    prompts: int
    group: int
    policies: int
    samples: int | None
    seed: int
    rewards: Mapping[str, n.Column]
    domains: Mapping[str, Domain]
    roles: Roles
    slots: frozenset[str] = frozenset()
    """The columns that distinguish the members of a group before they are drawn."""
    tree: Tree | None = None
    """Which members of a group share tokens."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """`real` where a reward is declared as anything but two values, and `binary`."""
        two = all(len(set(column.values)) == 2 for column in self.rewards.values())
        return ("binary",) if two else ("real", "binary")

    def cases(self, drifts: tuple[float, ...]) -> Iterator[Case]:
        """The rows of the audit; those off policy for the first kind of reward only."""
        first, *others = self.kinds
        yield Case(first)
        for kind in ("stale", "mismatch"):
            for drift in drifts:
                yield Case(first, kind, drift)
        for reward in others:
            yield Case(reward)

    @property
    def draws(self) -> int:
        return self.samples or draw_count(
            self.world.responses, self.prompts, self.group, self._ordered
        )

    @property
    def _ordered(self) -> bool:
        return bool(self.slots) or self.tree is not None

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the logits of a policy."""
        return self.prompts, self.world.states, self.world.vocabulary

    def draw(self, instance: Instance) -> Draws:
        if self.samples is None:
            return all_draws(
                self.world.responses, self.prompts, self.group, self._ordered, self.tree
            )
        return self.some_draws(instance, self.samples, instance.noise)

    def some_draws(
        self, instance: Instance, count: int, generator: torch.Generator | None
    ) -> Draws:
        """Independent draws."""
        return some_draws(instance.chance, self.group, count, generator, self.tree)


def plan_of(
    objective: Objective | Function,
    *,
    group: int | None = None,
    prompts: int | None = None,
    vocabulary: int | None = None,
    horizon: int | None = None,
    samples: int | None = None,
    policies: int = 1,
    seed: int = 0,
) -> Plan:
    """The plan of an audit; what is None is chosen such that the audit is quick."""
    stacked = stacks(objective)
    prompts = prompts or (1 if stacked else 2)
    branch = objective.formula.sampling.branch
    if group is None:
        group = (2 if prompts > 1 and branch is None else 3) if _has_groups(objective) else 1
    slots = _slots(objective)
    ordered = bool(slots) or branch is not None
    languages = [world(vocabulary or size, horizon or length) for size, length in _LANGUAGES]
    quick = (
        language
        for language in languages
        if draw_count(language.responses, prompts, group, ordered) <= _QUICK[stacked]
    )
    language = next(quick, languages[-1])
    # `pick` draws at random within a step: only an average over many draws is fair to it.
    is_random = NOISE.name in objective.columns
    if samples is None and (
        is_random or draw_count(language.responses, prompts, group, ordered) > _MOST[stacked]
    ):
        samples = _SAMPLES[stacked]
    formula = objective.formula
    return Plan(
        language, prompts, group, policies, samples, seed,
        rewards={column.name: column for column in formula.rewards},
        domains=formula.domains,
        roles=roles_of(formula),
        slots=slots,
        tree=None if branch is None else tree_of(language, group),
    )  # fmt: skip


def _slots(objective: Objective | Function) -> frozenset[str]:
    """The columns that are known before their response is drawn, or say which share tokens."""
    columns = (node for node in objective.formula.nodes if isinstance(node, n.Column))
    branch = objective.formula.sampling.branch
    return frozenset(
        x.name for x in columns if x.known == "before i" or (branch and x.name == branch.name)
    )


def _has_groups(objective: Objective | Function) -> bool:
    """Whether it declares a group or branches, or compares the responses to one prompt."""
    sampling = objective.formula.sampling
    return (sampling.group, sampling.branch) != (None, None) or any(
        isinstance(node, n.Reduce | n.Peers | n.Quantile | n.Order) and node.over[0] == "i"
        for node in objective.formula.nodes
    )


def stacks(objective: Objective | Function) -> bool:
    """Whether a step's J is the mean over its prompts of each prompt's own J.

    Then many draws can be evaluated as the prompts of one step, and the weights of each are those
    of the step times the number of draws. It holds if the only reduction over prompts is a mean on
    the outside. With groups of equal size `mean[p,i]` is such a mean; `mean[p,i,t]`, which divides
    by the tokens of the step, is not, nor is a mean over the prompts that `keep` leaves.
    """

    def is_mean(expr: n.Expr) -> bool:
        match expr:
            case n.Const() | n.Param():
                return True
            case n.Reduce("mean", ("p",) | ("p", "i"), x, None):
                return not any(_over_prompts(node) for node in n.topological(x))
            case n.Unary("neg", x):
                return is_mean(x)
            case n.Binary("add" | "sub", a, b):
                return is_mean(a) and is_mean(b)
            case n.Binary("mul", n.Const() | n.Param(), x) | n.Binary(
                "mul" | "div", x, n.Const() | n.Param()
            ):
                return is_mean(x)
        return False

    return is_mean(objective.formula.goal)


def _over_prompts(node: n.Expr) -> bool:
    several = n.Reduce | n.Peers | n.Quantile | n.Order | n.Pick
    return isinstance(node, several) and "p" in node.over
