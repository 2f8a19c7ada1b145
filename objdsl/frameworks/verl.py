"""What verl computes under a configuration of its PPO trainers, as an objective.

Read in verl 0.9.1: `ppo_loss` and `value_loss` of its workers with every policy loss of its
registry, the advantage estimators, the KL in the reward and the rollout correction, under the
trainers `RayPPOTrainer` and `v1`. tests/frameworks/test_verl.py runs those functions on random
settings, and compares value and gradient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from objdsl.frameworks import verl_advantages, verl_correction, verl_losses
from objdsl.frameworks.settings import Setting, Settings
from objdsl.frameworks.verl_settings import DEFAULTS, OTHERS, SECTIONS, VERSION
from objdsl.frameworks.verl_writer import Run
from objdsl.frameworks.writer import Imported
from objdsl.source import Source

_TREES = ("ppo_trainer", "ppo_megatron_trainer", "_self_")


def objective(source: Source, values: Mapping[str, Setting], name: str) -> Imported:
    """The objective that a configuration of verl computes.

    Args:
        source: the file, for messages.
        values: the settings, by their names in the tree, `algorithm.adv_estimator`.
        name: of the objective.

    Raises:
        ObjectiveError: a setting that verl does not have, a value that it refuses, or a loss that
            the language cannot express; each at its place.
    """
    everything = {**DEFAULTS, **{key: setting.value for key, setting in values.items()}}
    defaults = {key: _looked_up(key, {**everything, key: value}) for key, value in DEFAULTS.items()}
    resolved = {
        key: Setting(_looked_up(key, everything), setting.span)
        for key, setting in values.items()
        if not _is_description(key, setting)
    }
    settings = Settings(source, resolved, f"verl {VERSION}", defaults, OTHERS, SECTIONS)
    for key, setting in resolved.items():
        if key in DEFAULTS and isinstance(setting.value, str) and "$" in setting.value:
            settings.refuse(
                key,
                f"the value of `{key}` is not known",
                f"`{setting.value}` refers to something outside of this file; write the value",
            )
    settings.finish()
    run = Run(settings, name)
    if settings.flag("distillation.enabled"):
        settings.refuse(
            "distillation.enabled",
            "the loss of a distillation is not read",
            "`objdsl gallery show on_policy_distillation` is one in the language",
        )
    verl_correction.write(run)
    verl_advantages.write(run)
    text = run.text(verl_losses.write(run))
    settings.finish()
    return Imported(text, tuple(run.outside))


def _is_description(name: str, setting: Setting) -> bool:
    """Whether it is about the tree, and no setting of the trainer."""
    if name == "defaults":  # of Hydra: which tree this one extends
        return isinstance(setting.value, list) and all(x in _TREES for x in setting.value)
    empty = setting.value is None or setting.value == {}
    return name.endswith("_target_") or (
        f"{name}.".startswith(SECTIONS)
        or (empty and any(known.startswith(f"{name}.") for known in DEFAULTS))
    )


# --- interpolation -------------------------------------------------------------------------------

_INTERPOLATION = re.compile(r"^\$\{(?:oc\.select:)?\s*([\w.]+)\s*(?:,\s*([^{}]*))?\}$")
_CONSTANTS = {"null": None, "true": True, "false": False}


def _reference(value: Any) -> re.Match[str] | None:
    return _INTERPOLATION.match(value) if isinstance(value, str) else None


def _looked_up(name: str, values: Mapping[str, Any], depth: int = 0) -> Any:
    """The value of a setting, through `${other.setting}` and `${oc.select:other.setting,default}`;
    what cannot be looked up stays as it is written."""
    value = values[name]
    reference = _reference(value)
    if reference is None or depth > 8:
        return value
    other, default = reference.groups()
    if other.startswith("."):
        other = name.rpartition(".")[0] + other
    if other in values:
        return _looked_up(other, values, depth + 1)
    return value if default is None else _CONSTANTS.get(default.strip(), default.strip())
