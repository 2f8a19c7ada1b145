"""One step: a `rollout`, then the `learner` and its `optimizer`.

A rollout is `sampled`, or read from a dataset of `preferences`. `needs` are the columns that an
objective reads, by who computes them. A `warm_start` on worked examples may come before the first
step.
"""
