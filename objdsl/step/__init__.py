"""The tensor side of an objective: its rows, checked and prepared; its functions, run over them."""

from objdsl.step.rows import Step

__all__ = ["Step"]
