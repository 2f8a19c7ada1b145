"""Reinforcement learning with an objective written as a formula: sample, reward, learn, report.

`run.loop` reads top to bottom as a run does. The folders, in the order in which data flows:

- `settings`: what a run is asked to do, from a YAML file, flags, or the names of other frameworks
- `processes`: ranks, child processes, and the signals that stop them
- `data`: prompts, and the reward functions that score responses
- `engines`: the samplers that write responses, and the policy that is trained
- `learning`: rollouts, and the optimizer steps that learn from them
- `report`: metrics, trackers and plots
- `storage`: the folder of a run and its checkpoints
- `run`: the parts put together, step by step
"""
