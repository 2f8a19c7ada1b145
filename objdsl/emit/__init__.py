"""PyTorch and Triton source of an objective."""
