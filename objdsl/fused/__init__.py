"""The language-model head and the objective in one: logits are never stored, nor their gradient."""

from objdsl.fused.head import Head
from objdsl.fused.log_probs import log_probs
from objdsl.fused.passes import Gradients, one_pass, two_passes, word_pass
from objdsl.fused.spread import Spread

__all__ = ["Gradients", "Head", "Spread", "log_probs", "one_pass", "two_passes", "word_pass"]
