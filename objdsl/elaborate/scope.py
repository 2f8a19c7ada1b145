"""The meanings of the names of a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from objdsl.ir.nodes import Expr
from objdsl.syntax import tree

Letters = dict[str, Literal["running", "present"]]
"""The indices of a running reduction, each with the element that it names."""


@dataclass
class Scope:
    """The meanings of the names of a file. Bases come first, then the definitions that override
    them."""

    lets: dict[str, tree.Let] = field(default_factory=dict)
    defs: dict[str, tree.Def] = field(default_factory=dict)
    params: dict[str, tree.Param] = field(default_factory=dict)
    policies: dict[str, tree.Policy] = field(default_factory=dict)
    givens: dict[str, tree.Given] = field(default_factory=dict)
    states: dict[str, tree.State] = field(default_factory=dict)
    learned: dict[str, tree.Learn] = field(default_factory=dict)
    reports: dict[str, tree.Report] = field(default_factory=dict)
    samples: dict[str, tree.Sample] = field(default_factory=dict)
    keeps: dict[str, tree.Keep] = field(default_factory=dict)
    goals: dict[tree.Whose, tree.Goal] = field(default_factory=dict)

    @property
    def named(self) -> tuple[dict[str, Any], ...]:
        """The statements that give a name to something, by the name; it is in one of them."""
        return (
            self.lets, self.defs, self.params, self.policies, self.givens, self.states,
            self.learned,
        )  # fmt: skip


@dataclass
class Frame:
    """Names that have a value while a function body or a running reduction is read.

    Attributes:
        hidden: names that have no value there, each with the reason.
        letters: those of the running reduction that is read.
    """

    values: dict[str, Expr] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    letters: Letters = field(default_factory=dict)
