"""The checker: what is biased, dead or fragile in an objective, why, and what to do about it."""
