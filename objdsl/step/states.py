"""What an objective remembers from rollout to rollout, and how it changes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from objdsl.emit.load import CompiledValues, load_states
from objdsl.emit.stages import Layout
from objdsl.errors import InputError
from objdsl.ir.columns import CLOCK, Column
from objdsl.ir.columns import State as StateRole
from objdsl.ir.declarations import State
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.ir.nodes import Column as ColumnNode
from objdsl.ir.nodes import topological
from objdsl.ir.objective import Objective as Formula
from objdsl.step.gather import exchange
from objdsl.step.inputs import as_tensor
from objdsl.step.prepare import Preparation
from objdsl.step.rows import Step

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Keys = Sequence[Hashable] | Tensor
"""The prompt of each response, identified in the same way in every rollout."""

_STEP, _STEPS = (row.name for row in CLOCK.values())


@dataclass(frozen=True)
class States:
    """The states of an objective before a rollout.

    Attributes:
        step: the number of rollouts that are done.
        steps: the number of rollouts of the whole run; None if that is not known.
        numbers: the states that are one number, by name.
        prompts: those of prompts, by name and key; a prompt that has not come yet is not there.
    """

    step: int = 0
    steps: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    prompts: Mapping[str, Mapping[Hashable, float]] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """The states as plain dictionaries and numbers, for a checkpoint."""
        return asdict(self)

    @staticmethod
    def from_state_dict(state: Mapping[str, Any]) -> States:
        return States(**state)

    def resumed(self, saved: States, step: int) -> States:
        """The states of a run that is resumed after a step; those that were not saved start
        anew."""
        numbers = {name: saved.numbers.get(name, x) for name, x in self.numbers.items()}
        prompts = {name: saved.prompts.get(name, x) for name, x in self.prompts.items()}
        return States(step, self.steps, numbers, prompts)

    def summary(self, keys: Iterable[Hashable]) -> dict[str, float]:
        """Every state as one number: a state of prompts by its mean over those of a rollout."""
        rows = set(keys)
        summary = dict(self.numbers)
        for name, known in self.prompts.items():
            values = [known[key] for key in rows if key in known]
            summary[name] = math.fsum(values) / max(len(values), 1)
        return summary


@dataclass(frozen=True, eq=False)
class Memory:
    """The states of an objective: their initial values, how they are read, and how they change."""

    formula: Formula
    params: Mapping[str, float]

    def start(self, steps: int | None = None) -> States:
        """The states before the first rollout."""
        single = [state for state in self.formula.states if not state.column.over]
        values = evaluate([state.start for state in single], Batch((), ()), self.params)
        numbers = {state.name: value for state, value in zip(single, values, strict=True)}
        of_prompts = (state.name for state in self.formula.states if state.column.over)
        return States(0, steps, numbers, {name: {} for name in of_prompts})

    def recall(
        self, read: Mapping[str, Column], states: States, keys: Keys, columns: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The columns among `read` that states are, or `step` and `steps`.

        Args:
            columns: the data, for states that start from a column.
        """
        values: dict[str, Any] = {}
        for name, column in read.items():
            if name == _STEP:
                values[name] = float(states.step)
            elif name == _STEPS:
                values[name] = self._steps(states)
            elif isinstance(column.role, StateRole):
                if name in states.numbers:
                    values[name] = states.numbers[name]
                else:
                    values[name] = self._rows(name, states, keys, columns)
        return values

    def _steps(self, states: States) -> float:
        if states.steps is None:
            raise InputError(
                f"{self.formula.name} reads `steps`, the number of rollouts of the whole run: give "
                "it to `objective.start(steps=...)`"
            )
        return float(states.steps)

    def _rows(self, name: str, states: States, keys: Keys, columns: Mapping[str, Any]) -> Tensor:
        """The state of each row's prompt."""
        known, rows = states.prompts[name], _listed(keys)
        state = next(state for state in self.formula.states if state.name == name)
        if known.keys() >= set(rows):
            values = [known[key] for key in rows]
        else:
            start = _starts(state, len(rows), columns, self.params)
            values = [known.get(key, first) for key, first in zip(rows, start, strict=True)]
        return torch.tensor(values, dtype=torch.float64)

    def advance(
        self,
        states: States,
        keys: Keys,
        columns: Mapping[str, Any],
        group: ProcessGroup | None = None,
        **rows: Any,
    ) -> States:
        """The states after a rollout.

        Args:
            columns: the data of everything that was sampled.
            group: the ranks that the rollout is sharded over.
            rows: its layout, as `Preparation` takes it.
        """
        read = self._preparation.columns
        given = {name: x for name, x in columns.items() if name in read}
        given |= self.recall(read, states, keys, columns)
        step = self._preparation(**rows, columns=given, group=group)
        names = _listed(keys)
        if group is not None:
            step = step if step.share is None else step.share.whole
            names = [key for ranks in exchange(names, group) for key in ranks]
        numbers, prompts = dict(states.numbers), dict(states.prompts)
        for state in self.formula.states:
            if state.column.over:
                prompts[state.name] = {**prompts[state.name], **_by_key(state, step, names)}
            else:
                numbers[state.name] = _finite(state, step.scalars[state.name].item())
        return replace(states, step=states.step + 1, numbers=numbers, prompts=prompts)

    @cached_property
    def _preparation(self) -> Preparation:
        nodes = topological(*(state.next for state in self.formula.states))

        @cache
        def program(layout: Layout) -> CompiledValues:
            return load_states(self.formula, layout)

        return Preparation(self.formula, nodes, self.params, "", program)


def _listed(keys: Keys) -> list[Hashable]:
    listed: list[Hashable] = keys.tolist() if isinstance(keys, Tensor) else list(keys)
    for k, key in enumerate(listed):
        try:
            hash(key)
        except TypeError:
            raise InputError(f"the key of row {k} cannot be hashed: {key!r:.100}") from None
    return listed


def _starts(
    state: State, rows: int, columns: Mapping[str, Any], params: Mapping[str, float]
) -> list[float]:
    """The initial value of a state of prompts, for each row."""
    given: dict[str, Any] = {}
    for node in topological(state.start):
        if isinstance(node, ColumnNode):
            if node.name not in columns:
                raise InputError(
                    f"the state {state.name!r} starts from the column {node.name!r}, which is "
                    "missing"
                )
            given[node.name] = as_tensor(node.name, columns[node.name]).tolist()
    (values,) = evaluate([state.start], Batch(range(rows), [1] * rows, given), params)
    return values if isinstance(values, list) else [values] * rows


def _by_key(state: State, step: Step, keys: Sequence[Hashable]) -> dict[Hashable, float]:
    """The next values for the prompts of a rollout; the mean, if a prompt has several groups."""
    row, prompt = step.environment["first"].tolist(), step.responses["prompt"].tolist()
    for k, (key, number) in enumerate(zip(keys, prompt, strict=True)):
        if key != keys[row[number]]:
            raise InputError(
                f"rows {row[number]} and {k} answer the same prompt, but have different keys"
            )
    if state.name in step.scalars:
        values = [step.scalars[state.name].item()] * len(row)
    else:
        values = step.responses[state.name].tolist()
        values = [values[k] for k in row]
    groups: dict[Hashable, list[float]] = {}
    for k, value in zip(row, values, strict=True):
        groups.setdefault(keys[k], []).append(_finite(state, value))
    return {key: math.fsum(some) / len(some) for key, some in groups.items()}


def _finite(state: State, value: float) -> float:
    if not math.isfinite(value):
        raise InputError(f"the state {state.name!r} has become {value}")
    return value
