"""A formula with values for its hyper-parameters: its columns, its properties, its states."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from objdsl import driver
from objdsl.diagnostic import Diagnostic
from objdsl.emit.stages import Layout
from objdsl.errors import InputError
from objdsl.ir.columns import Column
from objdsl.ir.declarations import Learned, Sampling
from objdsl.ir.objective import Objective as Formula
from objdsl.step.inputs import ends
from objdsl.step.prepare import Preparation
from objdsl.step.programs import Programs
from objdsl.step.states import Keys, Memory, States

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class BoundFormula:
    """What an objective says about itself, its states between rollouts, and its learned numbers."""

    def __init__(self, formula: Formula, params: Mapping[str, float] | None = None) -> None:
        self.formula = formula
        self.params = {param.name: param.default for param in formula.at(params or {}).params}
        self._programs = Programs(formula, self.params)

    def __repr__(self) -> str:
        params = "".join(f", {name}={value:g}" for name, value in self.params.items())
        return f"<objdsl objective {self.formula.name}{params}>"

    @cached_property
    def findings(self) -> list[Diagnostic]:
        """The findings of `objdsl check`, at these hyper-parameters, including those that comments
        accept."""
        from objdsl.lint.run import findings

        return findings(self.formula.at(self.params))

    def _repr_latex_(self) -> str:
        """The formula, for notebooks."""
        return f"$$\n{driver.mathematics(self.formula, latex=True)}\n$$"

    @property
    def name(self) -> str:
        return self.formula.name

    @property
    def columns(self) -> dict[str, Column]:
        """The data that it reads. Token columns are `[N, T]` or `[M]`, response columns `[N]`."""
        return self._preparation.columns

    @property
    def live(self) -> tuple[str, ...]:
        """The inputs that a gradient reaches, `log_pi` first."""
        return self.formula.trained

    @property
    def sample(self) -> Sampling:
        """How responses are to be drawn."""
        return self.formula.sampling

    @property
    def report_names(self) -> tuple[str, ...]:
        return tuple(report.name for report in self.formula.reports)

    @property
    def needs_couple(self) -> bool:
        """Whether the weights of one response depend on the current policy's log-probabilities of
        others. Such a step needs `couple` before it is split into micro-batches."""
        return self._programs("padded").program.coupled

    @property
    def reports_need_couple(self) -> bool:
        """Whether value, weights or reports of some rows depend on the current policy's
        log-probabilities of others: without `couple`, parts of a step lack those reports."""
        return self._programs("padded").couple is not None

    @property
    def coupled(self) -> NoReturn:
        """The former name of `needs_couple`."""
        raise AttributeError("`coupled` of an objective is called `needs_couple` now")

    @property
    def couples(self) -> NoReturn:
        """The former name of `reports_need_couple`."""
        raise AttributeError("`couples` of an objective is called `reports_need_couple` now")

    @property
    def early(self) -> frozenset[str]:
        """The columns that `prepare` or `couple` reads; all others are only read when the rows
        themselves are evaluated."""
        return self._programs("padded").program.early

    @cached_property
    def digest(self) -> str:
        """A hash of the formula and its parameters: equal digests compute equal numbers."""
        state = hashlib.blake2b(self.formula.digest.encode(), digest_size=8)
        for name, value in sorted(self.params.items()):
            state.update(f"{name}={value!r};".encode())
        return state.hexdigest()

    def source(self, layout: Layout = "padded") -> str:
        """The PyTorch code that it runs."""
        return self._programs(layout).program.source

    # --- states ----------------------------------------------------------------------------------

    @property
    def sampled_columns(self) -> dict[str, Column]:
        """The data that states start from, and that `advance` reads for everything sampled."""
        return self.formula.sampled_columns

    @property
    def all_columns(self) -> dict[str, Column]:
        """All data that it reads, as `columns` or as `sampled_columns`."""
        return self.sampled_columns | self.columns

    def start(self, steps: int | None = None) -> States:
        """The states before the first rollout.

        Args:
            steps: the number of rollouts of the whole run, where the objective reads `steps`.
        """
        return self._memory.start(steps)

    def recall(self, states: States, keys: Keys, /, **columns: Any) -> dict[str, Any]:
        """The states as keyword arguments of `prepare`.

        Args:
            states: before the rollout.
            keys: N, the prompt of each response, identified in the same way in every rollout:
                numbers, strings, or anything hashable.
            columns: the data, if a state starts from a column.

        Raises:
            InputError: such a column is missing, or the number of rollouts that `steps` needs.
        """
        return self._memory.recall(self.columns, states, keys, columns)

    def advance(
        self,
        states: States,
        keys: Keys,
        /,
        *,
        prompt: Tensor | Sequence[Hashable] | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        check: bool = True,
        group: ProcessGroup | None = None,
        **columns: Any,
    ) -> States:
        """The states after a rollout and its last optimizer step.

        They change by everything that was sampled, whatever part of it was learned from; those of
        prompts that did not come stay. With `group`, every rank calls this with its rows.

        Args:
            states: before the rollout.
            keys: as in `recall`. Several groups may have one key: their mean counts.
            prompt, mask, lengths, check, group: as in `prepare`.
            dtype: of the computation; float64 by default.
            columns: `self.sampled_columns`; others are ignored.

        Raises:
            InputError: as `prepare` does; and where a state is no longer finite.
        """
        return self._memory.advance(
            states, keys, columns, group, prompt=prompt, mask=mask, lengths=lengths,
            dtype=dtype or torch.float64, check=check,
        )  # fmt: skip

    def learned(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> dict[str, nn.Parameter]:
        """The numbers that are trained beside the policy, at their start, by name.

        They are handed to the objective with the other trained inputs, and belong to a group of
        the optimizer without weight decay; after each of its steps, `project` is called.
        """
        return {
            number.name: nn.Parameter(torch.tensor(number.start, dtype=dtype, device=device))
            for number in self.formula.learned
            if number.name in self.live
        }

    @torch.no_grad()
    def project(self, learned: Mapping[str, Tensor]) -> None:
        """Puts learned numbers back into their domains, in place: to the nearest number inside."""
        for name, x in learned.items():
            if name not in self._learned:
                raise InputError(f"{self.name} learns no number {name!r}")
            x.clamp_(*ends(self._learned[name].domain, x.dtype))

    @cached_property
    def _learned(self) -> dict[str, Learned]:
        return {number.name: number for number in self.formula.learned}

    @cached_property
    def _memory(self) -> Memory:
        return Memory(self.formula, self.params)

    @cached_property
    def _preparation(self) -> Preparation:
        formula = self.formula
        return Preparation(formula, formula.nodes, self.params, self.digest, self._programs)
