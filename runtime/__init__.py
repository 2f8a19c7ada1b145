"""Reinforcement learning with an objective written as a formula: sample, reward, learn, report.

`loop` reads top to bottom as a run does. The modules, in the order in which data flows:

- settings: `config`, `config_io` (YAML and flags), `foreign` (the names of other frameworks)
- data: `tasks` (prompts), `rewards` (reward functions), `judge` (the process that they run in)
- engines: `models`, `policy` and `layout` (training); `sampler`, `vllm_sampler` with `vllm_engine`,
  `transformers_sampler` (sampling); `probe` (do the two agree?), `processes` (children of the run)
- step: `rollout` (responses), `batch` (their rows), `needs` (columns), `learner`, `optimizer`,
  `ranks`, `warm_start`
- run: `build` (the parts), `checks`, `launch` (a `Run` from settings), `run`, `loop`, `dry_run`;
  on disk `run_folder`, `lock`, `checkpoint`, `sealed_folder`, `random_state`; `signals` stop it
- report: `report` (metrics), `messages` (lines for people), `trackers`, `plot`
"""
