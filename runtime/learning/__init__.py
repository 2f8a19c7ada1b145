"""One step: a `rollout`, the columns that its objective `needs`, the `learner` and its `optimizer`.

`warm_start` teaches a policy by worked examples before the first step.
"""
