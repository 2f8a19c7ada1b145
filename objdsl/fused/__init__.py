"""The language-model head and the objective in one: logits are never stored, nor their gradient."""

from typing import NoReturn

from objdsl.fused.log_probs import log_probs
from objdsl.fused.sequence_parallel import SequenceParallel

__all__ = ["SequenceParallel", "log_probs"]


def __getattr__(name: str) -> NoReturn:
    renamed = " is called `SequenceParallel` now" if name == "Spread" else ""
    raise AttributeError(f"`objdsl.fused.{name}`{renamed or ' does not exist'}")
