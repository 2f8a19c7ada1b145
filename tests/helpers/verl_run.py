"""verl's trainers, its worker group over Ray and its workers with FSDP, on a CPU.

A program of its own, since verl's platform is that of a process. Packages that serve rollouts,
datasets and the queue are missing, and what they would bring (a batch) is made up.

    python -m helpers.verl_run FOLDER
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from helpers.verl_environment import ENVIRONMENT

os.environ |= ENVIRONMENT

import numpy as np
import ray
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import Tensor
from verl import DataProto
from verl.single_controller.base import Worker
from verl.single_controller.base.decorator import (
    Dispatch,
    make_nd_compute_dataproto_dispatch_fn,
    register,
)
from verl.single_controller.ray import (
    RayClassWithInitArgs,
    RayResourcePool,
    RayWorkerGroup,
)
from verl.trainer.config import CheckpointConfig
from verl.trainer.ppo.ray_trainer import RayPPOTrainer
from verl.workers.config import (
    FSDPEngineConfig,
    HFModelConfig,
    TrainingWorkerConfig,
)
from verl.workers.config.optimizer import FSDPOptimizerConfig
from verl.workers.engine_workers import TrainingWorker

import objdsl
from helpers import gallery_steps, tiny_model
from helpers.absent import without
from helpers.peer_losses import Data
from helpers.verl_engine import batch_of
from objdsl.adapters.needs import UnsupportedError

RATE = 0.1
EPOCHS = 2
RANKS = 2
PROMPTS = 2  # of an optimizer step, each of them answered `GROUP` times
GROUP = 4


class Actor(Worker):  # type: ignore[misc]
    """What is verl's ActorRolloutRefWorker without a rollout."""

    def __init__(self, folder: str) -> None:
        Worker.__init__(self)
        address = f"tcp://127.0.0.1:{os.environ['MASTER_PORT']}"
        dist.init_process_group("gloo", address, rank=self.rank, world_size=self.world_size)
        model = HFModelConfig(
            path=folder,
            override_config={"attn_implementation": "eager"},
            use_remove_padding=False,
            enable_gradient_checkpointing=False,
        )
        full = dict.fromkeys(("param_dtype", "reduce_dtype", "buffer_dtype"), "fp32")
        engine = FSDPEngineConfig(
            strategy="fsdp2",
            use_torch_compile=False,
            dtype="float32",
            mixed_precision=full,
            use_dynamic_bsz=True,
            max_token_len_per_gpu=14,
        )
        optimizer = FSDPOptimizerConfig(
            optimizer="SGD", lr=RATE, weight_decay=0.0, clip_grad=1e9, total_training_steps=100
        )
        self.actor = TrainingWorker(
            TrainingWorkerConfig(
                model_type="language_model",
                model_config=model,
                engine_config=engine,
                optimizer_config=optimizer,
                checkpoint_config=CheckpointConfig(),
            )
        )
        self.actor.reset()
        self.set_dispatch_collect(mesh_name="actor", **self.actor.get_dispatch_collect())

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def set_loss_fn(self, loss_fn: Any) -> None:
        self.actor.set_loss_fn(loss_fn=loss_fn)

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))  # type: ignore[untyped-decorator]
    def update_actor(self, data: Any) -> Any:
        return self.actor.train_mini_batch(data=data).cpu()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    def weights(self) -> dict[str, Tensor]:
        module = self.actor.engine.module
        return {name: x.full_tensor().detach() for name, x in module.named_parameters()}


def config(loss_mode: str, estimator: str = "objdsl") -> Any:
    """What is asked for when an actor is to learn, and before."""
    actor = {
        "strategy": "fsdp2",
        "policy_loss": {"loss_mode": loss_mode},
        "ppo_mini_batch_size": PROMPTS,
        "ppo_epochs": EPOCHS,
        "data_loader_seed": 3,
        "shuffle": False,
        "calculate_entropy": False,
        "entropy_coeff": 0.0,
    }
    rollout = {
        "n": GROUP,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "calculate_log_probs": False,
        "multi_turn": {"enable": False},
    }
    return OmegaConf.create(
        {
            "actor_rollout_ref": {"actor": actor, "rollout": rollout},
            "algorithm": {"adv_estimator": estimator},
            "data": {"train_batch_size": 2 * PROMPTS},
            "trainer": {"use_v1": True},
        }
    )


def trainer(of: type, workers: Any, loss_mode: str) -> Any:
    """A trainer of verl where its actor is to learn."""
    driver = of.__new__(of)
    driver.actor_rollout_wg, driver.config = workers, config(loss_mode)
    return driver


def drawn() -> tuple[Data, DataProto]:
    """Four groups, whose rows are mixed: two optimizer steps, which both ranks share."""
    step = gallery_steps.random_step(11)
    rows = [*range(len(step.prompt)), 0, 1]
    for name, values in vars(step).items():
        if isinstance(values, np.ndarray):
            setattr(step, name, values[rows])
        elif isinstance(values, list):
            setattr(step, name, [values[row] for row in rows])
    step.prompt = [k % (2 * PROMPTS) for k in range(len(rows))]
    d = Data(step)
    for name, column in d.columns.items():
        d.columns[name] = column.detach().float()
    d.columns["reward"] = torch.arange(len(rows)) % 3 / 2
    d.columns["truncated"] = torch.zeros(len(rows), dtype=torch.bool)
    return d, batch_of(d)


def log_probs(model: Any, batch: DataProto, rows: Tensor) -> Tensor:
    """`[n, T]`, without verl."""
    tensors = batch.batch[rows]
    output = model(
        input_ids=tensors["input_ids"],
        attention_mask=tensors["attention_mask"],
        position_ids=tensors["position_ids"],
    )
    width = tensors["responses"].shape[1]
    scores = output.logits[:, -width - 1 : -1].log_softmax(-1)
    return scores.gather(2, tensors["responses"][..., None]).squeeze(2)


def by_hand(model: Any, objective: objdsl.Objective, d: Data, batch: DataProto) -> list[float]:
    """The same steps with the objective alone, in one process; their losses."""
    losses = []
    size = PROMPTS * GROUP
    for _ in range(EPOCHS):
        # As `whole_groups` puts them: the groups of a step in the order of the batch.
        for prompts in ([0, 1], [2, 3]):
            rows = torch.tensor([r for r, prompt in enumerate(d.step.prompt) if prompt in prompts])
            assert len(rows) == size
            columns = {
                name: d[name][rows]
                for name, column in objective.columns.items()
                if not column.trained
            }
            prompt = [d.step.prompt[row] for row in rows.tolist()]
            step = objective.prepare(mask=d.mask[rows], prompt=prompt, **columns)
            out = objective(log_probs(model, batch, rows) * d.mask[rows], step)
            model.zero_grad()
            out.loss.backward()
            losses.append(out.loss.item())
            with torch.no_grad():
                for weight in model.parameters():
                    weight -= RATE * weight.grad
    return losses


def over_ray(folder: Path) -> None:
    """Two steps of two epochs, on two ranks, in micro-batches of a few tokens: losses and weights
    are those of one process that takes each step at once."""
    model = tiny_model.model()
    model.save_pretrained(folder)
    tiny_model.tokenizer().save_pretrained(folder)
    ray.init(
        num_cpus=RANKS + 1,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)}},
    )
    pool = RayResourcePool([RANKS], use_gpu=False, max_colocate_count=1)
    actors = RayClassWithInitArgs(cls=ray.remote(Actor), folder=str(folder))
    workers = RayWorkerGroup(resource_pool=pool, ray_cls_with_init=actors, device_name="cpu")
    for name in ("grpo", "kl_cov"):
        d, batch = drawn()
        before = [x.detach().clone() for x in model.parameters()]
        losses = by_hand(model, objdsl.load(name), d, batch)
        assert any((x != old).any() for x, old in zip(model.parameters(), before, strict=True))
        output = trainer(RayPPOTrainer, workers, f"objdsl:{name}")._update_actor(batch)
        metrics = output.meta_info["metrics"]
        torch.testing.assert_close(metrics["actor/loss"], losses, rtol=1e-4, atol=1e-5)
        for weights in workers.weights():
            for key, expected in model.named_parameters():
                torch.testing.assert_close(weights[key], expected.detach(), rtol=1e-4, atol=1e-5)
        print(f"{name}: {losses}")
    ray.shutdown()


class Queue:
    """Rows of the trainer `v1`: names in a queue, of groups that come mixed."""

    def __init__(self) -> None:
        self.keys = [f"{prompt}_{session}_0" for session in range(GROUP) for prompt in "abcd"]
        self.tags = [{"seq_len": 4 + row} for row in range(len(self.keys))]
        self.extra_info: dict[str, Any] = {}

    def reorder(self, order: list[int]) -> None:
        self.keys = [self.keys[row] for row in order]


class Recorded:
    """A worker group that is told what to do, and does nothing."""

    def __init__(self) -> None:
        self._dispatch_info: dict[str, list[int]] = {}
        self.losses: list[Any] = []
        self.batches: list[Queue] = []

    def _query_dispatch_info(self, name: str) -> list[int]:
        return [0, 0, 1, 1]  # two ranks with two processes each

    def set_loss_fn(self, loss: Any) -> None:
        self.losses.append(loss)

    def update_actor(self, batch: Queue) -> dict[str, Any]:
        self.batches.append(batch)
        return {"metrics": {"mfu": [0.0]}}


def trainers() -> None:
    """Both end before they begin, where settings contradict; the newer one sends whole groups."""
    without("hydra", "transfer_queue")
    v1 = importlib.import_module("verl.trainer.ppo.v1.trainer_sync").PPOTrainerSync
    for make in (v1, lambda config: RayPPOTrainer(config, None, {}, None)):
        try:
            make(config("objdsl:tis", "gae"))
        except UnsupportedError as error:
            assert len(error.reasons) == 2, error.reasons
        else:
            raise AssertionError("nothing was refused")
    workers = Recorded()
    trainer(v1, workers, "objdsl:grpo")._update_actor(Queue(), {})
    (batch,), (loss,) = workers.batches, workers.losses
    assert loss.objective.name == "grpo"
    parts = [batch.keys[:8], batch.keys[8:]]  # of the ranks, half of which is a step's
    for step in (slice(0, 4), slice(4, 8)):
        rows = [key for part in parts for key in part[step]]
        assert len({key[0] for key in rows}) == PROMPTS and len({*rows}) == PROMPTS * GROUP
    print("trainers")


if __name__ == "__main__":
    over_ray(Path(sys.argv[1]))
    trainers()
