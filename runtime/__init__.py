"""Reinforcement learning with an objective written as a formula: sample, reward, learn, report.

`config` says what a run is; `loop` reads top to bottom as what a run does. The rest are its parts:
`tasks` and `rewards` (what is asked, what is right), `models` (policies of the training engine),
`sampler` with `vllm_sampler` and `transformers_sampler` (the inference engine), `batch` and
`learner` (the optimizer step), `checkpoint`, `report` and `plot`.
"""
