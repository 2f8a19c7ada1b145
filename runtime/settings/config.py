"""The settings of a run: one tree, from the defaults, then a YAML file, then flags.

Unknown keys are refused, with their location and the nearest known key: ignoring a key silently
would start a different run than the one that was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from objdsl.errors import ObjdslError

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

TINY = "tiny"
ARITHMETIC = "arithmetic"
SECOND_TRY = "second_try"


# Former names of settings.
RENAMED = {"report.evaluate": "evaluation.every"}


class ConfigError(ObjdslError, ValueError):
    """Settings that do not describe a valid run. `problems` has a line for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def _as_list(given: Any) -> Any:
    """A single name as a list."""
    return [given] if isinstance(given, str) else given


def _as_weights(given: Any) -> Any:
    """A reward, or a list of rewards, as a table of weights, which are 1."""
    names = _as_list(given)
    return dict.fromkeys(names, 1.0) if isinstance(names, list) else given


class Section(BaseModel):
    """A frozen group of settings; the docstring under a field is its documentation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class ModelSection(Section):
    """The policy, and the weights that it starts from."""

    name: str = TINY
    """`tiny` (a small Qwen3 with random weights), a Hugging Face id, or a folder."""
    revision: str | None = None
    """Commit or tag of a Hugging Face id."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Dtype of the trained weights. In bfloat16, updates smaller than 1/256 of a weight are rounded
    away; `float32` with `learner.autocast` is as fast and keeps them."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` uses the first GPU if there is one."""
    layers: Positive = 3
    """Number of layers of `tiny`."""
    width: Positive = 128
    """Width of the residual stream of `tiny`."""
    heads: Positive = 4
    """Number of attention heads of `tiny`."""


class TaskSection(Section):
    """The prompts, and the data that responses are scored with."""

    name: str = ARITHMETIC
    """`arithmetic` (generated), `second_try` (the same in two turns, with feedback between them), a
    file (`.jsonl`, `.json`, `.parquet`, `.csv`), a folder with a dataset, or the id of one on the
    Hugging Face hub."""
    revision: str | None = None
    """Commit or tag of a hub dataset."""
    subset: str | None = None
    """Configuration of a hub dataset, such as `main` of `openai/gsm8k`."""
    split: str = "train"
    """Split of a hub dataset to train on."""
    held_out_split: str | None = None
    """Split to evaluate on; by default, a part of the training split is held out."""
    held_out: Count = 500
    """Number of examples to evaluate on. They are never trained on."""
    prompt: str = "prompt"
    """Column with the prompt: a text, or a list of chat messages."""
    answer: str = "answer"
    """Column with the reference answer; all other columns are passed to the reward functions."""
    chosen: str = "chosen"
    """Column with the preferred response, for objectives that learn from preferences."""
    rejected: str = "rejected"
    """Column with the dispreferred response, for objectives that learn from preferences."""
    chat: bool = False
    """Make each text prompt a user message in the tokenizer's chat template."""
    system: str | None = None
    """System message before every prompt; text prompts become chats."""
    chat_options: dict[str, Any] = {}
    """Variables of the chat template, such as `{enable_thinking: false}`."""
    max_prompt_tokens: Positive = 1024
    """Longer prompts are dropped; the log says how many."""
    digits: Positive = 2
    """Number of digits of each number of the generated tasks."""
    forgotten_carry: Fraction = 0.7
    """Share of the worked examples of the generated tasks that forget to carry, and are often
    wrong."""


class SamplerSection(Section):
    """The engine that samples responses. The objective sets temperature, top-p and top-k."""

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """`auto` uses vLLM if it is installed."""
    prompts: Positive = 16
    """Prompts per step."""
    group: Positive | None = None
    """Responses per prompt; by default what the objective declares, otherwise 8."""
    max_tokens: Positive | None = None
    """Maximum length of a response; by default that of a generated task, otherwise 256."""
    resample: Count | None = None
    """Most extra sampling rounds per step, which replace the prompts that the objective's `keep`
    drops; if the step is not full after them, the run ends. By default 10 if a `keep` can be
    decided when sampling; 0 samples once, and leaves fewer prompts to learn from."""
    processes: Positive = 1
    """Number of vLLM engines that share the requests, each in its own process."""
    threads: Positive = 1
    """CPU threads of each vLLM process. More than one is slower when processes share cores."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype that vLLM computes in; `auto` is the one that the training engine computes in."""
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of GPU memory for vLLM; the training engine uses the same GPU."""
    cpu_cache_gib: Positive = 1
    """Size of the key-value cache of each vLLM process on a CPU, in GiB."""
    deadline: Annotated[float, Field(gt=0)] = 600.0
    """Seconds after which an engine that has not answered a call is considered dead."""
    start_deadline: Annotated[float, Field(gt=0)] = 300.0
    """Seconds after which an engine that has not started is considered dead."""
    restarts: Count = 3
    """How often dead engines may be restarted within 100 steps."""
    tolerance: Annotated[float, Field(gt=0)] | None = None
    """Largest mean absolute difference between the log-probabilities of the two engines, measured
    when an engine starts, and on the responses of every step; by default 1e-3 in float32 and 0.05
    in bfloat16. Above it the run ends."""


class LearnerSection(Section):
    """The optimizer step."""

    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Peak learning rate of AdamW."""
    critic: Literal["head", "model"] = "head"
    """The critic, if the objective has one: a linear layer on the policy's last hidden state, which
    it does not train (`head`), or a network of its own (`model`)."""
    critic_model: str | None = None
    """The first weights of a critic that is a network of its own: a language model or a reward
    model, as Hugging Face id or folder; by default those of the policy before the first step."""
    critic_lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of the critic; by default `lr`."""
    critic_warm_up: Count = 0
    """Number of first steps in which nothing but the critic learns."""
    learned_lr: Annotated[float, Field(gt=0)] = 1e-2
    """Peak learning rate of the numbers that the objective learns beside the policy (`learn beta =
    0.1`): AdamW moves each by about this much in a step, without weight decay or clipping."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: Count = 5
    """Number of steps over which the learning rate rises from 0."""
    final_lr: Fraction = 0.1
    """Learning rate of the last step, as a fraction of `lr`."""
    beta1: Fraction = 0.9
    """AdamW's decay rate of the first moment."""
    beta2: Fraction = 0.999
    """AdamW's decay rate of the second moment."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's term in the denominator."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Maximum norm of the gradient; `null` disables clipping."""
    max_skipped: Count = 3
    """Optimizer steps that may be skipped within 100 rollouts because an input, the objective or a
    gradient is not finite; one more ends the run."""
    micro_batch: Positive | None = None
    """Responses per forward pass; by default the whole minibatch. Affects memory, never results."""
    minibatches: Positive = 1
    """Optimizer steps per pass over the sampled responses; groups are never split."""
    epochs: Positive = 1
    """Passes over the sampled responses."""
    head: Literal["auto", "fused", "logits"] = "auto"
    """`fused` computes the loss without storing logits; `auto` does so for vocabularies of 8192
    tokens or more. The results are the same, up to rounding."""
    precision: Literal["inputs", "bf16x2", "bf16x3"] = "inputs"
    """How a fused float32 head is multiplied with bfloat16 states on a GPU: `bf16x2` splits it into
    two bfloat16 parts (16 mantissa bits), `bf16x3` into three (24, exact), at bfloat16 speed;
    `inputs` computes in the dtype of the states."""
    compile: Literal["auto"] | bool = "auto"
    """Whether the objective runs under `torch.compile`; `auto` does so where the run is long enough
    to earn back the compilation. The results are the same, up to rounding."""
    threads: Positive | None = None
    """CPU threads of the training engine; by default all that the process may use."""
    autocast: bool = False
    """Compute in bfloat16 while the weights keep their dtype (GPU only)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """How the processes of `torchrun` hold the weights: each has all of them (`ddp`) or a shard
    (`fsdp`); `auto` is `ddp` if weights, gradients and AdamW's state fit into half a GPU."""

    @model_validator(mode="after")
    def _weights_of_a_model(self) -> LearnerSection:
        if self.critic_model is not None and self.critic != "model":
            raise ValueError(
                f"learner.critic_model is {self.critic_model!r}, but learner.critic is "
                f"`{self.critic}`: set it to `model`"
            )
        return self


class WarmStartSection(Section):
    """Supervised training before the first response is sampled, on tasks with worked examples."""

    steps: Count | None = None
    """Number of steps; by default 400 for `tiny`, whose weights are random, and 0 otherwise."""
    batch: Positive = 128
    """Worked examples per step."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """Peak learning rate."""


class SetSection(Section):
    """Examples to evaluate on, besides those that the task holds out."""

    name: str
    """As `task.name`."""
    revision: str | None = None
    subset: str | None = None
    split: str = "test"
    prompt: str | None = None
    answer: str | None = None


def _as_set(given: Any) -> Any:
    """A name alone as a set."""
    return {"name": given} if isinstance(given, str) else given


class EvaluationSection(Section):
    """How the policy is measured on held-out prompts."""

    every: Count = 25
    """Number of steps between evaluations; 0 evaluates only before and after training."""
    samples: Count = 0
    """Responses to sample per prompt, for Pass@k and Maj@k, besides the greedy one."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of these samples, drawn without top-p and top-k."""
    k: list[Positive] = []
    """The values of k, at most `samples`; by default 1 and `samples`."""
    right: float = 1.0
    """Least reward of a response that counts as right."""
    answers: Literal["auto", "text", "number"] = "auto"
    """What Maj@k counts as the same answer: the same `text`, up to case and spaces, or the same
    last `number`; `auto` is `number` with the reward `last_number`, otherwise `text`."""
    sets: dict[
        Annotated[str, Field(pattern=r"^[\w-]+$")], Annotated[SetSection, BeforeValidator(_as_set)]
    ] = {}
    """Further held-out sets, by name: a file, a folder, or the id of a dataset; or a table with
    `name`, `revision`, `subset`, `split` (by default `test`), `prompt` and `answer` (by default as
    in `task`). At most `task.held_out` examples of each are used."""

    @model_validator(mode="after")
    def _enough_samples(self) -> EvaluationSection:
        if self.k and max(self.k) > self.samples:
            raise ValueError(
                f"k is {max(self.k)}, and evaluation.samples {self.samples}: raise it to k at least"
            )
        return self


class ReportSection(Section):
    """What is shown and written during training."""

    samples: Count = 3
    """Number of responses to show."""
    samples_every: Positive = 50
    """Number of steps between showing responses; all responses of these steps are written to
    `samples.jsonl`."""
    curves: bool = True
    """Plot the metrics to `curves.png` at the end."""
    trackers: Annotated[
        list[Literal["tensorboard", "wandb", "trackio"]], BeforeValidator(_as_list)
    ] = []
    """Where to send metrics besides `metrics.jsonl`: `tensorboard`, `wandb`, `trackio`, or a list
    of these. Each has to be installed."""


class CheckpointSection(Section):
    """What a run can be resumed from."""

    every: Count = 100
    """Number of steps between checkpoints; 0 writes one only at the end."""
    keep: Positive = 2
    """Number of checkpoints to keep; older ones are removed."""


class Config(Section):
    """A training run."""

    objective: str = "grpo"
    """Name of an objective in the gallery, or path of an `.obj` file."""
    params: dict[str, Annotated[float, Field(allow_inf_nan=True)]] = {}
    """Parameters of the objective (`--set eps=0.1`)."""
    policies: dict[str, str] = {}
    """Models of the objective's other policies, such as `teacher`: Hugging Face ids or folders.
    By default `ref` is a copy of the policy before the first step."""
    rewards: Annotated[dict[str, float], BeforeValidator(_as_weights)] = {"exact": 1.0}
    """Reward functions, or a table of functions and their weights. A function is a name (`exact`,
    `last_number`, `math_verify`, `digits`, `turns`), an import path such as
    `package.module:function`, or a sequence classifier, `hf:FOLDER` or `hf:` and its id."""
    reward_deadline: Annotated[float, Field(gt=0)] = 300.0
    """Seconds that a reward function may take for the responses of a step, or for those to a prompt
    if it is `async`. After that it has failed."""
    reward_failures: Fraction = 0.0
    """Share of the prompts of a step for which a reward function may fail: their responses are
    dropped. More failures end the run, with a checkpoint."""
    seed: Count = 0
    """Seed of all random number generators."""
    steps: Positive = 200
    """Number of training steps; each samples responses to a batch of prompts, and learns from
    them."""
    output: Path | None = None
    """Folder of the run; by default `runs/<objective>`, with a number if that exists."""
    model: ModelSection = ModelSection()
    task: TaskSection = TaskSection()
    sampler: SamplerSection = SamplerSection()
    learner: LearnerSection = LearnerSection()
    warm_start: WarmStartSection = WarmStartSection()
    evaluation: EvaluationSection = EvaluationSection()
    report: ReportSection = ReportSection()
    checkpoint: CheckpointSection = CheckpointSection()

    @model_validator(mode="after")
    def _whole_heads(self) -> Config:
        if self.model.width % self.model.heads:
            raise ValueError(
                f"model.width {self.model.width} is not a multiple of "
                f"model.heads {self.model.heads}"
            )
        return self

    @model_validator(mode="after")
    def _whole_groups(self) -> Config:
        if self.learner.minibatches > self.sampler.prompts:
            raise ValueError(
                f"learner.minibatches {self.learner.minibatches} is more than "
                f"sampler.prompts {self.sampler.prompts}: groups are never split"
            )
        return self
