"""Train a commit head: what says of a frozen model's predictions whether they are final (decode/learned.py).

    unmask train collect --config configs/collect-head-tiny.yaml
    unmask train head --config configs/head-tiny.yaml

The examples are the model's own answers that were judged right. Each is decoded again with its tokens known: at every step
the rule says what it would commit, and of that only the answer's own tokens are written, so that every state leads to this
answer and says of each open position whether its prediction is the answer's token. The first pass decodes by a threshold,
the further ones by the head that the passes before have trained: it learns on the states that it makes.

Shapes: B rows, T positions of a row, L positions of a block, N open positions, C model width, F numbers of evidence.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from unmask.decode.commit_head import FACTS, CommitHead, HeadWeights, facts, logits
from unmask.decode.learned import Learned
from unmask.decode.rule import Commit, best, select
from unmask.decode.rules import Threshold
from unmask.decode.settings import from_mapping, whole
from unmask.decode.step import BlockFacts, propose
from unmask.engine.prompt import encode
from unmask.errors import ConfigError
from unmask.files import read_journal
from unmask.models import commit_head, loading
from unmask.models.denoiser import Denoiser
from unmask.models.prompting import Prompting
from unmask.train.selection import COLLECTED
from unmask.train.trainer import check_number

Report = Callable[[int, str], None]


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The settings of a head's training.

    Attributes:
        model: an embedded model or a checkpoint folder.
        candidates: what `unmask train collect` wrote with this model; the first right answer to each prompt is used.
        output: the file; None: `commit_head.safetensors` beside the weights, where `unmask.load` finds it.
        limit: prompts; of these every eighth is held out to measure the head.
        passes: over all answers.
        threshold: the least confidence of the first pass's commits, and the least probability of the others'.
        width: hidden channels of the head.
        steps: of AdamW per pass, each on `sample` open positions.
        batch: answers decoded at once.
        block_length: of a model of full attention.
    """

    model: str
    candidates: str
    output: str | None = None
    limit: int = 512
    passes: int = 3
    threshold: float = 0.9
    width: int = 128
    steps: int = 1000
    sample: int = 2048
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    batch: int = 32
    block_length: int = 32
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Self:
        """Raises ConfigError on a name that is no field, or where one is missing."""
        return from_mapping(cls, settings, "head")

    def __post_init__(self) -> None:
        for name in ("limit", "passes", "width", "steps", "sample", "batch", "block_length"):
            whole(f"head: {name}", getattr(self, name), 1, required=True)
        for name in ("threshold", "learning_rate", "weight_decay"):
            check_number(f"head: {name}", getattr(self, name), 0.0)


class Answer(NamedTuple):
    """A prompt and its right answer as one row: the answer's EOS stands at `end`, and nothing but filler behind it."""

    tokens: tuple[int, ...]
    prompt: int
    end: int


class Lesson(NamedTuple):
    """Open positions of some states: hidden states, evidence, and whether the prediction is the answer's token."""

    hidden_NC: Tensor
    facts_NF: Tensor
    right_N: Tensor


def train_head(config: HeadConfig, report: Report = lambda done, text: None) -> Path:
    """Train a head and write it; returns its file. `report(passes done, what the last one came to)` follows each pass.

    Raises ConfigError where the answers are another model's, or too few of them are right.
    """
    model = loading.load(config.model, device=config.device, dtype=config.dtype)
    folder = loading.locate(config.model)
    fingerprint = loading.fingerprint(folder)
    answers = read_answers(config, model, fingerprint)
    rule: Commit = Threshold(threshold=config.threshold)
    lessons: list[Lesson] = []
    tests: list[Lesson] = []
    for number in range(config.passes):
        lessons += walk_all(model, rule, [row for place, row in enumerate(answers) if place % 8], config)
        tests = walk_all(model, rule, answers[::8], config)
        weights = fit(joined(lessons), config)
        rule = Learned(threshold=config.threshold, head=CommitHead(weights, fingerprint))
        report(number + 1, measured(weights, joined(tests), config.threshold))
    path = Path(config.output) if config.output else folder / commit_head.FILE
    commit_head.write(CommitHead(weights, fingerprint), path)
    return path


def read_answers(config: HeadConfig, model: Denoiser, fingerprint: str) -> list[Answer]:
    """One right answer per prompt. Raises ConfigError where they are another model's or fewer than 16."""
    provenance, rows = read_journal(Path(config.candidates), "unmask train collect", COLLECTED)
    if provenance.get("weights") != fingerprint:
        raise ConfigError(
            f"{config.candidates}: the answers are those of the weights {provenance.get('weights')}, and {config.model} is "
            f"{fingerprint}: collect them with this model"
        )
    found, asked = [], model.asked(**asdict(Prompting.of(provenance)))
    filler = model.spec.eos_ids[0]
    for row in rows:
        right = [candidate for candidate in row["candidates"] if candidate["right"]]
        if right:
            prompt, written = encode(asked, row["prompt"]), right[0]["token_ids"]
            behind = [filler] * (provenance["max_new_tokens"] - len(written))
            found.append(Answer((*prompt, *written, *behind), len(prompt), len(prompt) + len(written)))
    if len(found) < 16:
        raise ConfigError(f"{config.candidates}: {len(found)} prompts have a right answer: a head needs at least 16")
    return found[: config.limit]


# --- states ---------------------------------------------------------------------------------------------------------------


def walk_all(model: Denoiser, rule: Commit, answers: list[Answer], config: HeadConfig) -> list[Lesson]:
    """What decoding these answers by this rule shows, batch by batch."""
    ordered = sorted(answers, key=lambda row: row.prompt)
    lessons: list[Lesson] = []
    for _, alike in itertools.groupby(ordered, key=lambda row: (row.prompt, len(row.tokens))):
        rows = list(alike)
        for begin in range(0, len(rows), config.batch):
            lessons += walk(model, rule, rows[begin : begin + config.batch], config.block_length)
    return lessons


@torch.inference_mode()
def walk(model: Denoiser, rule: Commit, answers: list[Answer], block_length: int) -> Iterator[Lesson]:
    """Decode rows of one prompt length by a rule of which only the right commits are written; what each step has shown.

    Where the rule takes nothing right, the answer's token is written at the surest open position.
    """
    spec, device = model.spec, model.device
    answer_BT = torch.tensor([row.tokens for row in answers], device=device)
    end_B1 = torch.tensor([[row.end] for row in answers], device=device)
    prompt, total = answers[0].prompt, answer_BT.shape[1]
    length = spec.block or block_length
    for start in range(prompt // length * length if spec.block else prompt, total, length):
        stop = min(start + length, total)
        place_L = torch.arange(start, stop, device=device)
        needed_BL = (place_L <= end_B1) & (place_L >= prompt)
        tokens_BT = answer_BT.clone()
        tokens_BT[:, max(start, prompt) :] = spec.mask_id
        if spec.block:
            tokens_BT = tokens_BT[:, :stop]  # nothing sees what is behind its block
        step = 0
        rows_B = needed_BL.any(dim=1).nonzero()[:, 0]
        while len(rows_B):
            lesson, window_BL = _step(
                model, rule, tokens_BT[rows_B], answer_BT[rows_B, start:stop], needed_BL[rows_B], start, step
            )
            yield lesson
            tokens_BT[rows_B, start:stop] = window_BL
            rows_B = ((tokens_BT[:, start:stop] == spec.mask_id) & needed_BL).any(dim=1).nonzero()[:, 0]
            step += 1


def _step(
    model: Denoiser, rule: Commit, tokens_BT: Tensor, answer_BL: Tensor, needed_BL: Tensor, start: int, step: int
) -> tuple[Lesson, Tensor]:
    """One step: what it shows of the open positions that are needed, and the block afterwards."""
    spec, network, device = model.spec, model.network, model.device
    rows, length = answer_BL.shape
    window_BL = tokens_BT[:, start : start + length]
    place_L = torch.arange(start, start + length, device=device)
    hidden_BLC = network.hidden(tokens_BT)[:, network.predicting(place_L)]
    block = BlockFacts(
        fixed_BL=torch.zeros_like(needed_BL),
        step_B=torch.full((rows,), step, device=device),
        suffix_B=torch.full((rows,), tokens_BT.shape[1] - start - length, device=device),
        sampling=None,
    )
    proposal = propose(
        network.project(hidden_BLC),
        window_BL,
        block,
        mask_id=spec.mask_id,
        eos_E=torch.tensor(spec.eos_ids, device=device),
        score="negative_entropy",
    )._replace(hidden_BLC=hidden_BLC)
    right_BL = proposal.candidate_BL == answer_BL
    asked_BL = proposal.masked_BL & needed_BL
    lesson = Lesson(hidden_BLC[asked_BL], facts(proposal)[asked_BL], right_BL[asked_BL])
    taken_BL = (select([rule], proposal, [None], one_per_run=True).taken_BL > 0) & right_BL
    helped_BL = best(proposal.confidence_BL, asked_BL) & ~(taken_BL & needed_BL).any(dim=1, keepdim=True)
    return lesson, torch.where(taken_BL | helped_BL, answer_BL, window_BL)


def joined(lessons: list[Lesson]) -> Lesson:
    """Lessons as one."""
    return Lesson(*(torch.cat(parts) for parts in zip(*lessons, strict=True)))


# --- the head -------------------------------------------------------------------------------------------------------------


def fit(lesson: Lesson, config: HeadConfig) -> HeadWeights:
    """A head's weights, by the cross-entropy of "is final" over all open positions."""
    device, generator = lesson.right_N.device, torch.Generator().manual_seed(config.seed)
    mean_C = lesson.hidden_NC.float().mean(dim=0)
    scale_C = lesson.hidden_NC.float().std(dim=0).clamp(min=1e-4)
    wide = len(mean_C) + FACTS

    def layer(rows: int, columns: int) -> Tensor:
        drawn = torch.randn(rows, columns + 1, generator=generator) / columns**0.5
        drawn[:, -1] = 0.0
        made: Tensor = drawn.to(device).requires_grad_()
        return made

    weights = HeadWeights(layer(config.width, wide), layer(config.width, config.width), layer(1, config.width))
    optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    for _ in range(config.steps):
        index_N = torch.randint(len(lesson.right_N), (config.sample,), generator=generator).to(device)
        hidden_NC = (lesson.hidden_NC[index_N].float() - mean_C) / scale_C
        said_N = logits(weights, hidden_NC, lesson.facts_NF[index_N])
        loss = binary_cross_entropy_with_logits(said_N, lesson.right_N[index_N].float())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
    return _unscaled(HeadWeights(*(part.detach() for part in weights)), mean_C, scale_C)


def _unscaled(weights: HeadWeights, mean_C: Tensor, scale_C: Tensor) -> HeadWeights:
    """The same function of hidden states as they are."""
    first_HX, channels = weights.first_HX.clone(), len(mean_C)
    first_HX[:, :channels] /= scale_C
    first_HX[:, -1] -= first_HX[:, :channels] @ mean_C
    return weights._replace(first_HX=first_HX)


def measured(weights: HeadWeights, lesson: Lesson, threshold: float) -> str:
    """In words, on held-out answers: what the head takes, how often rightly, and what as many by confidence would be."""
    said_N = torch.sigmoid(logits(weights, lesson.hidden_NC, lesson.facts_NF))
    taken_N, right_N = said_N >= threshold, lesson.right_N
    count = int(taken_N.sum())
    if count == 0:
        return f"takes none of {len(right_N)} open positions at {threshold:g}"
    surest_N = lesson.facts_NF[:, 0].topk(count).indices
    return (
        f"takes {count / len(right_N):.1%} of the open positions at {threshold:g}, "
        f"{right_N[taken_N].float().mean():.2%} right; as many by confidence: {right_N[surest_N].float().mean():.2%}"
    )
