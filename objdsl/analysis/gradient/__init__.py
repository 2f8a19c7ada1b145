"""What the gradient weights of an objective estimate, on policy and off policy."""
