"""objdsl: write an RL objective as the paper prints it; check it, compile it, train with it.

text > tree > objective (maths IR) > weights (maths IR) > plan > torch source > training step
                   |                    |
             fmt, LaTeX, diff     lint, explain, audit

objective = objdsl.load("grpo", eps=0.1)
out = objective(log_pi=..., log_old=..., log_ref=..., reward=..., prompt=..., mask=...)
out.loss.backward()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from objdsl.diagnostic import Diagnostic
from objdsl.errors import DerivativeError, InputError, ObjdslError, ObjectiveError

if TYPE_CHECKING:
    from objdsl.objective import Objective, Output, load, loads
    from objdsl.step import Step
    from objdsl.step.states import States

__version__ = "0.1.0"
__all__ = [
    "DerivativeError",
    "Diagnostic",
    "InputError",
    "ObjdslError",
    "Objective",
    "ObjectiveError",
    "Output",
    "States",
    "Step",
    "__version__",
    "load",
    "loads",
]

# What needs torch is imported when it is first asked for: checking an objective does not.
_LAZY = ("Objective", "Output", "States", "Step", "load", "loads")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        try:
            from objdsl import objective
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            needed = f"objdsl.{name} needs PyTorch, which is not installed here"
            raise ImportError(f"{needed}: pip install 'objdsl[train]'") from None
        return getattr(objective, name)
    raise AttributeError(f"module 'objdsl' has no attribute {name!r}")
