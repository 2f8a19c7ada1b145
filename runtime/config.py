"""What a run is: one tree of settings, from defaults, then a YAML file, then flags.

Unknown keys are refused with the nearest known one and the place where they stand, because a key
that is silently ignored is a run that is not the one that was asked for.
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
    """Settings that are not a run. `problems` holds every one that was found, a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def _one_or_more(given: Any) -> Any:
    """A name alone is a list of one."""
    return [given] if isinstance(given, str) else given


def _of_weight_one(given: Any) -> Any:
    """A reward, or a list of them, without weights."""
    names = _one_or_more(given)
    return dict.fromkeys(names, 1.0) if isinstance(names, list) else given


class Section(BaseModel):
    """Frozen, without unknown keys; the docstring under a field is its documentation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class ModelSection(Section):
    """The policy, and what it starts from."""

    name: str = TINY
    """`tiny` (a small Qwen3 with random weights), a Hugging Face id, or a folder."""
    revision: str | None = None
    """Commit or tag of a Hugging Face id."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Type of the weights that the optimizer changes. In bfloat16 a step of less than a 256th of a
    weight is rounded away; `float32` with `learner.autocast` computes as fast, and keeps it."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` takes the first GPU if there is one."""
    layers: Positive = 3
    """Layers of `tiny`."""
    width: Positive = 128
    """Width of the residual stream of `tiny`."""
    heads: Positive = 4
    """Attention heads of `tiny`."""


class TaskSection(Section):
    """The prompts, and what is needed to judge the responses."""

    name: str = ARITHMETIC
    """`arithmetic` (generated), a file (`.jsonl`, `.json`, `.parquet`, `.csv`), a folder with a
    dataset, or the id of one on the Hugging Face hub."""
    revision: str | None = None
    """Commit or tag of a hub dataset."""
    subset: str | None = None
    """Configuration of a hub dataset (`main` of `openai/gsm8k`)."""
    split: str = "train"
    """Split of a hub dataset that is trained on."""
    held_out_split: str | None = None
    """Split that accuracy is measured on; without it, a part of the training split."""
    held_out: Count = 500
    """How many examples accuracy is measured on. They are never trained on."""
    prompt: str = "prompt"
    """Column with the prompt: a text, or a list of chat messages."""
    answer: str = "answer"
    """Column with the reference answer; other columns reach the reward functions as they are."""
    chosen: str = "chosen"
    """Column with the preferred response, for objectives that learn from preferences."""
    rejected: str = "rejected"
    """Column with the other response, for objectives that learn from preferences."""
    chat: bool = False
    """Wrap text prompts as a user's message in the tokenizer's chat template."""
    system: str | None = None
    """A system message before every prompt, which makes a chat of it."""
    chat_options: dict[str, Any] = {}
    """Variables of the chat template, such as `{enable_thinking: false}`."""
    max_prompt_tokens: Positive = 1024
    """Longer prompts are left out, and counted in the log."""
    digits: Positive = 2
    """Digits of each number of `arithmetic`."""
    forgotten_carry: Fraction = 0.7
    """Share of the worked examples of `arithmetic` whose author forgot to carry."""


class SamplerSection(Section):
    """The engine that writes the responses. Temperature, top-p and top-k are the objective's."""

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """`auto` takes vLLM where it is installed."""
    prompts: Positive = 16
    """Prompts per step."""
    group: Positive | None = None
    """Responses per prompt; without it what the objective declares, else 8."""
    max_tokens: Positive | None = None
    """Limit of a response; without it the task's own (`arithmetic`), else 256."""
    resample: Count = 0
    """Extra rounds of sampling per step that replace prompts which the objective's `keep` drops."""
    processes: Positive = 1
    """vLLM engines, each in a process of its own, that share the requests."""
    threads: Positive = 1
    """CPU threads of each vLLM process. More than one is slower as soon as cores are shared."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type that vLLM computes in; `auto` is what the training engine computes in."""
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of the GPU's memory for vLLM, which lives beside the training engine."""
    cpu_cache_gib: Positive = 1
    """Key-value cache of a vLLM process on a CPU."""
    deadline: Annotated[float, Field(gt=0)] = 600.0
    """Seconds after which a call that has not returned counts as a dead engine."""
    start_deadline: Annotated[float, Field(gt=0)] = 300.0
    """The same for the start of the engine."""
    restarts: Count = 3
    """Restarts of a dead engine that are allowed in any 100 steps."""
    tolerance: Annotated[float, Field(gt=0)] | None = None
    """Largest mean |difference| of log-probabilities between the engines after a weight update;
    without it 1e-3 in float32 and 0.05 in bfloat16."""


class LearnerSection(Section):
    """The optimizer step."""

    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Learning rate of AdamW at its highest."""
    critic_lr: Annotated[float, Field(gt=0)] | None = None
    """The same for the critic, where the objective has one: a linear layer that reads the policy's
    last state, and does not move it; without it `lr`."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the rate falls after the warm-up."""
    warmup: Count = 5
    """Steps over which the rate rises from 0."""
    final_lr: Fraction = 0.1
    """The rate at the last step, as a share of `lr`."""
    beta1: Fraction = 0.9
    """AdamW's decay of the first moment."""
    beta2: Fraction = 0.999
    """AdamW's decay of the second moment."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's term in the denominator."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled decay."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of the gradient; `null` leaves it as it is."""
    micro_batch: Positive | None = None
    """Responses per forward pass; without it the whole step. Changes memory, never numbers."""
    minibatches: Positive = 1
    """Optimizer steps per pass over the sampled prompts; groups stay whole."""
    epochs: Positive = 1
    """Passes over the sampled responses."""
    head: Literal["auto", "fused", "logits"] = "auto"
    """`fused` never stores logits; `auto` is that for vocabularies of 8192 words and more. The same
    numbers, up to rounding."""
    precision: Literal["inputs", "bf16x2", "bf16x3"] = "inputs"
    """Of a fused head in float32: `bf16x2` multiplies bfloat16 states by 16 bits of its numbers,
    `bf16x3` by all 24, as fast as bfloat16 products are (GPU)."""
    threads: Positive | None = None
    """CPU threads of the training engine; without it all that the process may use."""
    autocast: bool = False
    """Compute in bfloat16 while the weights keep their type (GPU)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """How the processes of `torchrun` hold the weights: all of them each (`ddp`), or a part each
    (`fsdp`); `auto` is `ddp` where weights, gradient and AdamW fit into half a GPU."""


class WarmStartSection(Section):
    """Supervised steps before the first response is sampled, on a task that has worked examples."""

    steps: Count | None = None
    """Without it 400 for `tiny`, whose weights are random, and 0 for every other model."""
    batch: Positive = 128
    """Worked examples per step."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """Learning rate at its highest."""


class ReportSection(Section):
    """What is written while training."""

    evaluate: Count = 25
    """Steps between two measurements of held-out accuracy; 0 measures before and after only."""
    samples: Count = 3
    """Responses that are shown."""
    samples_every: Positive = 50
    """Steps between two showings; all responses of these steps go to `samples.jsonl`."""
    curves: bool = True
    """Draw `curves.png` at the end."""
    trackers: Annotated[
        list[Literal["tensorboard", "wandb", "trackio"]], BeforeValidator(_one_or_more)
    ] = []
    """Where metrics go besides `metrics.jsonl`: `tensorboard`, `wandb`, `trackio`, or a list of
    them. Each has to be installed."""


class CheckpointSection(Section):
    """What survives a crash."""

    every: Count = 100
    """Steps between two checkpoints; 0 writes one at the end only."""
    keep: Positive = 2
    """The newest ones stay."""


class Config(Section):
    """A training run."""

    objective: str = "grpo"
    """Name in the gallery, or path of an `.obj` file."""
    params: dict[str, Annotated[float, Field(allow_inf_nan=True)]] = {}
    """Parameters of the objective (`--set eps=0.1`)."""
    policies: dict[str, str] = {}
    """Models of the objective's other policies (`teacher`), as a Hugging Face id or a folder.
    `ref` needs none: it is the policy as it was before the first step."""
    rewards: Annotated[dict[str, float], BeforeValidator(_of_weight_one)] = {"exact": 1.0}
    """Reward functions, or a table of them and their weights: names (`exact`, `last_number`), or
    import paths such as `package.module:function`."""
    reward_deadline: Annotated[float, Field(gt=0)] = 300.0
    """Seconds that a reward function may take for the responses of a step. It runs in a process of
    its own, which is ended then, and the run with it, after a checkpoint."""
    seed: Count = 0
    """Of everything that is random."""
    steps: Positive = 200
    """Batches of prompts that are sampled and learned from."""
    output: Path | None = None
    """Folder of the run; without it `runs/<objective>`, numbered if it is taken."""
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
                f"sampler.prompts {self.sampler.prompts}: groups stay whole"
            )
        return self


# --- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    """Where each value was given: path of keys -> `run.yaml:3` or `--learner.lr`."""

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
    """The parameters of the objective that a run names, as far as it can be read."""
    from objdsl import driver, gallery

    name = objective if isinstance(objective, str) else Config.model_fields["objective"].default
    try:
        return tuple(one.name for one in driver.compile_source(gallery.find(name)).params)
    except (FileNotFoundError, ObjectiveError):  # the run says so itself
        return ()


# More values than any settings have. Aliases of aliases stand for any number of them in few bytes.
_MOST_VALUES = 10_000


class _Loader(yaml.SafeLoader):
    """Reads keys as they are written: a parameter may be called `on`, `null` or `y`, which YAML
    takes for values."""

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
    """How many values a node stands for, each alias counted as what it is one of."""
    known = sizes.get(id(node))
    if known is not None:
        return known
    sizes[id(node)] = _MOST_VALUES + 1  # until it is known: a node inside itself has no end
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
    """Fills `places` with the line of every key; yields a problem for a key that comes twice."""
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
    """What is said of a setting of another framework, and of all that stands below it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _foreign((*path, str(key)), inner, given, parameters)
    elif said := pointer(path, value, parameters):
        yield f"{given.place(path)}: unknown setting `{'.'.join(path)}`; {said}"


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
        # Where a name is twice (`learner.lr`, `warm_start.lr`), the first is the one of the run.
        everywhere.setdefault(name.rsplit(".", 1)[-1], name)
    cousin = near(path[-1], everywhere)
    if cousin:
        return f"; did you mean `{everywhere[cousin]}`?"
    return f"; known here: {', '.join(section.model_fields)}"


# --- writing -------------------------------------------------------------------------------------


def documented(
    section: type[BaseModel] = Config, prefix: str = ""
) -> Iterator[tuple[str, Any, str]]:
    """Every setting of the tree: its dotted name, its default, its documentation."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from documented(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.default, " ".join((field.description or "").split())


def config_yaml(config: Config) -> str:
    """The whole resolved configuration as YAML that `read_config` reads back to the same run."""
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
