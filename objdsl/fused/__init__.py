"""The language-model head and the objective in one: logits are never stored, nor their gradient."""

from objdsl.fused.log_probs import log_probs
from objdsl.fused.spread import Spread

__all__ = ["Spread", "log_probs"]
