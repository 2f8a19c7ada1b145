"""The optimizer step: what the training engine says of a batch, the objective, AdamW."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass
from objdsl.fused.head import Precision
from objdsl.ir.columns import NOISE, Data, LogProbs, Noise, Reward, Truncation, Values
from objdsl.objective import Objective, Output
from objdsl.runtime.batch import Batch
from objdsl.runtime.config import ConfigError, LearnerSection
from objdsl.runtime.models import Policy, new_critic
from objdsl.runtime.ranks import Ranks, full_tensor, shard_like
from objdsl.runtime.sampler import seed_of
from objdsl.step import Step

# Below this the logits are no burden, and one pass gives log-probabilities and their gradient.
_LARGE_VOCABULARY = 8192


class TrainingError(ObjdslError, RuntimeError):
    """The numbers are not numbers any more, or not those that the objective reads."""


# Weights, and the optimizer's state of each that has one.
_Copy = tuple[list[Tensor], dict[Any, dict[str, Tensor]]]


# Columns of the run itself, under names that no file gives to one: the log-probabilities of the
# policy as it was when the responses were sampled, and its entropies.
ROLLOUT, ENTROPY = "log pi, before", "entropy, before"


@dataclass(frozen=True)
class Needs:
    """What an objective asks of the runtime, read off its columns.

    Attributes:
        trained: inputs that a gradient reaches, by the names of `Policy.columns`.
        measured: columns of the policy as it was when the responses were sampled (`log_old`, ...),
            with the name that `Policy.columns` has for each.
        frozen: columns of frozen policies: name -> (policy, name in `Policy.columns`).
        layers: internal policies: name -> layer.
        given: response columns that must come from the task or the reward functions.
        noise: whether `pick` draws a random subset of the tokens.
    """

    trained: tuple[str, ...]
    measured: dict[str, str]
    frozen: dict[str, tuple[str, str]]
    layers: dict[str, int]
    given: tuple[str, ...]
    noise: bool

    @property
    def policies(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(policy for policy, _ in self.frozen.values()))

    @property
    def critic(self) -> bool:
        """Whether a value of every state is learned."""
        return "value" in self.trained or "value" in self.measured.values()


def needs_of(objective: Objective) -> Needs:
    """Sorts the columns of an objective by where they come from."""
    inner = {x.name: (x.of, x.layer) for x in objective.formula.policies if x.layer is not None}
    measured: dict[str, str] = {}
    frozen: dict[str, tuple[str, str]] = {}
    given: list[str] = []
    for name, column in objective.columns.items():
        if column.trained:
            continue
        match column.role:
            case LogProbs("mu", distribution=False) | Truncation() | Noise():
                pass
            case LogProbs("pi" | "mu"):
                given.append(name)  # no engine hands it out
            case LogProbs(policy, distribution):
                base = inner[policy][0] if policy in inner else policy
                source = name if policy in inner else LogProbs("pi", distribution).name
                if base in {"pi", "old"}:
                    measured[name] = source
                else:
                    frozen[name] = (str(base), source)
            case Values():
                measured[name] = "value"
            case Reward() | Data():
                given += [name] if column.declared else []
    return Needs(
        trained=objective.live,
        measured=measured,
        frozen=frozen,
        layers={name: layer for name, (_, layer) in inner.items()},
        given=tuple(given),
        noise=NOISE.name in objective.columns,
    )


@dataclass(frozen=True)
class Learned:
    """What was measured while learning: by the runtime, and by the `report`s of the objective."""

    metrics: dict[str, float]
    reports: dict[str, float]


def check_learner(
    policy: Policy, objective: Objective, config: LearnerSection, frozen: Collection[str]
) -> None:
    """Whether a policy can learn by an objective as the settings say, before anything is computed.

    Args:
        frozen: names of the policies that it can be compared with.

    Raises ConfigError where it cannot.
    """
    needs = needs_of(objective)
    missing = [name for name in needs.policies if name not in frozen]
    if missing:
        raise ConfigError(
            [f"{objective.name} reads the policy `{missing[0]}`: set policies.{missing[0]}"]
        )
    check_layers(objective, policy.model.config.get_text_config().num_hidden_layers)
    _precision(policy, _fuses(policy, objective, needs, config), config)
    if config.autocast and policy.device.type == "cpu":
        raise ConfigError(
            [
                "learner.autocast computes in bfloat16 on a GPU, and the policy is on a CPU: leave "
                "it out, or set model.dtype to bfloat16"
            ]
        )


def check_layers(objective: Objective, layers: int) -> None:
    """Raises ConfigError for an objective that reads a layer which a model of `layers` lacks."""
    for name, layer in needs_of(objective).layers.items():
        if not 1 <= layer <= layers:
            raise ConfigError(
                [
                    f"{objective.name} reads the policy `{name}` off layer {layer}, and the model "
                    f"has {layers}: take a model with more (`model.layers` of `tiny`), or name "
                    "another layer"
                ]
            )


def _fuses(policy: Policy, objective: Objective, needs: Needs, config: LearnerSection) -> bool:
    """Whether the head and the objective are computed as one.

    Raises ConfigError where `learner.head` asks for it, and it is not possible.
    """
    why = ""
    if policy.head is None:
        why = "the head of this model is more than a linear layer"
    elif needs.layers:
        why = f"{objective.name} reads a policy off an inner layer"
    if config.head == "fused" and why:
        raise ConfigError([f"learner.head is `fused`, but {why}"])
    large = policy.vocabulary >= _LARGE_VOCABULARY
    return not why and (config.head == "fused" or (config.head == "auto" and large))


def _precision(policy: Policy, fused: bool, config: LearnerSection) -> Precision:
    """Of the fused head of a policy.

    Raises ConfigError where `learner.precision` asks for more than this head has.
    """
    asked = config.precision
    if asked == "inputs":
        return asked
    why = ""
    if not fused:
        why = "logits are the model's own: set learner.head to `fused`"
    elif policy.head is None or policy.head.weight.dtype != torch.float32:
        why = "that is for a linear head in float32"
    if why:
        raise ConfigError([f"learner.precision is `{asked}`, but {why}"])
    return asked


class Learner:
    """A policy that learns from batches.

    Args:
        steps: of the whole run, for the schedule of the learning rate.
        frozen: the policies that the objective compares with, by name.
        ranks: the processes that learn together, each from a share of every batch.
        sharded: whether each of them holds a shard of the weights only.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        config: LearnerSection,
        *,
        steps: int,
        frozen: Mapping[str, Policy],
        seed: int = 0,
        ranks: Ranks = Ranks(),  # noqa: B008
        sharded: bool = False,
    ) -> None:
        self.policy = policy
        self.objective = objective
        self.needs = needs_of(objective)
        self._config = config
        self._steps = steps
        self._frozen = frozen
        self._seed = seed
        self._ranks = ranks
        for each in (policy, *frozen.values()):
            each.layers = self.needs.layers
        if self.needs.critic and policy.critic is None:
            policy.critic = new_critic(policy.model)
        check_learner(policy, objective, config, frozen.keys())
        self.fused = _fuses(policy, objective, self.needs, config)
        for each in (policy, *frozen.values()):
            each.fused = self.fused and each.head is not None
            each.precision = _precision(each, self.fused, config)
        for each in (policy, *frozen.values()) if sharded else ():
            each.shard(ranks)
        critic = policy.critic_parameters()
        weights = policy.parameters()
        self._parts = [part for part in (weights[: len(weights) - len(critic)], critic) if part]
        self._rates = (config.lr, config.critic_lr or config.lr)
        self._before: _Copy | None = None
        self._half_done = False
        self.optimizer = torch.optim.AdamW(
            [{"params": part} for part in self._parts],
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def learn(self, batch: Batch, step: int) -> Learned:
        """Learns from the responses of a rollout, in one optimizer step or several.

        What it tells is the mean over the optimizer steps. `step` counts rollouts from 0: it sets
        the learning rate and every random choice.
        """
        config = self._config
        lr = learning_rate(config, step, self._steps)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=False):
            group["lr"] = lr * (rate / config.lr)
        batch = batch.with_columns(self._prior_columns(batch, step))
        once = config.minibatches * config.epochs == 1
        self._before = None if once else self._copy()
        # `old` is the policy of the first optimizer step. If there is no second, and the step fits
        # in one forward pass, that pass gives both: the same numbers, computed once.
        if not once or not self._fits(batch) or self.fused:
            batch = batch.with_columns(self._measure(batch))
        told: list[Learned] = []
        for epoch in range(config.epochs):
            order = seed_of(self._seed, "minibatches", step, epoch)
            for rows in batch.minibatches(config.minibatches, order):
                part = batch if len(rows) == len(batch) else batch[rows]
                told.append(self._optimize(part, first=not told))
        self._half_done = False
        return Learned(
            _means([one.metrics for one in told]) | {"lr": lr},
            _means([one.reports for one in told]),
        )

    # --- from one run to the next -----------------------------------------------------------------

    def rewind(self) -> bool:
        """Takes back what an unfinished `learn` has changed; whether all is as it was before."""
        if self._half_done and self._before is not None:
            weights, slots = self._before
            with torch.no_grad():
                for weight, x in zip(self.policy.parameters(), weights, strict=True):
                    _local(weight).copy_(x)
                for owner in [*self.optimizer.state]:
                    if owner not in slots:
                        del self.optimizer.state[owner]
                        continue
                    for name, x in slots[owner].items():
                        _local(self.optimizer.state[owner][name]).copy_(x)
            self._half_done = False
        return not self._half_done

    def _copy(self) -> _Copy:
        """What several optimizer steps change, in the memory of the CPU."""
        slots = {
            weight: {name: _on_cpu(x) for name, x in slot.items()}
            for weight, slot in self.optimizer.state.items()
        }
        return [_on_cpu(weight) for weight in self.policy.parameters()], slots

    def state(self) -> dict[str, Any]:
        """The optimizer's, with every tensor in one place. Collective."""
        state = self.optimizer.state_dict()
        slots = {
            k: {n: full_tensor(x) for n, x in slot.items()} for k, slot in state["state"].items()
        }
        return {**state, "state": slots}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes a state over, which may come from another number of ranks. Collective."""
        weights = dict(enumerate(self.policy.parameters()))
        slots = {
            k: {n: shard_like(x, weights[k]) if x.dim() else x for n, x in slot.items()}
            for k, slot in state["state"].items()
        }
        # Learning rate, decay and the like are those of the settings, which may have changed.
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"param_groups": groups, "state": slots})

    # --- what does not change while the policy learns ---------------------------------------------

    def _prior_columns(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Columns of frozen policies, and the random numbers of `pick`."""
        found: dict[str, Tensor] = {}
        for policy in self.needs.policies:
            own = {column: kind for column, (p, kind) in self.needs.frozen.items() if p == policy}
            said = self._no_grad(self._frozen[policy], batch, tuple(set(own.values())))
            found |= {column: said[kind] for column, kind in own.items()}
        if self.needs.noise:
            # On the CPU, so that the choice is the same on every device.
            generator = torch.Generator().manual_seed(seed_of(self._seed, "noise", step))
            noise = torch.rand(batch.mask.shape, generator=generator)
            found[NOISE.name] = noise.to(batch.mask.device)
        return found

    def _measure(self, batch: Batch) -> dict[str, Tensor]:
        """Columns of the policy before it learns from the batch."""
        wanted = {"log_pi", "entropy", *self.needs.measured.values()}
        return self._measured(self._no_grad(self.policy, batch, tuple(sorted(wanted))))

    def _measured(self, said: Mapping[str, Tensor]) -> dict[str, Tensor]:
        columns = {column: said[kind].detach() for column, kind in self.needs.measured.items()}
        return columns | {ROLLOUT: said["log_pi"].detach(), ENTROPY: said["entropy"]}

    def _no_grad(self, policy: Policy, batch: Batch, wanted: tuple[str, ...]) -> dict[str, Tensor]:
        shares = self._shares(batch)
        with torch.no_grad():
            said = [_columns(policy, batch, rows, wanted) for rows in shares[self._ranks.rank]]
        policy.reshard()
        if len(said) > 1:
            said = [{name: torch.cat([part[name] for part in said]) for name in wanted}]
        return self._together(said[0], shares)

    # --- the shares of the ranks ------------------------------------------------------------------

    def _shares(self, batch: Batch) -> list[list[Tensor]]:
        return batch.shares(self._ranks.size, self._config.micro_batch)

    def _together(self, own: Mapping[str, Tensor], shares: list[list[Tensor]]) -> dict[str, Tensor]:
        """Columns of this rank's rows -> those of all, in the order of the batch."""
        if len(shares) == len(shares[0]) == 1:
            return dict(own)
        back = torch.argsort(torch.cat([rows for pieces in shares for rows in pieces]))
        return {name: x[back.to(x.device)] for name, x in self._ranks.gather(own).items()}

    # --- one optimizer step -----------------------------------------------------------------------

    def _fits(self, batch: Batch) -> bool:
        return len(self._shares(batch)[0]) == 1

    def _optimize(self, batch: Batch, first: bool) -> Learned:
        """One step of AdamW on `batch`, which is all of it however it is cut."""
        shares = self._shares(batch)
        pieces = shares[self._ranks.rank]
        said: dict[str, Tensor] | None = None
        if len(pieces) == 1 and not self.fused:
            fresh = ROLLOUT not in batch.columns
            wanted = {*self.needs.trained, "log_pi", "entropy", *self.needs.measured.values()}
            wanted = wanted if fresh else {*self.needs.trained}
            said = _columns(self.policy, batch, pieces[0], sorted(wanted))
            if fresh:
                batch = batch.with_columns(self._measured(self._together(said, shares)))
        step = self.prepare(batch)
        if said is None or self._ranks.size > 1:
            now = None if said is None else {name: said[name] for name in self.needs.trained}
            step = self._coupled(step, batch, first, now, shares)
        self.optimizer.zero_grad()
        value = 0.0
        reports: defaultdict[str, float] = defaultdict(float)
        for rows in pieces:
            part = step if len(rows) == len(batch) else step[rows.to(batch.mask.device)]
            out = self._evaluate(batch, rows, part, said)
            out.loss.backward()  # type: ignore[no-untyped-call]
            value += float(out.value)
            for name, report in out.reports.items():
                reports[name] += float(report)
        value, *told = self._ranks.all_reduce_sum([value, *reports.values()])
        self._ranks.add_gradients(self.policy.parameters())
        norm = self._descend()
        metrics = {"objective": value, **observed(batch), "grad_norm": norm}
        return Learned(metrics, dict(zip(reports, told, strict=True)))

    def _evaluate(
        self, batch: Batch, rows: Tensor, step: Step, said: Mapping[str, Tensor] | None
    ) -> Output:
        """The loss of some rows; `said` are the trained columns, where they are known already."""
        if not self.fused:
            live = said or _columns(self.policy, batch, rows, self.needs.trained)
            return self.objective(step=step, **{name: live[name] for name in self.needs.trained})
        part, many = _part(batch, rows), len(rows)
        states, words = self.policy.states(part)
        head = self.policy.head_of(states, part)
        if head["kept"] is not None:
            head["kept"] = head["kept"][:many]
        others: dict[str, Any] = {}
        if "value" in self.needs.trained:
            others["value"] = self.policy.values(states)[:many]
        return self.objective.fused(states[:many], tokens=words[:many], step=step, **head, **others)

    def prepare(self, batch: Batch) -> Step:
        """The objective's step of a batch that has all its columns.

        Raises TrainingError for columns that the objective cannot read: none of a name, or one
        response only where it takes a standard deviation.
        """
        names = [name for name in self.objective.columns if name not in self.needs.trained]
        present: dict[str, Any] = {n: batch.columns[n] for n in names if n in batch.columns}
        try:
            return self.objective.prepare(prompt=batch.prompt, mask=batch.mask, **present)
        except ValueError as error:
            raise TrainingError(str(error)) from error

    def _coupled(
        self,
        step: Step,
        batch: Batch,
        first: bool,
        now: Mapping[str, Tensor] | None,
        shares: list[list[Tensor]],
    ) -> Step:
        """With what responses in different micro-batches have to know of each other.

        Args:
            now: the trained columns of this rank's rows, where they are known already.
        """
        at_hand = first and set(self.needs.trained) == {"log_pi"}
        if at_hand:  # the policy has not moved since it was measured
            return self.objective.couple(step, log_pi=batch.columns[ROLLOUT])
        if now is not None and self.objective.reports_need_couple:
            return self.objective.couple(step, **self._together(now, shares))
        if now is not None or not self.objective.needs_couple:
            return step
        return self.objective.couple(step, **self._no_grad(self.policy, batch, self.needs.trained))

    def _descend(self) -> float:
        """Clips the gradients and takes the step; the norm of the policy's before clipping.

        The critic's are clipped by themselves: it does not change the step of the policy.
        """
        limit = self._config.clip if self._config.clip is not None else math.inf
        norms = [float(full_tensor(nn.utils.clip_grad_norm_(part, limit))) for part in self._parts]
        for norm, what in zip(norms, ("the gradient", "the gradient of the critic"), strict=False):
            if not math.isfinite(norm):
                raise TrainingError(
                    f"the norm of {what} of {self.objective.name} is {norm}: no step is taken"
                )
        self._half_done = True
        self.optimizer.step()
        return norms[0]


def _local(x: Tensor) -> Tensor:
    """What this rank has of a tensor."""
    return x.to_local() if isinstance(x, DTensor) else x


def _on_cpu(x: Tensor) -> Tensor:
    return _local(x.detach()).to("cpu", copy=True)


def _part(batch: Batch, rows: Tensor) -> Batch:
    """Some rows; for none, one that is computed and dropped: a rank without rows takes part in the
    passes through weights that are sharded over all."""
    if len(rows) == len(batch):
        return batch
    return batch[rows] if len(rows) else batch[:1]


def _columns(
    policy: Policy, batch: Batch, rows: Tensor, wanted: Sequence[str]
) -> dict[str, Tensor]:
    said = policy.columns(_part(batch, rows), wanted)
    return {name: x[: len(rows)] for name, x in said.items()}


def _means(told: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(one[name] for one in told) / len(told) for name in told[0]}


def observed(batch: Batch) -> dict[str, float]:
    """Means over the tokens of a batch: entropy, and how far the two engines are apart.

    `kl_mu_old` estimates KL(mu || old) from the sampled tokens by k3, in nats a token; `mismatch`
    is the mean of |log old - log mu|.
    """
    mask = batch.mask
    found = {"entropy": float(batch.columns[ENTROPY][mask].mean())}
    if "log_mu" in batch.columns:
        log_ratio = (batch.columns[ROLLOUT] - batch.columns["log_mu"])[mask]
        found["kl_mu_old"] = float((log_ratio.exp() - 1 - log_ratio).mean())
        found["mismatch"] = float(log_ratio.abs().mean())
    return found


def learning_rate(config: LearnerSection, step: int, steps: int) -> float:
    """The rate of step `step`, counted from 0, of `steps`."""
    rise = min(1.0, (step + 1) / (config.warmup + 1))
    done = step / max(steps - 1, 1)
    match config.schedule:
        case "constant":
            fall = 1.0
        case "linear":
            fall = 1 - (1 - config.final_lr) * done
        case "cosine":
            fall = config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * done)) / 2
    return config.lr * rise * fall
