"""Method: a decoding method as a frozen, comparable, serialisable value.

It composes rules, a context and a stop rule; it knows no model, no tokens and no loop. `Method.from_dict` reads the
settings that YAML files, the command line and the server use; `to_dict` is its inverse.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

from unmask.decode.around import Anchored, WithinSubBlock
from unmask.decode.commit_head import CommitHead
from unmask.decode.editing import Edit
from unmask.decode.multi_block import MultiBlock
from unmask.decode.proposal import Score
from unmask.decode.redundancy import ConfidenceCluster, Temporal, TokenCluster
from unmask.decode.rule import Commit, Look, Rule, RulePart, Terms
from unmask.decode.rules import Quota
from unmask.decode.settings import (
    Child,
    Part,
    bounds,
    choice_field,
    filled,
    filled_field,
    from_mapping,
    number_field,
    part_field,
    plain,
    text_field,
    whole_field,
)
from unmask.decode.settings import whole as whole  # for the server, which imports nothing of decode
from unmask.errors import ConfigError, unknown
from unmask.methods.parts import PRICE, CacheName, Draft, DynamicThreshold, Refresh, StopAtEos, SubBlocks, Suffix
from unmask.methods.table import commit_rule, commit_rules, rule_name

ANOTHER = "it makes another sample, not a faster one"


@dataclass(frozen=True, kw_only=True)
class Method(Part):
    """How to decode. Two equal methods decode equally; `change` makes another.

    Attributes:
        parity: "official" for the published behaviour, quirks included; None for ours.
        max_new_tokens, temperature, top_p, top_k: used where a call gives none of its own; None: the call's default.
        block_length: tokens per block; None: the whole answer is one block.
        commit: the base rule.
        cache, suffix, refresh: what each forward may see and must recompute; no refresh: every block begins with a forward
            over everything that it sees.
        prefill: "one by one" has an official method on a block-causal model take a forward for each block of the prompt.
        confidence_cluster, token_cluster, temporal: R2-dLLM's rules, None for off.
        edit: LLaDA2.1's rewriting of committed tokens, None for off.
        sub_blocks: Fast-dLLM v2's order within a block; None: tokens are committed anywhere in it.
        dynamic_threshold: Streaming-dLLM's falling threshold.
        stop_at_eos: None decodes every block to the end.
        draft: FreeDave around whatever the rest says.
        blocks: several blocks at once; None: one after the other.
        named: which settings were named, by their dotted paths (`commit.threshold`); no part of equality or `to_dict`.

    >>> Method.from_dict({"commit": {"rule": "threshold", "threshold": 0.8}}).commit
    Threshold(threshold=0.8)
    """

    name: str = text_field(default="")
    parity: Literal["official"] | None = choice_field("official", default=None, none="unset")
    max_new_tokens: int | None = whole_field(1, default=None, none="unset", search="it is what was asked for")
    temperature: float | None = number_field(0.0, 100.0, default=None, none="unset", search=ANOTHER)
    top_p: float | None = number_field(0.0, 1.0, default=None, none="unset", search=ANOTHER)
    top_k: int | None = whole_field(1, default=None, none="unset", search=ANOTHER)
    block_length: int | None = whole_field(1, default=32, none="value", search=f"{PRICE}, and must divide the answer")
    cache: CacheName = choice_field(*get_args(CacheName), default="none")
    commit: Commit = part_field(Commit, default=Quota())
    confidence_cluster: ConfidenceCluster | None = part_field(ConfidenceCluster)
    token_cluster: TokenCluster | None = part_field(TokenCluster)
    temporal: Temporal | None = part_field(Temporal)
    edit: Edit | None = part_field(Edit)
    sub_blocks: SubBlocks | None = part_field(SubBlocks)
    dynamic_threshold: DynamicThreshold | None = part_field(DynamicThreshold)
    suffix: Suffix | None = part_field(Suffix)
    refresh: Refresh | None = part_field(Refresh)
    prefill: Literal["one by one"] | None = choice_field("one by one", default=None, none="unset")
    stop_at_eos: StopAtEos | None = part_field(StopAtEos)
    draft: Draft | None = part_field(Draft)
    blocks: MultiBlock | None = part_field(MultiBlock)
    named: frozenset[str] = filled_field(frozenset(), compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dynamic_threshold is not None and "alpha" not in filled(type(self.commit)):
            raise ConfigError(f"dynamic_threshold needs the rule threshold, not {self.commit.name}")
        if self.sub_blocks is not None and self.commit.moves:
            raise ConfigError(
                f"sub_blocks and the rule {self.commit.name} do not go together: it moves tokens of the whole block"
            )
        if self.sub_blocks is not None and self.blocks is not None:
            raise ConfigError(
                "sub_blocks and several blocks at once do not go together: within sub-blocks one goes after the other"
            )
        if self.refresh is not None and self.cache == "none":
            raise ConfigError("a prompt_interval needs cache=prefix or cache=dual: with cache=none nothing is kept")
        if self.refresh is not None and self.official:
            raise ConfigError("no published decoder has a prompt_interval: take the preset without -official")
        if self.prefill is not None and not self.official:
            raise ConfigError("prefill=one by one is a published loop's: leave it out, or add parity=official")

    # --- what the engine asks

    @property
    def official(self) -> bool:
        return self.parity == "official"

    @property
    def one_per_run(self) -> bool:
        """Ours commits at most one token per run of equal predictions; rules that promise a step count are left alone."""
        return not self.official and not self.commit.counted

    @property
    def score(self) -> Score:
        return self.commit.evidence()

    def anchored(self, *, shifted: bool) -> bool:
        """Whether the published Dream loop applies: the first token of a block is committed by its refresh, come what may."""
        return self.official and shifted and self.cache != "none"

    def block(self, answer_length: int) -> int:
        """Tokens per block for answers of this length. Raises ConfigError if the blocks do not come out even."""
        length = self.block_length or answer_length
        if answer_length % length:
            near = next(size for size in range(min(length, answer_length), 0, -1) if answer_length % size == 0)
            raise ConfigError(
                f"block_length {length} does not divide max_new_tokens {answer_length}: use {near}, "
                f"or {-(-answer_length // length) * length} tokens"
            )
        return length

    def rules(
        self,
        answer_length: int,
        *,
        shifted: bool,
        block: int | None = None,
        marks: tuple[int, ...] = (),
        head: CommitHead | None = None,
    ) -> tuple[Rule, ...]:
        """The rules in order, for answers of this length.

        Args:
            answer_length: in tokens.
            shifted: whether row i - 1 of the model predicts token i.
            block: tokens per block of the grid, where the model is block-causal; steps are then per block.
            marks: the model's ids for DELETE and SPLIT, if it has any.
            head: the model's commit head, if it has one.

        Raises:
            ConfigError: blocks or steps do not come out even, or a rule asks a head and there is none.
        """
        terms = Terms(
            answer_length=answer_length,
            block_length=block or self.block(answer_length),
            on_grid=block is not None,
            edit_threshold=None if self.edit is None else self.edit.threshold,
            max_post_steps=0 if self.edit is None else self.edit.max_post_steps,
            marks=marks,
            head=head,
            official=self.official,
            shifted=shifted,
            alpha=0.0 if self.dynamic_threshold is None else self.dynamic_threshold.alpha,
        )
        base = self.base(terms)
        if self.anchored(shifted=shifted):
            base = Anchored(rule=base)
        # Ours settles runs of equal predictions before a window can swallow them whole.
        spatial: tuple[RulePart | None, ...] = (self.confidence_cluster, self.token_cluster)
        further = (*(spatial if self.official else reversed(spatial)), self.temporal)
        fill = (base, *(rule.bind(terms) for rule in further if rule is not None))
        if self.sub_blocks is not None:
            fill = tuple(WithinSubBlock(rule=rule, length=self.sub_blocks.length) for rule in fill)
        # A rule that moves tokens rewrites them too: both go by the same rounds.
        return fill if self.edit is None or self.commit.moves else (*fill, self.edit.bind(terms))

    def base(self, terms: Terms) -> Rule:
        """The first rule, made for these terms."""
        return self.commit.bind(terms)

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that are on, by the setting that holds them."""
        held = {name: getattr(self, name) for name in bounds(type(self))}
        return {name: part for name, part in held.items() if isinstance(part, Part)}

    @property
    def looks(self) -> dict[str, Look]:
        """How its rules are shown, by their names."""
        return {part.name: part.look for part in self.parts.values() if isinstance(part, RulePart)}

    # --- to and from plain data

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], *, outside: bool = True) -> Self:
        """Read the settings schema; what it holds counts as named.

        Args:
            outside: whether a commit rule may be `package.module:Class`, which is imported: not where a client sends settings.

        Raises:
            ConfigError: an unknown key, a missing one or a bad value; it names the key.
        """
        read = dict(settings) if isinstance(settings, Mapping) else settings
        if isinstance(settings, Mapping) and "commit" in settings:
            read["commit"] = _commit(settings["commit"], outside=outside)
        return from_mapping(cls, read, "method").naming(_paths(settings))

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back; what is None or unnamed is left out."""
        data = plain(self)
        data["commit"] = {"rule": rule_name(type(self.commit))} | data["commit"]
        if not self.name:
            del data["name"]
        return data

    # --- changes

    def change(self, /, **changes: Any) -> Self:
        """A copy with these settings changed, which count as named.

        A key with a dot reaches into a part (`commit.threshold`) and turns it on if it is off; a part may be given as a
        mapping. With a base rule that has no falling threshold an unnamed `dynamic_threshold`, a preset's, goes.
        Raises ConfigError on a name that is no setting.

        >>> Method().change(**{"suffix.window": 16}).suffix
        Suffix(window=16, tail=1)
        """
        new: dict[str, Any] = {}
        inner: dict[str, dict[str, Any]] = {}
        for path, value in changes.items():
            name, _, leaf = path.partition(".")
            if name not in bounds(type(self)):
                raise unknown("method setting", name, bounds(type(self)))
            if leaf:
                inner.setdefault(name, {})[leaf] = value
            elif name == "commit" and isinstance(value, Mapping):
                new[name] = _commit(value, outside=False)
            else:
                new[name] = value
        for name, leaves in inner.items():
            new[name] = _with(type(self), name, new.get(name, getattr(self, name)), leaves)
        for name, value in new.items():
            bound = bounds(type(self))[name]
            if isinstance(bound, Child) and isinstance(value, Mapping):
                new[name] = from_mapping(bound.kind, value, name)
        named = self.named.union(changes)
        commit = new.get("commit")
        if isinstance(commit, Commit) and "alpha" not in filled(type(commit)) and not _names(named, "dynamic_threshold"):
            new["dynamic_threshold"] = None
        return replace(self, **new, named=named) if changes else self

    def naming(self, paths: Iterable[str]) -> Self:
        """The same method, with these settings named as well."""
        named = self.named.union(paths)
        return self if named == self.named else replace(self, named=named)

    def with_defaults(self, own: Mapping[str, Any]) -> Self:
        """A copy whose settings that were not named are `own`'s, a model's own values by their dotted paths.

        A path is left alone if it, what holds it or anything in it was named, or if the method does not have that part or
        setting. Published behaviour is never replaced.

        >>> Method(cache="dual").with_defaults({"block_length": 8, "cache": "none"}).block_length
        8
        """
        if self.official:
            return self
        free = {path: value for path, value in own.items() if not _names(self.named, path) and self.has(path)}
        return replace(self.change(**free), named=self.named) if free else self

    def has(self, path: str) -> bool:
        """Whether it has the setting of this dotted path: a part that is off has none.

        >>> Method().has("commit.steps"), Method().has("suffix"), Method().has("suffix.window")
        (True, True, False)
        """
        name, _, leaf = path.partition(".")
        return (not leaf and name in bounds(type(self))) or (name in self.parts and leaf in bounds(type(self.parts[name])))


def published(
    preset: Callable[..., Method],
    *,
    stop_at_eos: StopAtEos | None,
    draft: Draft | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Callable[..., Method]:
    """The official twin of a preset: the same options with the published settings, behaviour and end of an answer."""

    @functools.wraps(preset)
    def official(**options: Any) -> Method:
        ours = preset(**options)
        changes = {"name": f"{ours.name}-official", "parity": "official", "stop_at_eos": stop_at_eos, "draft": draft}
        return ours.change(**changes, **(settings or {}))

    return official


def _commit(data: Any, *, outside: bool) -> Commit:
    if isinstance(data, Commit):
        return data
    if not isinstance(data, Mapping) or "rule" not in data:
        raise ConfigError(f"commit: expected a mapping with a 'rule' ({', '.join(commit_rules())}), got {data!r}")
    kind = commit_rule(str(data["rule"]), outside=outside)
    return from_mapping(kind, {key: value for key, value in data.items() if key != "rule"}, "commit")


def _with(kind: type[Method], name: str, part: Any, leaves: Mapping[str, Any]) -> Any:
    """A part with some of its settings changed; one that was off begins with its defaults."""
    bound = bounds(kind)[name]
    if not isinstance(bound, Child):
        raise ConfigError(f"{name} is one value, not a mapping: {name}.{next(iter(leaves))} does not exist")
    if isinstance(part, Mapping) or part is None:
        return from_mapping(bound.kind, {**(part or {}), **leaves}, name)
    bound.check(name, part)
    if name == "commit" and "rule" in leaves and leaves["rule"] != rule_name(type(part)):
        return _commit(leaves, outside=False)
    leaves = {leaf: value for leaf, value in leaves.items() if (name, leaf) != ("commit", "rule")}
    for leaf in leaves:
        if leaf not in bounds(type(part)):
            kind_of = f"{name} setting of the rule {part.name}" if isinstance(part, Commit) else f"{name} setting"
            raise unknown(kind_of, leaf, bounds(type(part)))
    return replace(part, **leaves)


def _names(named: Iterable[str], path: str) -> bool:
    """Whether a setting, what holds it or anything in it is among these paths."""
    return any(f"{path}.".startswith(f"{one}.") or f"{one}.".startswith(f"{path}.") for one in named)


def _paths(settings: Mapping[str, Any]) -> list[str]:
    """The dotted paths that a mapping of settings holds."""
    found = []
    for name, value in settings.items():
        found += [f"{name}.{leaf}" for leaf in value] if isinstance(value, Mapping) and value else [name]
    return found
