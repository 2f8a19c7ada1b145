"""The settings of verl's PPO trainers: those that shape the objective, and all others."""

from __future__ import annotations

from typing import Any

VERSION = "0.9.1"
FUNCTIONS = (
    "agg_loss", "apply_bypass_mode", "apply_kl_penalty", "compute_advantage",
    "compute_advantage_for_multi_trajectories", "compute_gae_advantage_return",
    "compute_gdpo_outcome_advantage", "compute_gpg_outcome_advantage",
    "compute_grpo_outcome_advantage", "compute_grpo_passk_outcome_advantage",
    "compute_grpo_vectorized_outcome_advantage",
    "compute_multi_turn_optimal_token_baseline_advantage", "compute_opo_outcome_advantage",
    "compute_optimal_token_baseline_advantage", "compute_policy_loss_bypass_mode",
    "compute_policy_loss_cispo", "compute_policy_loss_clip_cov", "compute_policy_loss_dppo_kl",
    "compute_policy_loss_dppo_tv", "compute_policy_loss_dro", "compute_policy_loss_geo_mean",
    "compute_policy_loss_gpg", "compute_policy_loss_gspo", "compute_policy_loss_kl_cov",
    "compute_policy_loss_reinforce", "compute_policy_loss_sapo", "compute_policy_loss_vanilla",
    "compute_reinforce_plus_plus_baseline_outcome_advantage",
    "compute_reinforce_plus_plus_outcome_advantage", "compute_remax_outcome_advantage",
    "compute_rloo_outcome_advantage", "compute_rloo_vectorized_outcome_advantage",
    "compute_rollout_correction_and_add_to_batch",
    "compute_rollout_correction_and_rejection_mask", "compute_rollout_correction_weights",
    "compute_rollout_rejection_mask", "compute_value_loss", "kl_penalty", "kl_penalty_forward",
    "masked_mean", "masked_sum", "masked_var", "masked_whiten", "ppo_loss", "update",
    "value_loss",
)  # fmt: skip
DIGESTS = {
    "verl/trainer/ppo/core_algos.py": "353a0f500244e144",
    "verl/trainer/ppo/ray_trainer.py": "8e42cfbd537709d5",
    "verl/trainer/ppo/rollout_corr_helper.py": "a2c14863717c0246",
    "verl/trainer/ppo/v1/utils.py": "54f3b2f61882d936",
    "verl/utils/torch_functional.py": "5d73bf7bbf76c6a3",
    "verl/workers/utils/losses.py": "2ad6516fa6c90fbb",
}
"""What `versions.digest` gives for those functions of the version that was read."""

TREE = "verl/trainer/config/_generated_ppo_trainer.yaml"
"""Where verl writes down its own defaults."""

DEFAULTS: dict[str, Any] = {
    "actor_rollout_ref.actor.calculate_sum_pi_squared": False,
    "actor_rollout_ref.actor.clip_ratio": 0.2,
    "actor_rollout_ref.actor.clip_ratio_c": 3.0,
    "actor_rollout_ref.actor.clip_ratio_high": 0.2,
    "actor_rollout_ref.actor.clip_ratio_low": 0.2,
    "actor_rollout_ref.actor.entropy_coeff": 0,
    "actor_rollout_ref.actor.kl_loss_coef": 0.001,
    "actor_rollout_ref.actor.kl_loss_type": "low_var_kl",
    "actor_rollout_ref.actor.loss_agg_mode": "token-mean",
    "actor_rollout_ref.actor.loss_scale_factor": None,
    "actor_rollout_ref.actor.megatron.context_parallel_size": 1,
    "actor_rollout_ref.actor.megatron.pipeline_model_parallel_size": 1,
    "actor_rollout_ref.actor.megatron.tensor_model_parallel_size": 1,
    "actor_rollout_ref.actor.policy_loss.clip_cov_lb": 1.0,
    "actor_rollout_ref.actor.policy_loss.clip_cov_ratio": 0.0002,
    "actor_rollout_ref.actor.policy_loss.clip_cov_ub": 5.0,
    "actor_rollout_ref.actor.policy_loss.dro_beta": None,
    "actor_rollout_ref.actor.policy_loss.kl_cov_ratio": 0.0002,
    "actor_rollout_ref.actor.policy_loss.loss_mode": "vanilla",
    "actor_rollout_ref.actor.policy_loss.ppo_kl_coef": 0.1,
    "actor_rollout_ref.actor.ppo_epochs": 1,
    "actor_rollout_ref.actor.ppo_micro_batch_size": None,
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": None,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 256,
    "actor_rollout_ref.actor.strategy": "fsdp",
    "actor_rollout_ref.actor.tau_neg": 1.05,
    "actor_rollout_ref.actor.tau_pos": 1.0,
    "actor_rollout_ref.actor.ulysses_sequence_parallel_size": 1,
    "actor_rollout_ref.actor.use_dynamic_bsz": False,
    "actor_rollout_ref.actor.use_kl_loss": False,
    "actor_rollout_ref.model.mtp.enable_train": False,
    "actor_rollout_ref.rollout.calculate_log_probs": True,
    "actor_rollout_ref.rollout.multi_turn.enable": False,
    "actor_rollout_ref.rollout.n": 1,
    "actor_rollout_ref.rollout.response_length": "${oc.select:data.max_response_length,512}",
    "actor_rollout_ref.rollout.temperature": 1.0,
    "actor_rollout_ref.rollout.top_k": -1,
    "actor_rollout_ref.rollout.top_p": 1,
    "algorithm.adv_estimator": "gae",
    "algorithm.filter_groups.enable": False,
    "algorithm.filter_groups.metric": "reward",
    "algorithm.gamma": 1.0,
    "algorithm.kl_ctrl.horizon": 10000,
    "algorithm.kl_ctrl.kl_coef": 0.001,
    "algorithm.kl_ctrl.target_kl": 0.1,
    "algorithm.kl_ctrl.type": "fixed",
    "algorithm.kl_penalty": "kl",
    "algorithm.lam": 1.0,
    "algorithm.norm_adv_by_std_in_grpo": True,
    "algorithm.pf_ppo.reweight_method": "pow",
    "algorithm.pf_ppo.weight_pow": 2.0,
    "algorithm.rollout_correction.bypass_mode": False,
    "algorithm.rollout_correction.loss_type": "ppo_clip",
    "algorithm.rollout_correction.rollout_is": None,
    "algorithm.rollout_correction.rollout_is_batch_normalize": False,
    "algorithm.rollout_correction.rollout_is_threshold": 2.0,
    "algorithm.rollout_correction.rollout_rs": None,
    "algorithm.rollout_correction.rollout_rs_threshold": None,
    "algorithm.use_kl_in_reward": False,
    "algorithm.use_pf_ppo": False,
    "critic.cliprange_value": 0.5,
    "critic.enable": None,
    "critic.loss_agg_mode": "${oc.select:actor_rollout_ref.actor.loss_agg_mode,token-mean}",
    "critic.loss_scale_factor": "${oc.select:actor_rollout_ref.actor.loss_scale_factor,null}",
    "critic.ppo_epochs": "${oc.select:actor_rollout_ref.actor.ppo_epochs,1}",
    "critic.ppo_mini_batch_size": "${oc.select:actor_rollout_ref.actor.ppo_mini_batch_size,256}",
    "data.max_response_length": 512,
    "data.train_batch_size": 1024,
    "distillation.enabled": False,
    "reward.reward_manager.name": "naive",
    "trainer.critic_warmup": 0,
    "trainer.n_gpus_per_node": 8,
    "trainer.nnodes": 1,
    "trainer.use_v1": True,
    "trainer.v1.trainer_mode": "sync",
    # Not in the tree: Hydra adds them, `+algorithm.gdpo_reward_keys=[...]`.
    "algorithm.gdpo_reward_keys": None,
    "algorithm.gdpo_reward_weights": None,
}
"""The settings with a say in the objective or the sampling, with the defaults of the trees."""


def _named(text: str) -> frozenset[str]:
    """Names below their sections, `section:`."""
    names, section = set(), ""
    for word in text.split():
        if word.endswith(":"):
            section = "" if word == "-:" else word[:-1] + "."
        else:
            names.add(section + word)
    return frozenset(names)


OTHERS = _named(
    """
    actor_rollout_ref:
        hybrid_engine nccl_timeout
    actor_rollout_ref.actor:
        calculate_entropy data_loader_seed entropy_checkpointing entropy_from_logits_chunk_size
        entropy_from_logits_with_chunking freeze_vision_tower grad_clip pad_to_length
        ppo_max_token_len_per_gpu rollout_n shuffle use_fused_kernels use_prefix_grouper
        use_remove_padding use_torch_compile
    actor_rollout_ref.model:
        custom_chat_template enable_activation_offload enable_gradient_checkpointing
        exclude_modules external_lib hf_config_path lora_adapter_path lora_alpha lora_rank
        override_config path target_modules tokenizer_path trust_remote_code use_fused_kernels
        use_liger use_remove_padding use_shm
    actor_rollout_ref.ref:
        entropy_checkpointing entropy_from_logits_chunk_size entropy_from_logits_with_chunking
        log_prob_max_token_len_per_gpu log_prob_micro_batch_size log_prob_micro_batch_size_per_gpu
        log_prob_use_dynamic_bsz pad_to_length rollout_n strategy ulysses_sequence_parallel_size
        use_torch_compile
    actor_rollout_ref.rollout:
        cudagraph_capture_sizes data_parallel_size disable_log_stats do_sample dtype
        enable_chunked_prefill enable_prefix_caching enable_rollout_routing_replay enforce_eager
        expert_parallel_size free_cache_engine full_determinism gpu_memory_utilization ignore_eos
        layered_summon load_format log_prob_max_token_len_per_gpu log_prob_micro_batch_size
        log_prob_micro_batch_size_per_gpu log_prob_use_dynamic_bsz logprobs_mode max_model_len
        max_num_batched_tokens max_num_seqs mode moe_load_balance_metrics_interval mtp
        multi_stage_wake_up n_gpus_per_node name nnodes over_sample_rate
        pipeline_model_parallel_size prompt_length qat quantization quantization_config_file
        router_config_path scheduling_policy seed skip_tokenizer_init tensor_model_parallel_size
    algorithm.filter_groups:
        max_inflight_gen_batches max_num_gen_batches
    critic:
        data_loader_seed forward_max_token_len_per_gpu forward_micro_batch_size
        forward_micro_batch_size_per_gpu grad_clip nccl_timeout ppo_max_token_len_per_gpu
        ppo_micro_batch_size ppo_micro_batch_size_per_gpu rollout_n shuffle strategy
        ulysses_sequence_parallel_size use_dynamic_bsz
    data:
        apply_chat_template_kwargs audio_key dataloader_num_workers filter_overlong_prompts
        filter_overlong_prompts_workers function_tool_path gen_batch_size image_key
        image_patch_size max_prompt_length mm_processor_kwargs prompt_key return_full_prompt
        return_multi_modal_inputs return_raw_chat return_raw_input_ids reward_fn_key seed shuffle
        tokenizer tool_config_path train_files train_max_samples truncation trust_remote_code
        use_shm val_batch_size val_files val_max_samples validation_shuffle video_key
    distillation:
        n_gpus_per_node nnodes teacher_key
    trainer:
        balance_batch checkpoint_callback_class default_hdfs_dir default_local_dir
        del_local_ckpt_after_load device esi_redundant_time experiment_name log_val_generations
        logger max_actor_ckpt_to_keep max_critic_ckpt_to_keep project_name
        ray_wait_register_center_timeout resume_from_path resume_mode rollout_data_dir save_freq
        test_freq total_epochs total_training_steps val_before_train val_only validation_data_dir
    """
)
"""Settings that do not enter the formula: the engines, the data, logging."""

SECTIONS = tuple(
    f"{section}."
    for section in sorted(
        _named(
            """
        actor_rollout_ref.actor:
            checkpoint fsdp_config megatron optim profiler qat torchtitan veomni
        actor_rollout_ref.model:
            fused_kernel_options lora mtp tiled_mlp
        actor_rollout_ref.ref:
            fsdp_config megatron optim profiler torchtitan veomni
        actor_rollout_ref.rollout:
            agent checkpoint_engine disaggregation engine_kwargs multi_turn profiler prometheus
            trace val_kwargs
        critic:
            checkpoint fsdp megatron model optim profiler torchtitan veomni
        -:
            custom_reward_function global_profiler hydra ray_kwargs reward reward_model
            sandbox_fusion skip transfer_queue
        data:
            custom_cls
        distillation:
            distillation_loss teacher_models
        trainer:
            v1
        """
        )
    )
)
"""Sections without a say in the loss; whatever they set is known."""
