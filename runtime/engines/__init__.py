"""Two engines for one policy.

Sampling: `sampler` is the interface; `vllm_sampler` (with `vllm_engine`, its child process) and
`transformers_sampler` implement it. Training: `models` loads weights, a `batch` gets a `layout`,
and the `policy` evaluates it. `probe` checks that the two agree.
"""
