"""Losses of any kind behind the same interface: a step in, its value and its gradient out.

The modules, in the order in which data flows: a `batch`, the rows of a step with their columns; a
`loss`, which an objective is; `conventions`, the signatures that Python losses have in other
frameworks; and `python`, a function from a file as a loss.
"""
