"""Settings of TRL and verl, and their equivalents here, for users who know those."""

from __future__ import annotations

from collections.abc import Collection

from objdsl.syntax.foreign import in_formulas

_SAMPLING = "the objective sets it: `sample from mu: temperature 1, top_p 1, top_k 50`"
_RANKS = "the number of processes is torchrun's: `torchrun --nproc-per-node 8 -m objdsl train`"
_BATCH = (
    "a step has `sampler.prompts` times `sampler.group` responses, in `learner.minibatches` "
    "updates; `learner.micro_batch` affects memory only"
)
_STEPS = "a run counts steps: `steps`"

SETTINGS = {
    # responses
    "num_generations": "sampler.group",
    "rollout.n": "sampler.group",
    "max_completion_length": "sampler.max_tokens",
    "max_new_tokens": "sampler.max_tokens",
    "max_response_length": "sampler.max_tokens",
    "response_length": "sampler.max_tokens",
    "max_prompt_length": "task.max_prompt_tokens",
    "train_batch_size": "sampler.prompts",
    "gen_batch_size": "sampler.prompts",
    "use_vllm": "sampler.engine",
    "rollout.name": "sampler.engine",
    "vllm_mode": "sampler.engine",
    "vllm_gpu_memory_utilization": "sampler.gpu_memory",
    "gpu_memory_utilization": "sampler.gpu_memory",
    "tensor_model_parallel_size": "sampler.processes",
    "vllm_tensor_parallel_size": "sampler.processes",
    "filter_groups.max_num_gen_batches": "sampler.resample",
    # the optimizer
    "learning_rate": "learner.lr",
    "actor.optim.lr": "learner.lr",
    "critic.optim.lr": "learner.critic_lr",
    "critic.model.path": "learner.critic_model",
    "value_model_name_or_path": "learner.critic_model",
    "critic_warmup": "learner.critic_warm_up",
    "lr_scheduler_type": "learner.schedule",
    "warmup_style": "learner.schedule",
    "warmup_steps": "learner.warmup",
    "warmup_ratio": "learner.warmup",
    "lr_warmup_steps": "learner.warmup",
    "lr_warmup_steps_ratio": "learner.warmup",
    "min_lr_ratio": "learner.final_lr",
    "weight_decay": "learner.weight_decay",
    "adam_beta1": "learner.beta1",
    "adam_beta2": "learner.beta2",
    "adam_epsilon": "learner.epsilon",
    "max_grad_norm": "learner.clip",
    "grad_clip": "learner.clip",
    "num_iterations": "learner.epochs",
    "ppo_epochs": "learner.epochs",
    "ppo_mini_batch_size": "learner.minibatches",
    "num_mini_batches": "learner.minibatches",
    "steps_per_generation": "learner.minibatches",
    "ppo_micro_batch_size": "learner.micro_batch",
    "ppo_micro_batch_size_per_gpu": "learner.micro_batch",
    "log_prob_micro_batch_size_per_gpu": "learner.micro_batch",
    "gradient_accumulation_steps": "learner.micro_batch",
    "gradient_checkpointing": "learner.gradient_checkpointing",
    "enable_gradient_checkpointing": "learner.gradient_checkpointing",
    "bf16": "learner.autocast",
    "fp16": "learner.autocast",
    "use_liger_loss": "learner.head",
    "use_liger_kernel": "learner.head",
    "use_fused_kernels": "learner.head",
    "fsdp": "learner.parallel",
    "deepspeed": "learner.parallel",
    "strategy": "learner.parallel",
    # the model and the data
    "model_name_or_path": "model.name",
    "model.path": "model.name",
    "model_revision": "model.revision",
    "torch_dtype": "model.dtype",
    "dataset_name": "task.name",
    "train_files": "task.name",
    "val_files": "task.held_out_split",
    "dataset_config": "task.subset",
    "dataset_train_split": "task.split",
    "dataset_test_split": "task.held_out_split",
    "prompt_key": "task.prompt",
    "system_prompt": "task.system",
    "chat_template_kwargs": "task.chat_options",
    "reward_funcs": "rewards",
    "reward_weights": "rewards",
    "reward_model_name_or_path": "rewards",
    "custom_reward_function.path": "rewards",
    "custom_reward_function.name": "rewards",
    "reward_model.path": "rewards",
    "reward_manager": "rewards",
    # the run
    "max_steps": "steps",
    "total_training_steps": "steps",
    "output_dir": "output",
    "default_local_dir": "output",
    "save_steps": "checkpoint.every",
    "save_freq": "checkpoint.every",
    "save_total_limit": "checkpoint.keep",
    "max_actor_ckpt_to_keep": "checkpoint.keep",
    "eval_steps": "evaluation.every",
    "test_freq": "evaluation.every",
    "val_kwargs.n": "evaluation.samples",
    "val_kwargs.temperature": "evaluation.temperature",
    "report_to": "report.trackers",
    "trainer.logger": "report.trackers",
    "log_completions": "report.samples",
    "num_completions_to_print": "report.samples",
    "logging_steps": "report.samples_every",
    "log_val_generations": "report.samples",
}
"""Keyed by the end of a flag: `actor_rollout_ref.rollout.n` ends in `rollout.n`."""

SENTENCES = {
    "temperature": _SAMPLING, "top_p": _SAMPLING, "top_k": _SAMPLING, "min_p": _SAMPLING,
    "repetition_penalty": _SAMPLING, "do_sample": _SAMPLING, "generation_kwargs": _SAMPLING,
    "filter_groups.enable": f"the objective sets it: {in_formulas('filter_groups')}",
    "per_device_train_batch_size": _BATCH, "generation_batch_size": _BATCH,
    "num_train_epochs": _STEPS, "total_epochs": _STEPS, "total_episodes": _STEPS,
    "n_gpus_per_node": _RANKS, "nnodes": _RANKS, "num_processes": _RANKS,
    "resume_from_checkpoint": "it is an option: `--resume auto`, or a folder",
    "resume_mode": "it is an option: `--resume auto`, or a folder",
}  # fmt: skip

PARAMETERS = {
    "beta": ("beta",), "kl_loss_coef": ("beta",), "kl_coef": ("beta",), "init_kl_coef": ("beta",),
    "epsilon": ("eps", "eps_low"), "clip_ratio": ("eps", "eps_low"), "cliprange": ("eps",),
    "epsilon_low": ("eps_low", "eps"), "clip_ratio_low": ("eps_low", "eps"),
    "eps_clip": ("eps", "eps_low"), "eps_clip_low": ("eps_low", "eps"),
    "epsilon_high": ("eps_high",), "clip_ratio_high": ("eps_high",), "eps_clip_high": ("eps_high",),
    "delta": ("delta", "c"), "entropy_coeff": ("ent", "entropy"),
    "vf_coef": ("vf", "c"), "gamma": ("gamma",), "lam": ("lam",), "lambda": ("lam",),
}  # fmt: skip
"""Settings that are parameters of an objective here, with the names that it may have."""


def pointer(path: tuple[str, ...], value: object, parameters: Collection[str]) -> str | None:
    """How to set here what a setting of TRL or verl sets there; None for any other name.

    Args:
        path: the keys of the setting.
        value: its value.
        parameters: the parameters of the objective.
    """
    name = path[-1]
    if len(path) == 1 and name in parameters:
        return f"it is a parameter of the objective: `--set {name}={value}`"
    for start in range(len(path)):
        ending = ".".join(path[start:])
        if ending in SETTINGS:
            return f"it is called `{SETTINGS[ending]}` here"
        if ending in SENTENCES:
            return SENTENCES[ending]
        if sentence := in_formulas(ending):
            return f"the objective sets it: {sentence}"
    if name in PARAMETERS:
        known = next((candidate for candidate in PARAMETERS[name] if candidate in parameters), None)
        if known is not None:
            return f"it is a parameter of the objective: `--set {known}={value}`"
        has = f"this one has {', '.join(sorted(parameters))}" if parameters else "this one has none"
        return f"it is a parameter of an objective, and {has}"
    return None
