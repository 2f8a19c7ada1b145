"""The settings of a run: one tree, from the defaults, then a YAML file, then flags.

Unknown keys are refused, with their location and the nearest known key: ignoring a key silently
would start a different run than the one that was asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from objdsl.diagnostic import near
from objdsl.errors import ObjdslError, ObjectiveError
from objdsl.frozen import dataclass
from objdsl.runtime.foreign import pointer

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

TINY = "tiny"
ARITHMETIC = "arithmetic"


class ConfigError(ObjdslError, ValueError):
    """Settings that are no valid run. `problems` has a line for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def _one_or_more(given: Any) -> Any:
    """A single name is a list of one."""
    return [given] if isinstance(given, str) else given


def _of_weight_one(given: Any) -> Any:
    """A reward, or a list of rewards, without weights: each weight is 1."""
    names = _one_or_more(given)
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
    """`arithmetic` (generated), a file (`.jsonl`, `.json`, `.parquet`, `.csv`), a folder with a
    dataset, or the id of one on the Hugging Face hub."""
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
    """Number of digits of each number of `arithmetic`."""
    forgotten_carry: Fraction = 0.7
    """Share of the worked examples of `arithmetic` that forget to carry, and are often wrong."""


class SamplerSection(Section):
    """The engine that samples responses. The objective sets temperature, top-p and top-k."""

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """`auto` uses vLLM if it is installed."""
    prompts: Positive = 16
    """Prompts per step."""
    group: Positive | None = None
    """Responses per prompt; by default what the objective declares, otherwise 8."""
    max_tokens: Positive | None = None
    """Maximum length of a response; by default that of the task (`arithmetic`), otherwise 256."""
    resample: Count = 0
    """Extra sampling rounds per step, to replace the prompts that the objective's `keep` drops."""
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
    when an engine starts; by default 1e-3 in float32 and 0.05 in bfloat16."""


class LearnerSection(Section):
    """The optimizer step."""

    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Peak learning rate of AdamW."""
    critic_lr: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of the critic, if the objective has one; by default `lr`. The critic is a
    linear layer on the policy's last hidden state, which it does not train."""
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
    threads: Positive | None = None
    """CPU threads of the training engine; by default all that the process may use."""
    autocast: bool = False
    """Compute in bfloat16 while the weights keep their dtype (GPU only)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """How the processes of `torchrun` hold the weights: each has all of them (`ddp`) or a shard
    (`fsdp`); `auto` is `ddp` if weights, gradients and AdamW's state fit into half a GPU."""


class WarmStartSection(Section):
    """Supervised training before the first response is sampled, on tasks with worked examples."""

    steps: Count | None = None
    """Number of steps; by default 400 for `tiny`, whose weights are random, and 0 otherwise."""
    batch: Positive = 128
    """Worked examples per step."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """Peak learning rate."""


class ReportSection(Section):
    """What is measured, shown and written during training."""

    evaluate: Count = 25
    """Number of steps between held-out evaluations; 0 evaluates only before and after training."""
    samples: Count = 3
    """Number of responses to show."""
    samples_every: Positive = 50
    """Number of steps between showing responses; all responses of these steps are written to
    `samples.jsonl`."""
    curves: bool = True
    """Plot the metrics to `curves.png` at the end."""
    trackers: Annotated[
        list[Literal["tensorboard", "wandb", "trackio"]], BeforeValidator(_one_or_more)
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
    rewards: Annotated[dict[str, float], BeforeValidator(_of_weight_one)] = {"exact": 1.0}
    """Reward functions, or a table of functions and their weights. A function is a name (`exact`,
    `last_number`) or an import path such as `package.module:function`."""
    reward_deadline: Annotated[float, Field(gt=0)] = 300.0
    """Seconds that a reward function may take for the responses of a step. After that its process
    is killed, and the run ends with a checkpoint."""
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


# --- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    """The location of each value: path of keys -> `run.yaml:3` or `--learner.lr`."""

    places: dict[tuple[str, ...], str]

    def place(self, path: tuple[str, ...]) -> str:
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, "settings")


def read_config(
    file: Path | None = None, flags: Sequence[str] = (), given: Mapping[str, Any] | None = None
) -> Config:
    """The settings of a run: `flags` over `given` over `file` over defaults.

    Flags are as on the command line, `["--learner.lr", "1e-6"]`; keys of `given` are dotted.

    Raises ConfigError with every unknown key and every bad value.
    """
    settings: dict[str, Any] = {}
    places: dict[tuple[str, ...], str] = {}
    if file is not None:
        _read_yaml(file, settings, places)
    for key, value in (given or {}).items():
        _put(settings, tuple(key.split(".")), value)
        places[tuple(key.split("."))] = f"{key}={value}"
    for flag, text in _pairs(flags):
        path = _path(flag.removeprefix("--"))
        _put(settings, path, _scalar(text))
        places[path] = flag
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        parameters = _parameters(settings.get("objective"))
        raise ConfigError([*_problems(error, _Given(places), parameters)]) from None


def _parameters(objective: object) -> tuple[str, ...]:
    """The parameters of the objective that a run names, or none if it cannot be read."""
    from objdsl import driver, gallery

    name = objective if isinstance(objective, str) else Config.model_fields["objective"].default
    try:
        return tuple(one.name for one in driver.compile_source(gallery.find(name)).params)
    except (FileNotFoundError, ObjectiveError):  # the run says so itself
        return ()


# More values than any settings have: nested aliases can stand for any number of them.
_MOST_VALUES = 10_000


class _Loader(yaml.SafeLoader):
    """Reads keys as text: a parameter may be called `on`, `null` or `y`, values in YAML."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = self.DEFAULT_SCALAR_TAG
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path, settings: dict[str, Any], places: dict[tuple[str, ...], str]) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: cannot be read: {error}"]) from None
    try:
        root, loaded = _loaded(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError([f"{file}{line}: not YAML: {getattr(error, 'problem', error)}"]) from None
    if loaded is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError([f"{file}:1: settings are `key: value` lines"])
    repeated = list(_note_lines(root, (), str(file), places))
    if repeated:
        raise ConfigError(repeated)
    settings.update(loaded)


def _loaded(text: str) -> tuple[yaml.Node | None, Any]:
    """A text of YAML, as nodes and as values. Raises YAMLError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and _size(root, {}) > _MOST_VALUES:
            raise yaml.YAMLError(f"it stands for more than {_MOST_VALUES} values")
        return root, yaml.load(text, Loader=_Loader)
    except (RecursionError, ValueError, OverflowError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise yaml.YAMLError(reason) from None


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of values of a node, with aliases expanded."""
    known = sizes.get(id(node))
    if known is not None:
        return known
    sizes[id(node)] = _MOST_VALUES + 1  # until it is known: a node may contain itself
    inner: Iterable[yaml.Node] = ()
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    sizes[id(node)] = 1 + sum(_size(part, sizes) for part in inner)
    return sizes[id(node)]


def _note_lines(
    node: yaml.MappingNode,
    path: tuple[str, ...],
    file: str,
    places: dict[tuple[str, ...], str],
) -> Iterator[str]:
    """Fills `places` with the line of every key; yields a problem for a duplicate key."""
    for key, value in node.value:
        here = (*path, str(key.value))
        place = f"{file}:{key.start_mark.line + 1}"
        if here in places:
            yield f"{place}: `{'.'.join(here)}` is set twice, first at {places[here]}"
        places[here] = place
        if isinstance(value, yaml.MappingNode):
            yield from _note_lines(value, here, file, places)


def _pairs(flags: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`--a.b 1` and `--a.b=1`, both as (`--a.b`, `1`)."""
    rest = iter(flags)
    for flag in rest:
        if not flag.startswith("--") or flag == "--":
            raise ConfigError(
                [f"`{flag}` is not a setting; settings are given as `--learner.lr 1e-6`"]
            )
        name, equals, text = flag.partition("=")
        if not equals:
            following = next(rest, None)
            if following is None or following.startswith("--"):
                raise ConfigError([f"{name} has no value"])
            text = following
        yield name, text


def _path(name: str) -> tuple[str, ...]:
    """`learner.lr` -> ("learner", "lr"); the keys of a table (`rewards`) may have dots."""
    section, _, key = name.partition(".")
    field = Config.model_fields.get(section)
    if key and field is not None and get_origin(field.annotation) is dict:
        return section, key
    return tuple(name.replace("-", "_").split("."))


def _scalar(text: str) -> Any:
    try:
        return _loaded(text)[1]
    except yaml.YAMLError:
        return text


def _put(settings: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        inner = settings.get(key)
        if not isinstance(inner, dict):
            inner = settings[key] = {}
        settings = inner
    settings[path[-1]] = value


def _problems(error: ValidationError, given: _Given, parameters: Collection[str]) -> Iterator[str]:
    for problem in error.errors():
        path = tuple(str(part) for part in problem["loc"])
        place = given.place(path)
        if problem["type"] == "extra_forbidden":
            foreign = [*_foreign(path, problem["input"], given, parameters)]
            yield from foreign or [
                f"{place}: unknown setting `{'.'.join(path)}`{_suggestion(path)}"
            ]
        elif not path:
            yield f"{place}: {problem['msg'].removeprefix('Value error, ')}"
        else:
            message = problem["msg"]
            message = message[0].lower() + message[1:]
            yield f"{place}: `{'.'.join(path)}` is {problem['input']!r}: {message}"


def _foreign(
    path: tuple[str, ...], value: Any, given: _Given, parameters: Collection[str]
) -> Iterator[str]:
    """Pointers for a setting of a different framework, and for all settings below it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _foreign((*path, str(key)), inner, given, parameters)
    elif hint := pointer(path, value, parameters):
        yield f"{given.place(path)}: unknown setting `{'.'.join(path)}`; {hint}"


def _suggestion(path: tuple[str, ...]) -> str:
    section: type[BaseModel] = Config
    for key in path[:-1]:
        inner = section.model_fields[key].annotation
        assert isinstance(inner, type) and issubclass(inner, BaseModel)
        section = inner
    prefix = "".join(f"{key}." for key in path[:-1])
    sibling = near(path[-1], section.model_fields)
    if sibling:
        return f"; did you mean `{prefix}{sibling}`?"
    # `lr` alone is `learner.lr`: the same name elsewhere in the tree is the next best guess.
    everywhere: dict[str, str] = {}
    for name, _, _ in documented():
        # If a name occurs twice (`learner.lr`, `warm_start.lr`), the first one is meant.
        everywhere.setdefault(name.rsplit(".", 1)[-1], name)
    cousin = near(path[-1], everywhere)
    if cousin:
        return f"; did you mean `{everywhere[cousin]}`?"
    return f"; known here: {', '.join(section.model_fields)}"


# --- writing -------------------------------------------------------------------------------------


def documented(
    section: type[BaseModel] = Config, prefix: str = ""
) -> Iterator[tuple[str, Any, str]]:
    """Every setting: its dotted name, its default, its documentation."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from documented(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.default, " ".join((field.description or "").split())


def config_yaml(config: Config) -> str:
    """The resolved configuration as YAML; `read_config` reads the same run back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def commented_yaml(config: Config) -> str:
    """The same with the documentation of every setting above it."""
    return "\n".join(_commented(config, 0)) + "\n"


def _commented(section: BaseModel, depth: int) -> Iterator[str]:
    margin = "  " * depth
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield ""
            yield f"{margin}# {(type(value).__doc__ or '').splitlines()[0]}"
            yield f"{margin}{name}:"
            yield from _commented(value, depth + 1)
            continue
        note = " ".join((field.description or "").split())
        choices = _choices(field.annotation)
        yield f"{margin}# {note}{f' One of {choices}.' if choices else ''}"
        shown = section.model_dump(mode="json", include={name})[name]
        dumped = yaml.safe_dump(shown, default_flow_style=True, allow_unicode=True)
        yield f"{margin}{name}: {dumped.removesuffix(chr(10)).removesuffix(chr(10) + '...')}"


def _choices(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(str(choice) for choice in get_args(annotation))
    return ""
