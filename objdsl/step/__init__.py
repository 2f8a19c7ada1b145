"""The tensor side of an objective: its rows are checked and prepared, its functions run on them."""

from objdsl.step.rows import Step

__all__ = ["Step"]
