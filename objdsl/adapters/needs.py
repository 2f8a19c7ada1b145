"""What an objective reads, sorted by who could give it; and why a framework cannot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from objdsl.errors import ObjdslError
from objdsl.ir.indices import PROMPT, RESPONSE
from objdsl.ir.nodes import LogDist, LogProb
from objdsl.ir.objective import CRITIC, NOISE
from objdsl.objective import Objective


class UnsupportedError(ObjdslError, ValueError):
    """A framework cannot train this objective, or not under these settings; with all reasons."""

    def __init__(self, objective: Objective, framework: str, reasons: Iterable[str]) -> None:
        self.reasons = tuple(reasons)
        lines = "".join(f"\n  - {reason}" for reason in self.reasons)
        super().__init__(f"{framework} cannot train {objective.name} like this:{lines}")


def given(objective: Objective) -> tuple[str, ...]:
    """Columns of responses or prompts that a file declares by `given`: they come from the data."""
    known = {"reward", "truncated"}
    return tuple(
        name
        for name, column in objective.columns.items()
        if column.indices in (PROMPT, RESPONSE) and name not in known
    )


def refused(objective: Objective, policies: Iterable[str]) -> Iterator[str]:
    """Why token columns of an objective are out of reach, where a framework has log-probabilities
    of the sampled tokens under `policies` and no critic."""
    has = {f"log_{policy}" for policy in policies}
    layers = {policy.name for policy in objective.formula.policies if policy.layer is not None}
    if objective.formula.critic is not None or {*CRITIC.values()} & objective.columns.keys():
        yield "it reads a critic (`V`), which is not trained there"
    for name, leaf in objective.formula.leaves.items():
        if leaf.indices in (PROMPT, RESPONSE) or name in {*has, NOISE, *CRITIC.values()}:
            continue
        match leaf:
            case LogDist(policy):
                yield f"it reads all of `{policy}[v]`: only sampled tokens have a probability there"
            case LogProb(policy) if policy in layers:
                yield f"it reads `{policy}` off an inner layer, whose logits are not computed there"
            case LogProb(policy):
                yield f"it reads the policy `{policy}`, which is not there"
            case _:
                yield f"it reads the column `{name}` of every token, which nothing there gives"
