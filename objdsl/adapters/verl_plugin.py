"""What verl imports by itself, in every process: the entry point of its group `verl.plugins`.

With it, `actor_rollout_ref.actor.policy_loss.loss_mode=objdsl:grpo`, or `objdsl:my.obj`, trains
with an objective. verl imports this module while it is imported itself. So nothing happens here:
five of verl's modules are changed once they have been imported, and what is changed asks for the
loss mode first. Where it does not begin with `objdsl:`, verl is what it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from objdsl.adapters.verl_names import ESTIMATOR, LOSS_MODE


def chosen(config: Any) -> Any:
    """The objective that a run's configuration names; None if it names a loss of verl."""
    policy_loss = config.actor_rollout_ref.actor.get("policy_loss") or {}
    mode = policy_loss.get("loss_mode") or ""
    if not mode.startswith(LOSS_MODE):
        return None
    from objdsl.adapters.verl_trainer import loaded

    return loaded(mode.removeprefix(LOSS_MODE))


def _checked(config: Any) -> Any:
    """The chosen objective, if nothing in the configuration contradicts it."""
    if (objective := chosen(config)) is not None:
        from objdsl.adapters.verl_settings import refuse_contradictions

        refuse_contradictions(objective, config)
    return objective


# --- what becomes of verl's modules --------------------------------------------------------------


def _estimator(core_algos: Any) -> None:
    @core_algos.register_adv_est(ESTIMATOR)  # type: ignore[untyped-decorator]
    def nothing(token_level_rewards: Any, **_: Any) -> Any:
        zero = 0 * token_level_rewards
        return zero, zero


def _reference(utils: Any) -> None:
    needed = utils.need_reference_policy

    @wraps(needed)
    def need_reference_policy(config: Any) -> bool:
        objective = chosen(config)
        return needed(config) or (objective is not None and "log_ref" in objective.columns)

    utils.need_reference_policy = need_reference_policy


def _engine(base: Any) -> None:
    train_batch = base.BaseEngine.train_batch

    @wraps(train_batch)
    def prepared(engine: Any, data: Any, loss_function: Any) -> Any:
        if (prepare := getattr(loss_function, "prepare_step", None)) is not None:
            prepare(engine, data)
        return train_batch(engine, data, loss_function)

    base.BaseEngine.train_batch = prepared


def _trainer(name: str) -> Callable[[Any], None]:
    def change(module: Any) -> None:
        trainer = getattr(module, name)
        make, update = trainer.__init__, trainer._update_actor

        @wraps(make)
        def checked(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
            _checked(config)
            make(self, config, *args, **kwargs)

        @wraps(update)
        def updated(self: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
            # Some trainers make themselves without this class's `__init__`.
            if (objective := _checked(self.config)) is not None:
                from objdsl.adapters.verl_trainer import ready

                ready(self, objective, batch)
            return update(self, batch, *args, **kwargs)

        trainer.__init__, trainer._update_actor = checked, updated

    return change


CHANGES: dict[str, Callable[[Any], None]] = {
    "verl.trainer.ppo.core_algos": _estimator,
    "verl.trainer.ppo.utils": _reference,
    "verl.trainer.ppo.ray_trainer": _trainer("RayPPOTrainer"),
    "verl.trainer.ppo.v1.trainer_base": _trainer("PPOTrainer"),
    "verl.workers.engine.base": _engine,
}


class _Finder(MetaPathFinder):
    """Finds the modules that are changed, and changes them after their import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in CHANGES:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _Changing(spec.loader, CHANGES[fullname])
        return spec


class _Changing(Loader):
    def __init__(self, loader: Loader, change: Callable[[Any], None]) -> None:
        self._loader, self._change = loader, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._change(module)


for _name, _change in CHANGES.items():
    if _name in sys.modules:
        _change(sys.modules[_name])
sys.meta_path.insert(0, _Finder())
