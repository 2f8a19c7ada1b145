"""What is true of an objective and its gradient weights: facts, for rules and people to read."""
