"""Method: a decoding method as a frozen, comparable, serialisable value.

It composes rules, a context and a stop rule; it knows no model, no tokens and no loop. `Method.from_dict` reads the
settings that YAML files, the command line and the server use; `to_dict` is its inverse.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args

from unmask.decode.proposal import Score
from unmask.decode.rules import (
    Anchored,
    ConfidenceCluster,
    Factor,
    Metric,
    Pick,
    Quota,
    Rule,
    Schedule,
    Temporal,
    Threshold,
    TokenCluster,
)
from unmask.errors import ConfigError, unknown

CacheName = Literal["none", "prefix", "dual"]
Check = Literal["every step", "after each finished block", "after a block of nothing else"]
Match = Literal["exact", "subset"]


# --- the parts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CommitQuota:
    """The same number of tokens at every step; `steps` for the whole answer, None: one token a step."""

    rule: ClassVar[str] = "quota"
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class CommitSchedule:
    """Dream's falling timesteps; `steps` for the whole answer, None: as many as tokens. `score` ranks the positions."""

    rule: ClassVar[str] = "schedule"
    steps: int | None = None
    score: Score = "confidence"


@dataclass(frozen=True, kw_only=True)
class CommitThreshold:
    """Every position at least this sure, and always the surest."""

    rule: ClassVar[str] = "threshold"
    threshold: float = 0.9


@dataclass(frozen=True, kw_only=True)
class CommitFactor:
    """As many of the surest as Fast-dLLM's theorem 1 allows, scaled by `factor`."""

    rule: ClassVar[str] = "factor"
    factor: float = 1.0


Commit = CommitQuota | CommitSchedule | CommitThreshold | CommitFactor
COMMITS: Mapping[str, type[Commit]] = {kind.rule: kind for kind in get_args(Commit)}


@dataclass(frozen=True, kw_only=True)
class Suffix:
    """Keep only the `window` next positions behind the block and the last `tail` of the answer."""

    window: int = 32
    tail: int = 1


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """Recompute the prompt's keys and values only at the start of every `prompt_interval`-th block; None: of the first."""

    prompt_interval: int | None = None


@dataclass(frozen=True, kw_only=True)
class DynamicThreshold:
    """Let the threshold fall by this share as the block fills."""

    alpha: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StopAtEos:
    """When to look whether the answer has ended. `eos_id` None: the model's own ids."""

    check: Check = "every step"
    eos_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Draft:
    """FreeDave: guess up to `steps` states of the block and check all of them in one forward."""

    steps: int = 4
    match: Match = "exact"


# --- the whole ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Method:
    """How to decode. Two equal methods decode equally; `replace` from dataclasses changes one.

    Attributes:
        parity: "official" for the published behaviour, quirks included; None for ours.
        max_new_tokens, temperature, top_p, top_k: used where a call gives none of its own; None: the call's default.
        block_length: tokens a block; None: the whole answer is one block.
        commit: the base rule.
        cache, suffix, refresh: what each forward may see and must recompute; no refresh: every block begins with a forward
            over everything that it sees.
        confidence_cluster, token_cluster, temporal: R2-dLLM's rules, None for off.
        dynamic_threshold: Streaming-dLLM's falling threshold.
        stop_at_eos: None decodes every block to the end.
        draft: FreeDave around whatever the rest says.

    >>> Method.from_dict({"commit": {"rule": "threshold", "threshold": 0.8}}).commit
    CommitThreshold(threshold=0.8)
    """

    name: str = ""
    parity: Literal["official"] | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    block_length: int | None = 32
    cache: CacheName = "none"
    commit: Commit = CommitQuota()
    confidence_cluster: ConfidenceCluster | None = None
    token_cluster: TokenCluster | None = None
    temporal: Temporal | None = None
    suffix: Suffix | None = None
    refresh: Refresh | None = None
    dynamic_threshold: DynamicThreshold | None = None
    stop_at_eos: StopAtEos | None = None
    draft: Draft | None = None

    def __post_init__(self) -> None:
        _one_of("parity", self.parity, (None, "official"))
        _one_of("cache", self.cache, get_args(CacheName))
        whole("max_new_tokens", self.max_new_tokens, 1)
        whole("block_length", self.block_length, 1)
        whole("top_k", self.top_k, 1)
        _number("temperature", self.temperature, 0.0, 100.0)
        _number("top_p", self.top_p, 0.0, 1.0)
        if isinstance(self.commit, CommitQuota | CommitSchedule):
            whole("steps", self.commit.steps, 1)
            if self.dynamic_threshold is not None:
                raise ConfigError(f"dynamic_threshold needs the rule threshold, not {self.commit.rule}")
        if isinstance(self.commit, CommitSchedule):
            _one_of("score", self.commit.score, get_args(Score))
        if isinstance(self.commit, CommitThreshold):
            _number("threshold", self.commit.threshold, 0.0, 1.0, required=True)
        if isinstance(self.commit, CommitFactor):
            _number("factor", self.commit.factor, 0.0, 1000.0, required=True)
            if self.dynamic_threshold is not None:
                raise ConfigError("dynamic_threshold needs the rule threshold, not factor")
        if self.confidence_cluster is not None:
            whole("confidence_cluster.size", self.confidence_cluster.size, 1, required=True)
            _number("confidence_cluster.threshold", self.confidence_cluster.threshold, 0.0, 1.0, required=True)
            whole("confidence_cluster.max_unmasked", self.confidence_cluster.max_unmasked, 0)
        if self.token_cluster is not None:
            whole("token_cluster.min_length", self.token_cluster.min_length, 1, required=True)
            _number("token_cluster.threshold", self.token_cluster.threshold, 0.0, 1.0, required=True)
            _one_of("token_cluster.pick", self.token_cluster.pick, get_args(Pick))
        if self.temporal is not None:
            whole("temporal.steps", self.temporal.steps, 1, required=True)
            _number("temporal.threshold", self.temporal.threshold, 0.0, 1.0, required=True)
            _one_of("temporal.metric", self.temporal.metric, get_args(Metric))
        if self.suffix is not None:
            whole("suffix.window", self.suffix.window, 0, required=True)
            whole("suffix.tail", self.suffix.tail, 0, required=True)
        if self.refresh is not None:
            whole("refresh.prompt_interval", self.refresh.prompt_interval, 1)
            if self.cache == "none":
                raise ConfigError("a prompt_interval needs cache=prefix or cache=dual: with cache=none nothing is kept")
            if self.official:
                raise ConfigError("no published decoder has a prompt_interval: take the preset without -official")
        if self.dynamic_threshold is not None:
            _number("dynamic_threshold.alpha", self.dynamic_threshold.alpha, 0.0, 1.0, required=True)
        if self.stop_at_eos is not None:
            _one_of("stop_at_eos.check", self.stop_at_eos.check, get_args(Check))
            whole("stop_at_eos.eos_id", self.stop_at_eos.eos_id, 0)
        if self.draft is not None:
            whole("draft.steps", self.draft.steps, 1, required=True)
            _one_of("draft.match", self.draft.match, get_args(Match))

    # --- what the engine asks

    @property
    def official(self) -> bool:
        return self.parity == "official"

    @property
    def one_per_run(self) -> bool:
        """Ours commits at most one token per run of equal predictions; rules that promise a step count are left alone."""
        return not self.official and isinstance(self.commit, CommitThreshold | CommitFactor)

    @property
    def score(self) -> Score:
        return self.commit.score if isinstance(self.commit, CommitSchedule) else "confidence"

    def anchored(self, *, shifted: bool) -> bool:
        """Whether the published Dream loop applies: the first token of a block is committed by its refresh, come what may."""
        return self.official and shifted and self.cache != "none"

    def block(self, answer_length: int) -> int:
        """Tokens a block for answers of this length. Raises ConfigError if blocks or steps do not come out even."""
        length = self.block_length or answer_length
        if answer_length % length:
            near = next(size for size in range(min(length, answer_length), 0, -1) if answer_length % size == 0)
            raise ConfigError(
                f"block_length {length} does not divide max_new_tokens {answer_length}: use {near}, "
                f"or {-(-answer_length // length) * length} tokens"
            )
        return length

    def steps_per_block(self, answer_length: int) -> int:
        """Steps a block of the rules that fix them (quota, schedule)."""
        assert isinstance(self.commit, CommitQuota | CommitSchedule)
        steps, blocks = self.commit.steps or answer_length, answer_length // self.block(answer_length)
        if steps > answer_length:
            raise ConfigError(
                f"{steps} steps for {answer_length} tokens: some would write nothing, use at most {answer_length}"
            )
        if steps % blocks:
            raise ConfigError(f"steps {steps} is not a multiple of the {blocks} blocks: use {-(-steps // blocks) * blocks}")
        return steps // blocks

    def rules(self, answer_length: int, *, shifted: bool) -> tuple[Rule, ...]:
        """The rules in order, for answers of this length; `shifted` says that row i - 1 of the model predicts token i."""
        base: Rule
        match self.commit:
            case CommitQuota():
                base = Quota.even(self.block(answer_length), self.steps_per_block(answer_length))
            case CommitSchedule():
                base = Schedule(steps=self.steps_per_block(answer_length), at_least_one=not self.official)
            case CommitThreshold(threshold=threshold):
                alpha = 0.0 if self.dynamic_threshold is None else self.dynamic_threshold.alpha
                base = Threshold(threshold=threshold, alpha=alpha, of_query=self.official)
            case CommitFactor(factor=factor):
                base = Factor(factor=factor, official=self.official)
        if self.anchored(shifted=shifted):
            base = Anchored(rule=base)
        # Ours settles runs of equal predictions before a window can swallow them whole.
        spatial = (self.confidence_cluster, self.token_cluster)
        ordered = (base, *(spatial if self.official else reversed(spatial)), self.temporal)
        return tuple(rule for rule in ordered if rule is not None)

    # --- to and from plain data

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read the settings schema. Raises ConfigError that names an unknown key, a missing one or a bad value."""
        parts: dict[str, Any] = {}
        for key, value in settings.items():
            if key == "commit":
                parts[key] = _commit(value)
            elif key in _PARTS and value is not None:
                parts[key] = from_mapping(_PARTS[key], value, key)
            else:
                parts[key] = value
        return from_mapping(cls, parts, "method")

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back; what is None or unnamed is left out."""
        plain: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is not None:
                plain[field.name] = None
            elif is_dataclass(value):
                rule = {"rule": self.commit.rule} if field.name == "commit" else {}
                optional = {"steps", "eos_id"}
                plain[field.name] = rule | {
                    part.name: getattr(value, part.name)
                    for part in fields(value)
                    if getattr(value, part.name) is not None or part.name not in optional
                }
            elif value is not None and value != "":
                plain[field.name] = value
        return plain

    def change(self, **options: Any) -> Self:
        """A copy with these fields changed. Raises ConfigError on a name that is no field."""
        for name in options:
            if name not in self.__dataclass_fields__:
                raise unknown("method setting", name, self.__dataclass_fields__)
        return replace(self, **options)


def published(
    preset: Callable[..., Method], *, stop_at_eos: StopAtEos | None, draft: Draft | None = None, **defaults: Any
) -> Callable[..., Method]:
    """The official twin of a preset: the same options with the published defaults, behaviour and end of an answer."""

    @functools.wraps(preset)
    def official(**options: Any) -> Method:
        ours = preset(**(defaults | options))
        return ours.change(name=f"{ours.name}-official", parity="official", stop_at_eos=stop_at_eos, draft=draft)

    return official


_PARTS: Mapping[str, type[Any]] = {
    "confidence_cluster": ConfidenceCluster,
    "token_cluster": TokenCluster,
    "temporal": Temporal,
    "suffix": Suffix,
    "refresh": Refresh,
    "dynamic_threshold": DynamicThreshold,
    "stop_at_eos": StopAtEos,
    "draft": Draft,
}


T = TypeVar("T")


def from_mapping(kind: type[T], data: Any, where: str) -> T:
    """Build a dataclass from a mapping, strictly: no unknown name, none missing. Raises ConfigError that names it."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {data!r}")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in data:
        if name not in known:
            raise unknown(f"{where} setting", str(name), known)
    for name, field in known.items():
        if field.default is MISSING and name not in data:
            raise ConfigError(f"{where}: the setting '{name}' is missing")
    return kind(**data)


def _commit(data: Any) -> Commit:
    if not isinstance(data, Mapping) or "rule" not in data:
        raise ConfigError(f"commit: expected a mapping with a 'rule' ({', '.join(COMMITS)}), got {data!r}")
    if data["rule"] not in list(COMMITS):  # a list compares, where a mapping would want to hash what may be anything
        raise unknown("commit rule", str(data["rule"]), COMMITS)
    return from_mapping(COMMITS[data["rule"]], {key: value for key, value in data.items() if key != "rule"}, "commit")


def whole(name: str, value: Any, least: int, *, required: bool = False) -> None:
    """Raises ConfigError unless `value` is a whole number of at least `least`, or None where that is allowed."""
    if value is None and not required:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if value >= 2**63:  # they travel as int64, in the same tensors as everybody's
        raise ConfigError(f"{name} must be less than 2**63, got {value}")


def _number(name: str, value: Any, least: float, most: float, *, required: bool = False) -> None:
    if value is None and not required:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"{name} must be a number from {least:g} to {most:g}, got {value!r}")


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")
