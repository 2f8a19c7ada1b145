"""From formulas to numbers: the slow reference interpreter, and the PyTorch source."""
