"""What an objective needs: which columns, who computes them, and whether the policy can."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec

import torch

from objdsl.frozen import dataclass
from objdsl.fused.head import Precision
from objdsl.ir.columns import (
    NOISE,
    Clock,
    Data,
    Ids,
    LogProbs,
    Noise,
    Reward,
    State,
    Truncation,
    Values,
)
from objdsl.ir.declarations import Hidden
from objdsl.ir.declarations import Policy as Declared
from objdsl.objective import Objective
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.settings.config import ConfigError, LearnerSection

# Below this the logits are small, and one pass gives log-probabilities and their gradient.
_LARGE_VOCABULARY = 8192
# Elements, on a CPU and on a GPU, that cost eagerly what compilation takes, some 15 s, and more.
_ENOUGH_TO_COMPILE = (300_000_000, 30_000_000_000)


@dataclass(frozen=True)
class Needs:
    """The columns of an objective by their source.

    Attributes:
        trained: inputs with a gradient, by their names in `Policy.columns`.
        learned: the numbers that are trained beside the policy.
        measured: columns of the policy when the responses were sampled (`log_old`, ...): name ->
            name in `Policy.columns`.
        frozen: columns of frozen policies: name -> (policy, name in `Policy.columns`).
        layers: internal policies: name -> the layer they are read off.
        given: columns that must come from the task or the reward functions.
        following: the policies that follow the trained one.
        noise: whether the objective uses `pick`, which needs random numbers.
    """

    trained: tuple[str, ...]
    learned: tuple[str, ...]
    measured: dict[str, str]
    frozen: dict[str, tuple[str, str]]
    layers: dict[str, Hidden]
    given: tuple[str, ...]
    noise: bool
    following: tuple[Declared, ...]

    @property
    def policies(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(policy for policy, _ in self.frozen.values()))

    @property
    def critic(self) -> bool:
        """Whether a value function is learned."""
        return "value" in self.trained or "value" in self.measured.values()


def needs_of(objective: Objective) -> Needs:
    """Sorts the columns of an objective by their source."""
    inner = objective.formula.at(objective.params).hidden
    declared = {number.name for number in objective.formula.learned}
    learned = tuple(name for name in objective.live if name in declared)
    measured: dict[str, str] = {}
    frozen: dict[str, tuple[str, str]] = {}
    given: list[str] = []
    for name, column in objective.all_columns.items():
        if column.trained:
            continue
        match column.role:
            case (
                LogProbs("mu", distribution=False)
                | Truncation()
                | Noise()
                | State()
                | Clock()
                | Ids()
            ):
                pass
            case LogProbs("pi" | "mu"):
                given.append(name)  # no engine provides it
            case LogProbs(policy, distribution):
                base = inner[policy].of if policy in inner else policy
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
        trained=tuple(name for name in objective.live if name not in learned),
        learned=learned,
        measured=measured,
        frozen=frozen,
        layers=inner,
        given=tuple(given),
        following=tuple(x for x in objective.formula.policies if x.follows),
        noise=NOISE.name in objective.columns,
    )


def check_learner(
    policy: Policy, objective: Objective, config: LearnerSection, frozen: Collection[str]
) -> None:
    """Checks that a policy can learn with an objective, with these settings.

    Args:
        frozen: names of the frozen policies that are available.

    Raises ConfigError where it cannot.
    """
    needs = needs_of(objective)
    missing = [name for name in needs.policies if name not in frozen]
    if missing:
        raise ConfigError(
            [f"{objective.name} reads the policy `{missing[0]}`: set policies.{missing[0]}"]
        )
    given = [name for name in ("critic_model", "critic_warm_up") if getattr(config, name)]
    if given and not needs.critic:
        raise ConfigError([f"learner.{given[0]} is set, but {objective.name} has no critic"])
    check_layers(objective, policy.model.config.get_text_config().num_hidden_layers)
    precision_of(policy, fuses(policy, objective, needs, config), config)
    if config.autocast and policy.device.type == "cpu":
        raise ConfigError(
            [
                "learner.autocast computes in bfloat16 on a GPU, and the policy is on a CPU: leave "
                "it out, or set model.dtype to bfloat16"
            ]
        )


def check_layers(objective: Objective, layers: int) -> None:
    """Raises ConfigError for an objective that reads a layer which a model of `layers` lacks."""
    for name, hidden in needs_of(objective).layers.items():
        reads = f"{objective.name} reads the policy `{name}` off layer {hidden.layer}"
        declared = next(x.layer for x in objective.formula.policies if x.name == name)
        lower = f"set params.{declared}" if isinstance(declared, str) else "name a lower layer"
        if hidden.layer > layers:
            raise ConfigError(
                [
                    f"{reads}, and the model has {layers}: take a model with more (`model.layers` "
                    f"of `tiny`), or {lower}"
                ]
            )
        if hidden.layer == layers and not hidden.norm:
            raise ConfigError(
                [f"{reads} without norm: models give the last state after it alone; {lower}"]
            )


def fuses(policy: Policy, objective: Objective, needs: Needs, config: LearnerSection) -> bool:
    """Whether the head and the objective are fused.

    Raises ConfigError where `learner.head` requires it, and it is not possible.
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


def compiles(
    policy: Policy, objective: Objective, fused: bool, config: LearnerSection, tokens: int
) -> bool:
    """Whether the objective runs under `torch.compile`.

    It does not where a run is short: compiling takes seconds once, and saves about 0.1 us for each
    token of a step, or for each vocabulary entry of each token where the objective reads those and
    the head is not fused (on a CPU core; some hundred times less on a GPU).

    Args:
        tokens: those that the whole run learns from, at most.

    Raises ConfigError where `learner.compile` requires it, and there is no compiler.
    """
    if config.compile == "auto":
        reads_vocabulary = any("v" in column.indices for column in objective.columns.values())
        elements = tokens * (policy.vocabulary if reads_vocabulary and not fused else 1)
        if elements < _ENOUGH_TO_COMPILE[policy.device.type == "cuda"]:
            return False
    why = _no_compiler(policy.device)
    if why and config.compile != "auto":
        raise ConfigError([f"learner.compile is true, but {why}"])
    return not why and config.compile is not False


def _no_compiler(device: torch.device) -> str:
    """Why nothing can be compiled for a device; empty if it can."""
    if device.type == "cuda":
        return "" if find_spec("triton") else "Triton is not installed"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "there is no C++ compiler"
    return ""


def precision_of(policy: Policy, fused: bool, config: LearnerSection) -> Precision:
    """The precision of the fused head of a policy.

    Raises ConfigError where `learner.precision` does not apply to this head.
    """
    precision = config.precision
    if precision == "inputs":
        return precision
    why = ""
    if not fused:
        why = "the head is not fused: set learner.head to `fused`"
    elif policy.head is None or policy.head.weight.dtype != torch.float32:
        why = "it needs a linear head in float32"
    if why:
        raise ConfigError([f"learner.precision is `{precision}`, but {why}"])
    return precision
