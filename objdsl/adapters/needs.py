"""The columns that an objective reads, by who could supply them, and why a framework cannot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from objdsl.errors import ObjdslError
from objdsl.ir.columns import (
    CLOCK,
    Clock,
    Data,
    Ids,
    Learned,
    LogProbs,
    Reward,
    State,
    Values,
)
from objdsl.ir.indices import PROMPT, RESPONSE
from objdsl.objective import Objective

_AS_WRITTEN = {row.name: row.leaf.name for row in CLOCK.values()}


UNLEARNED = (
    "and the optimizer there has the weights of the model alone: `param` in place of `learn` keeps "
    "it at its start; `objdsl train`, or a loop of your own, trains it"
)
"""Why nothing there trains a learned number, and what to do."""


class UnsupportedError(ObjdslError, ValueError):
    """A framework cannot train this objective, or not under these settings; with all reasons."""

    def __init__(self, objective: Objective, framework: str, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        lines = "".join(f"\n  - {reason}" for reason in self.reasons)
        super().__init__(f"{framework} cannot train {objective.name} like this:{lines}")


def given(objective: Objective) -> tuple[str, ...]:
    """Columns of responses or prompts that a file declares by `given`: they come from the data."""
    return tuple(
        name
        for name, column in objective.columns.items()
        if column.declared and column.indices in (PROMPT, RESPONSE)
    )


def branching(objective: Objective) -> Iterator[str]:
    """Why its rollouts are out of reach, if they branch."""
    branch = objective.sample.branch
    if branch is not None:
        yield f"its rollouts branch by `{branch.name}`: each response is drawn by itself there"


def refused(
    objective: Objective, policies: Collection[str], supplied: Collection[str] = ()
) -> Iterator[str]:
    """Why token columns of an objective are out of reach, where a framework has log-probabilities
    of the sampled tokens under `policies`, the token columns `supplied`, and no critic."""
    yield from branching(objective)
    layers = {policy.name for policy in objective.formula.policies if policy.layer is not None}
    roles = [column.role for column in objective.columns.values()]
    if objective.formula.critic is not None or any(isinstance(role, Values) for role in roles):
        yield "it reads a critic (`V`), which is not trained there"
    for name, column in objective.columns.items():
        if name in supplied:
            continue
        match column.role:
            case LogProbs(policy, distribution=True):
                yield f"it reads all of `{policy}[v]`: only sampled tokens have a probability there"
            case LogProbs(policy) if policy in layers:
                yield f"it reads `{policy}` off an inner layer, whose logits are not computed there"
            case LogProbs(policy) if policy not in policies:
                yield f"it reads the policy `{policy}`, which is not there"
            case State():
                yield f"it remembers the state `{name}`, which nothing there keeps between rollouts"
            case Learned():
                yield f"it learns `{name}`, {UNLEARNED}"
            case Clock():
                yield f"it reads `{_AS_WRITTEN[name]}`: nothing there counts the rollouts"
            case Ids():
                yield "it reads ids of tokens (`token`), which it is not given"
            case Reward() | Data() if column.indices not in (PROMPT, RESPONSE):
                yield f"it reads the column `{name}` of every token, which nothing there gives"
