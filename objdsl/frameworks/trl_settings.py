"""The settings of TRL's GRPO, RLOO and DPO trainers: those of the objective, and all others."""

from __future__ import annotations

from typing import Any

VERSION = "1.16.0"
FUNCTIONS = (
    "_compute_loss", "_generate_and_score_completions", "get_gamma_weights",
    "get_high_entropy_mask", "get_off_policy_mask",
)  # fmt: skip
DIGESTS = {
    "trl/trainer/dpo_trainer.py": "3de7facc0c0d2835",
    "trl/trainer/grpo_trainer.py": "1b1f4fd5653f80e8",
    "trl/trainer/rloo_trainer.py": "c53f909394c1e7d5",
}
"""What `versions.digest` gives for those functions of the version that was read."""

# What GRPOConfig and RLOOConfig share about the objective and the sampling, with the defaults.
_SHARED: dict[str, Any] = {
    "beta": 0.0,
    "epsilon": 0.2,
    "epsilon_high": None,
    "generation_batch_size": None,
    "gradient_accumulation_steps": 1,
    "mask_truncated_completions": False,
    "max_completion_length": 512,
    "min_p": None,
    "num_generations": 8,
    "num_iterations": 1,
    "per_device_train_batch_size": 8,
    "ref_model_mixup_alpha": 0.6,
    "ref_model_sync_steps": 512,
    "repetition_penalty": 1.0,
    "reward_funcs": None,
    "reward_model_name_or_path": None,
    "reward_weights": None,
    "router_aux_loss_coef": None,
    "steps_per_generation": None,
    "sync_ref_model": False,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "use_vllm": False,
}

GRPO: dict[str, Any] = {
    **_SHARED,
    "delta": None,
    "entropy_coef": 0.0,
    "importance_sampling_level": "token",
    "loss_type": "dapo",
    "multi_objective_aggregation": "sum_then_normalize",
    "off_policy_mask_threshold": None,
    "sapo_temperature_neg": 1.05,
    "sapo_temperature_pos": 1.0,
    "scale_rewards": "group",
    "top_entropy_quantile": 1.0,
    "use_adaptive_entropy": False,
    "use_bias_correction_kl": True,
    "vespo_k_neg": 3.0,
    "vespo_k_pos": 2.0,
    "vespo_lambda_neg": 2.0,
    "vespo_lambda_pos": 3.0,
    "vllm_importance_sampling_cap": None,
    "vllm_importance_sampling_clip_max": 3.0,
    "vllm_importance_sampling_clip_min": None,
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_mode": "sequence_mask",
}
"""The settings of GRPOConfig, and of the script, with a say in the objective or the sampling."""

RLOO: dict[str, Any] = {
    **_SHARED,
    "beta": 0.05,
    "normalize_advantages": False,
    "num_generations": 2,
    "reward_clip_range": None,
}
"""The defaults of RLOOConfig."""

DPO: dict[str, Any] = {
    "beta": 0.1,
    "discopop_tau": 0.05,
    "f_alpha_divergence_coef": 0.5,
    "f_divergence_type": "reverse_kl",
    "gradient_accumulation_steps": 1,
    "label_smoothing": 0.0,
    "ld_alpha": None,
    "loss_type": "sigmoid",
    "loss_weights": None,
    "max_length": 1024,
    "ref_model_mixup_alpha": 0.6,
    "ref_model_sync_steps": 512,
    "router_aux_loss_coef": None,
    "sync_ref_model": False,
    "use_weighting": False,
}
"""The defaults of DPOConfig."""

KNOWN = {"grpo": GRPO, "rloo": RLOO, "dpo": DPO}

# Settings that do not enter the formula: the optimizer, the model, the data, logging, and engines.
_TRAINING = """
    accelerator_config adam_beta1 adam_beta2 adam_epsilon auto_find_batch_size
    average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval data_seed
    dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context
    dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
    dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
    ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm do_eval
    do_predict do_train enable_jit_checkpoint eval_accumulation_steps eval_delay
    eval_do_concat_batches eval_on_start eval_steps eval_strategy eval_use_gather_object fp16
    fp16_full_eval fsdp fsdp_config full_determinism gradient_checkpointing
    gradient_checkpointing_kwargs greater_is_better hub_always_push hub_model_id hub_private_repo
    hub_revision hub_strategy hub_token ignore_data_skip include_for_metrics
    include_num_input_tokens_seen label_names label_smoothing_factor learning_rate
    length_column_name liger_kernel_config load_best_model_at_end local_rank log_level
    log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter logging_steps
    logging_strategy lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps
    metric_for_best_model neftune_noise_alpha num_train_epochs optim optim_args
    optim_target_modules output_dir parallelism_config per_device_eval_batch_size
    prediction_loss_only project push_to_hub remove_unused_columns report_to
    restore_callback_states_from_checkpoint resume_from_checkpoint run_name save_on_each_node
    save_only_model save_steps save_strategy save_total_limit seed skip_memory_metrics tf32
    torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
    trackio_bucket_id trackio_space_id trackio_static_space_id train_sampling_strategy use_cache
    use_cpu use_liger_kernel warmup_steps weight_decay
""".split()
_TRAINER = """
    cache_implementation chat_template_kwargs disable_dropout ds3_gather_for_generation
    generation_kwargs log_completions log_multimodal log_unique_prompts model_init_kwargs
    num_completions_to_print
    num_generations_eval pad_to_multiple_of shuffle_dataset
    transformers_continuous_batching_config trust_remote_code use_transformers_continuous_batching
    use_transformers_paged vllm_enable_sleep_mode vllm_gpu_memory_utilization vllm_group_port
    vllm_max_model_length vllm_mode vllm_model_impl vllm_server_base_url vllm_server_host
    vllm_server_port vllm_server_timeout vllm_structured_outputs_regex vllm_tensor_parallel_size
""".split()
_GRPO_ALONE = """
    cast_lm_head_to_fp32 entropy_coef_delta entropy_coef_max
    entropy_coef_min entropy_target log_completions_hub_repo max_tool_calling_iterations
""".split()
_DPO_ALONE = """
    activation_offloading dataset_num_proc disable_dropout model_init_kwargs pad_to_multiple_of
    pad_token padding_free per_device_train_batch_size precompute_ref_batch_size
    precompute_ref_log_probs truncation_mode trust_remote_code
""".split()
_MIXTURE = "datasets streaming test_split_size".split()
_SCRIPT = """
    attn_implementation bnb_4bit_quant_storage bnb_4bit_quant_type dataset_config dataset_name
    dataset_streaming dataset_test_split dataset_train_split dtype ignore_bias_buffers
    load_in_4bit load_in_8bit lora_alpha lora_dropout lora_modules_to_save lora_r
    lora_target_modules lora_target_parameters lora_task_type model_name_or_path model_revision
    use_bnb_nested_quant use_dora use_peft use_rslora
""".split()

OTHERS: dict[str, frozenset[str]] = {
    "grpo": frozenset([*_TRAINING, *_TRAINER, *_GRPO_ALONE, *_SCRIPT]),
    "rloo": frozenset([*_TRAINING, *_TRAINER, *_SCRIPT]),
    "dpo": frozenset([*_TRAINING, *_DPO_ALONE, *_SCRIPT, *_MIXTURE]),
}
"""All other settings of each trainer."""

ALONE: dict[str, frozenset[str]] = {
    "rloo": frozenset({*RLOO} - {*GRPO}),
    "dpo": frozenset({*DPO, *_DPO_ALONE} - {*GRPO, *RLOO, *OTHERS["grpo"], *OTHERS["rloo"]}),
}
"""Settings by which a configuration is known to be of a trainer."""
