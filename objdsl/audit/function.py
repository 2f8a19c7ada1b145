"""A Python function as what an audit measures."""

from __future__ import annotations

from collections.abc import Mapping

from objdsl.audit.instance import UnauditableError
from objdsl.frozen import dataclass
from objdsl.ir.columns import Column, LogProbs, Noise, Reward, Values
from objdsl.ir.objective import Objective as Formula
from objdsl.losses.advantages import Advantages
from objdsl.losses.batch import ADVANTAGE
from objdsl.losses.python import PythonLoss
from objdsl.objective import loads

_POLICIES = ("pi", "old", "mu", "ref")


@dataclass(frozen=True, eq=False)
class Function:
    """A Python function, with the facts that an audit reads off a formula.

    Attributes:
        formula: an objective with the same columns. It says which policies learn, which are
            references, and that a step is not the mean of its prompts.
        columns: what is supplied; advantages are computed.
    """

    loss: PythonLoss
    advantages: Advantages | None
    formula: Formula
    columns: Mapping[str, Column]

    @property
    def name(self) -> str:
        return self.loss.name


def function_of(loss: PythonLoss, advantages: Advantages | None) -> Function:
    """Raises UnauditableError if it reads what a table of logits does not have."""
    columns = {**loss.columns, **(advantages.columns if advantages is not None else {})}
    columns.pop(ADVANTAGE, None)
    for name, column in columns.items():
        match column.role:
            case LogProbs(policy) if policy in _POLICIES:
                continue
            case Reward() | Values() | Noise():
                continue
        raise UnauditableError(f"{loss.name} reads {name!r}, which is not audited for functions")
    references = {c.role.policy for c in columns.values() if isinstance(c.role, LogProbs)}
    penalty = " - 0.1 * k1(pi, ref)" if "ref" in references else ""
    goal = f"(reward - mean[i] reward) * log(pi){penalty}"
    formula = loads(f"objective function\nmaximize mean[p,i,t] ({goal})\n").formula
    return Function(loss, advantages, formula, columns)
