"""Learning from a batch: columns of the training engine, the objective, the optimizer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor

from objdsl.errors import NaNInputError
from objdsl.frozen import dataclass
from objdsl.ir.columns import NOISE
from objdsl.objective import Objective, Output
from objdsl.runtime.engines.batch import Batch, Rows
from objdsl.runtime.engines.critic import new_head, new_value_model
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.engines.sampler import seed_of
from objdsl.runtime.learning.finite import WITHIN, NotFiniteError, poisoned, strange_column
from objdsl.runtime.learning.following import Following
from objdsl.runtime.learning.monitors import (
    ENTROPY,
    ROLLOUT,
    merged,
    monitored,
    of_policies,
    of_update,
)
from objdsl.runtime.learning.needs import check_learner, compiles, fuses, needs_of, precision_of
from objdsl.runtime.learning.optimizer import Optimizer, TrainingError
from objdsl.runtime.processes.ranks import Ranks
from objdsl.runtime.settings.config import LearnerSection
from objdsl.step import Step
from objdsl.step.states import States


@dataclass(frozen=True)
class Learned:
    """The metrics of learning, and the `report`s of the objective.

    Attributes:
        numbers: those that are learned beside the policy, as they are after it.
        skipped: why optimizer steps were skipped, a reason for each.
        batch: of the rollout, with the columns of the training engine.
    """

    metrics: dict[str, float]
    reports: dict[str, float]
    batch: Batch
    numbers: dict[str, float] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


class Learner:
    """A policy that learns from batches.

    Args:
        steps: rollouts of the whole run, for the schedule of the learning rate.
        tokens: of the responses of a rollout, at most: whether compiling the objective pays.
        frozen: the policies that the objective compares with, by name.
        ranks: the processes that learn together, each from a share of every batch.
        sharded: whether each of them holds a shard of the weights only.

    Attributes:
        skipped: the rollout of each optimizer step that was skipped of late.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        config: LearnerSection,
        *,
        steps: int,
        tokens: int = 0,
        frozen: Mapping[str, Policy],
        seed: int = 0,
        ranks: Ranks = Ranks(),  # noqa: B008
        sharded: bool = False,
    ) -> None:
        self.policy = policy
        self._declared = objective.report_names
        self._whole = self._phase = objective
        self._monitored = {objective.digest: monitored(objective)}
        self.objective = objective = self._monitored[objective.digest]
        self.needs = needs_of(objective)
        self._config = config
        self._steps = steps
        self._frozen = frozen
        self._seed = seed
        self._ranks = ranks
        policies = (policy, *frozen.values())
        for member in policies:
            member.layers = self.needs.layers
        if self.needs.critic and policy.critic is None:
            new = new_head if config.critic == "head" else new_value_model
            policy.critic = new(policy.model)
        check_learner(policy, objective, config, frozen.keys())
        self.following = Following(self.needs.following, frozen, policy)
        self._fuse()
        self._compiles = compiles(
            policy, objective, self.fused, config, steps * config.epochs * tokens
        )
        if self._compiles:
            objective.compile()
        for member in policies if sharded else ():
            member.shard(ranks)
        dtype = torch.promote_types(policy.model.dtype, torch.float32)
        self.learned = objective.learned(dtype, ranks.device)
        self.optimizer = Optimizer(policy, config, steps, self.learned)
        self.skipped: tuple[int, ...] = ()
        self._strange: str | None = None  # an input of this rank that is not finite

    def learn(self, batch: Batch, step: int, rows: Rows | None = None) -> Learned:
        """Learns from the responses of a rollout, in one optimizer step or several.

        Returns means over the optimizer steps. `step` counts rollouts from 0: it sets
        the learning rate and every random choice. An optimizer step of which something is not
        finite is skipped.

        Args:
            rows: those that are learned from; None for all.

        Raises TrainingError where the objective cannot read the data, or too many steps have been
        skipped.
        """
        self._enter(step)
        config = self._config
        critic_alone = step < config.critic_warm_up
        single = config.minibatches * config.epochs == 1
        lr = self.optimizer.begin(step, several=not single)
        batch = batch.with_columns(self._prior_columns(batch, step))
        # `old` is the policy of the first optimizer step. If there is no second, and the step fits
        # in one forward pass, that pass gives both: the same numbers, computed once.
        if rows is not None or not (single and self._fits(batch)):
            batch = batch.with_columns(self.measure(batch))
        sampled, batch = batch, batch if rows is None else batch[rows]
        results: list[Learned] = []
        reasons: list[str] = []
        for epoch in range(config.epochs):
            order = seed_of(self._seed, "minibatches", step, epoch)
            for chosen in batch.minibatches(config.minibatches, order):
                part = batch if len(chosen) == len(batch) else batch[chosen]
                try:
                    result = self._optimize(
                        part, moved=bool(results), several=not single, critic_alone=critic_alone
                    )
                except NotFiniteError as error:
                    self._skip(step, error)
                    reasons.append(str(error))
                else:
                    results.append(result)
        self.optimizer.finish()
        self.following.move(step)
        whole = ROLLOUT in sampled.columns or not results
        return Learned(
            merged([result.metrics for result in results]) | {"lr": lr, "skipped": len(reasons)},
            _means([result.reports for result in results]),
            sampled if whole else results[0].batch,
            {name: x.item() for name, x in self.learned.items()},
            tuple(reasons),
        )

    def _skip(self, step: int, error: NotFiniteError) -> None:
        """Counts a step that was skipped.

        Raises TrainingError where there have been too many.
        """
        self.optimizer.zero_grad()
        self.policy.reshard()
        self.skipped = (*(k for k in self.skipped if k > step - WITHIN), step)
        limit = self._config.max_skipped
        if len(self.skipped) > limit:
            raise TrainingError(
                f"{error}; {len(self.skipped)} optimizer steps within {WITHIN} rollouts were not "
                f"finite, and learner.max_skipped is {limit}"
            ) from error

    def _enter(self, step: int) -> None:
        """The objective of a rollout from here on: in a phase that needs no reference policy, none
        is computed."""
        try:
            phase = self._whole.phase(States(step, self._steps))
        except ValueError as error:
            raise TrainingError(str(error)) from error
        if phase is not self._phase:
            self._phase = phase
            # A monitor of the whole objective could read what this phase does not.
            if phase.digest not in self._monitored:
                part = monitored(phase)
                self._monitored[phase.digest] = part.compile() if self._compiles else part
            self.objective = self._monitored[phase.digest]
            self.needs = needs_of(self.objective)
            self._fuse()

    def _fuse(self) -> None:
        self.fused = fuses(self.policy, self.objective, self.needs, self._config)
        for member in (self.policy, *self._frozen.values()):
            member.fused = self.fused and member.head is not None
            member.precision = precision_of(member, self.fused, self._config)

    def advance(self, states: States, keys: Sequence[str], batch: Batch) -> States:
        """The states after a rollout.

        Args:
            keys: of the prompts.
            batch: everything that was sampled, with the columns of the training engine.

        Raises TrainingError where a state is no longer finite.
        """
        columns: dict[str, Any] = {**batch.columns}
        try:
            return self.objective.advance(
                states, keys, prompt=batch.prompt, mask=batch.mask, **columns
            )
        except ValueError as error:
            raise TrainingError(str(error)) from error

    # --- columns that are constant while the policy learns ----------------------------------------

    def _prior_columns(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Columns of frozen policies, and the random numbers of `pick`."""
        columns: dict[str, Tensor] = {}
        for policy in self.needs.policies:
            kinds = {column: kind for column, (p, kind) in self.needs.frozen.items() if p == policy}
            values = self._no_grad(self._frozen[policy], batch, tuple(set(kinds.values())))
            columns |= {column: values[kind] for column, kind in kinds.items()}
        if self.needs.noise:
            # On the CPU, so that the choice is the same on every device.
            generator = torch.Generator().manual_seed(seed_of(self._seed, "noise", step))
            noise = torch.rand(batch.mask.shape, generator=generator)
            columns[NOISE.name] = noise.to(batch.mask.device)
        return columns

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Columns of the policy before it learns from the batch."""
        return self._measured(self._no_grad(self.policy, batch, self._to_measure))

    @property
    def _to_measure(self) -> tuple[str, ...]:
        return tuple(sorted({"log_pi", "entropy", *self.needs.measured.values()}))

    def _measured(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        columns = {column: values[kind].detach() for column, kind in self.needs.measured.items()}
        return columns | {ROLLOUT: values["log_pi"].detach(), ENTROPY: values["entropy"]}

    def _no_grad(self, policy: Policy, batch: Batch, wanted: tuple[str, ...]) -> dict[str, Tensor]:
        shares = self._shares(batch)
        with torch.no_grad():
            parts = [_columns(policy, batch, rows, wanted) for rows in shares[self._ranks.rank]]
        policy.reshard()
        values = parts[0]
        if len(parts) > 1:
            values = {name: torch.cat([part[name] for part in parts]) for name in wanted}
        return self._gather(values, shares)

    # --- the shares of the ranks ------------------------------------------------------------------

    def _shares(self, batch: Batch) -> list[list[Tensor]]:
        return batch.shares(self._ranks.size, self._config.micro_batch)

    def _gather(self, local: Mapping[str, Tensor], shares: list[list[Tensor]]) -> dict[str, Tensor]:
        """Columns of this rank's rows -> those of all, in the order of the batch."""
        if len(shares) == len(shares[0]) == 1:
            return dict(local)
        back = torch.argsort(torch.cat([rows for pieces in shares for rows in pieces]))
        return {name: x[back.to(x.device)] for name, x in self._ranks.gather(local).items()}

    # --- one optimizer step -----------------------------------------------------------------------

    def _fits(self, batch: Batch) -> bool:
        """Whether each rank computes its rows in one pass, by which the loss is computed too."""
        return len(self._shares(batch)[0]) == 1 and not self.fused

    def _optimize(self, batch: Batch, moved: bool, several: bool, critic_alone: bool) -> Learned:
        """One step of AdamW on `batch`, however it is cut into pieces.

        Args:
            moved: whether the policy has changed since `measure`.
            several: whether the rollout has several steps.
            critic_alone: whether nothing but the critic learns.
        """
        self.optimizer.zero_grad()
        if self._fits(batch):
            batch, output = self._one_pass(batch)
            outputs: Iterable[Output] = [output]
        else:
            outputs = self._passes(batch, moved)
        value = 0.0
        reports: defaultdict[str, float] = defaultdict(float)
        current: list[Tensor] = []
        for out in outputs:
            out.loss.backward()  # type: ignore[no-untyped-call]
            value += float(out.value)
            for name, report in out.reports.items():
                reports[name] += float(report)
            if several and out.log_pi is not None:
                current.append(out.log_pi)
        value, *totals = self._ranks.all_reduce_sum([value, *reports.values()])
        if not math.isfinite(value):
            raise NotFiniteError(self._why(value, dict(zip(reports, totals, strict=True))))
        self._ranks.add_gradients([*self.policy.parameters(), *self.learned.values()])
        norms = self.optimizer.step(self.objective.name, critic_alone)
        self._whole.project(self.learned)
        shares = dict(zip(reports, totals, strict=True))
        declared = {name: shares.pop(name) for name in self._declared}
        metrics = {"objective": value, **of_policies(batch), **shares, **norms}
        if current:
            gathered = self._gather({"log_pi": torch.cat(current)}, self._shares(batch))
            metrics |= of_update(batch, gathered["log_pi"])
        return Learned(metrics, declared, batch)

    def _why(self, value: float, reports: Mapping[str, float]) -> str:
        """What is known of a value that is not finite: on each rank the same. Collective."""
        local, self._strange = self._strange, None
        inputs = next(filter(None, self._ranks.gather_objects(local)), None)
        if inputs is not None:
            return inputs
        strange = [name for name, x in reports.items() if not math.isfinite(x)]
        also = f", and so is its report `{strange[0]}`" if strange else ""
        return f"the value of {self.objective.name} is {value}{also}"

    def _one_pass(self, batch: Batch) -> tuple[Batch, Output]:
        """The loss of this rank's rows, and the batch with its measured columns.

        Where `measure` has not been called, its columns are read off the pass that trains.
        """
        shares = self._shares(batch)
        (rows,) = shares[self._ranks.rank]
        trained = self.needs.trained
        measured = ROLLOUT in batch.columns
        wanted = sorted({*trained, *(() if measured else self._to_measure)})
        values = _columns(self.policy, batch, rows, wanted)
        if not measured:
            batch = batch.with_columns(self._measured(self._gather(values, shares)))
        live = {name: values[name] for name in trained}
        step = self.prepare(batch)
        if self._ranks.size > 1:
            if self.objective.reports_need_couple:
                step = self._couple(step, batch, self._gather(live, shares))
            step = step[rows]
        return batch, self._output(step, live, batch.mask[rows])

    def _output(self, step: Step, live: Mapping[str, Tensor], mask: Tensor) -> Output:
        try:
            output = self.objective(step=step, **live, **self._numbers)
        except ValueError:
            strange = strange_column(self.objective.columns, live, mask, whole=False)
            if strange is None:
                raise
            self._strange = self._strange or strange
            return poisoned(live, self.objective.report_names)
        log_pi = live.get("log_pi")
        return output if log_pi is None else replace(output, log_pi=log_pi.detach())

    def _couple(self, step: Step, batch: Batch, current: Mapping[str, Tensor]) -> Step:
        """The step with what couples its responses, which is the same on all ranks."""
        try:
            return self.objective.couple(step, **current, **self._numbers)
        except ValueError:
            strange = strange_column(self.objective.columns, current, batch.mask)
            if strange is None:
                raise
            raise NotFiniteError(strange) from None

    @property
    def _numbers(self) -> dict[str, Tensor]:
        """The learned numbers that the objective of this rollout reads."""
        return {name: self.learned[name] for name in self.needs.learned}

    def _passes(self, batch: Batch, moved: bool) -> Iterator[Output]:
        """The losses of this rank's pieces, one forward pass each."""
        step = self.prepare(batch)
        if not moved and set(self.needs.trained) == {"log_pi"}:
            step = self._couple(step, batch, {"log_pi": batch.columns[ROLLOUT]})
        elif self.objective.needs_couple:
            current = self._no_grad(self.policy, batch, self.needs.trained)
            step = self._couple(step, batch, current)
        batch = replace(batch, step=step)
        for rows in self._shares(batch)[self._ranks.rank]:
            yield self._loss(batch.piece(rows))

    def _loss(self, piece: Batch) -> Output:
        step = piece.step
        assert step is not None
        count = len(step)
        if not self.fused:
            values = self.policy.columns(piece, self.needs.trained)
            live = {name: values[name][:count] for name in self.needs.trained}
            return self._output(step, live, piece.mask[:count])
        states, tokens = self.policy.states(piece)
        head = self.policy.head_of(states, piece)
        if head["kept"] is not None:
            head["kept"] = head["kept"][:count]
        others: dict[str, Any] = {**self._numbers}
        if "value" in self.needs.trained:
            others["value"] = self.policy.values(piece, states)[:count]
        states = states[:count]
        try:
            return self.objective.fused(states, tokens=tokens[:count], step=step, **head, **others)
        except NaNInputError:
            self._strange = "the log-probabilities of the policy `pi` are nan"
            return poisoned({"states": states}, self.objective.report_names)

    def prepare(self, batch: Batch) -> Step:
        """The objective's step of a batch that has all its columns.

        Raises:
            NotFiniteError: a column is not finite.
            TrainingError: the objective cannot read the columns: one is missing, or there is one
                response only for a standard deviation.
        """
        names = [name for name in self.objective.columns if name not in self.needs.trained]
        columns = {**batch.columns, **batch.numbers}
        present: dict[str, Any] = {name: columns[name] for name in names if name in columns}
        try:
            return self.objective.prepare(prompt=batch.prompt, mask=batch.mask, **present)
        except ValueError as error:
            strange = strange_column(self.objective.columns, present, batch.mask)
            if strange is not None:
                raise NotFiniteError(strange) from None
            raise TrainingError(str(error)) from error


def _columns(
    policy: Policy, batch: Batch, rows: Tensor, wanted: Sequence[str]
) -> dict[str, Tensor]:
    values = policy.columns(batch.piece(rows), wanted)
    return {name: x[: len(rows)] for name, x in values.items()}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}
