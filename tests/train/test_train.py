"""Loss, tokenizer, data, and a training that goes on after a kill as if nothing had happened."""

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import log_softmax

import unmask
from unmask.models.network import Network
from unmask.models.toy import MASK as TOY_MASK
from unmask.models.toy import toy
from unmask.tasks import TASKS, problems, sums
from unmask.tasks.problem import Problem
from unmask.train import checkpoint, noise
from unmask.train.data import batch, drill, similar
from unmask.train.loss import Question, ask, weighted
from unmask.train.pretrain import PretrainConfig, lesson, pretrain
from unmask.train.tokenizer import EOS, build, vocabulary
from unmask.train.trainer import Report, Student, TrainingConfig, fit

MIXTURE = dict.fromkeys(TASKS, 1.0)
TOKENIZER = build(vocabulary(MIXTURE), model_max_length=512)


def small(output: Path, steps: int = 6, lessons: int = 2) -> PretrainConfig:
    return PretrainConfig(
        output=str(output),
        mixture={"chain": 1.0, "equations": 1.0},
        width=32,
        layers=1,
        heads=2,
        mlp=32,
        steps=steps,
        lessons=lessons,
        tokens=256,
        warmup=2,
        checkpoint_every=3,
        precision="fp32",
    )


# --- loss -------------------------------------------------------------------------------------------------------------


FAMILIES = ["llada", "dream", "sdar", "shifted"]  # the last is block-causal, and its row i - 1 predicts token i


def example(family: str) -> tuple[Network, torch.Tensor, noise.Hidden]:
    generator = torch.Generator().manual_seed(3)
    network = toy("sdar" if family == "shifted" else family, dtype=torch.float64).network.requires_grad_(True)
    if family == "shifted":
        network.spec = replace(network.spec, lookbehind=1)
    tokens_BT = torch.randint(0, 20, (4, 11), generator=generator)
    answer_BT = torch.zeros(4, 11, dtype=torch.bool)
    answer_BT[:, 3:] = True
    drawn, later = noise.draw_block(answer_BT, 4, torch.tensor([2, 1, 2, 2]), generator)
    made = noise.views(drawn, later, 0.4, generator, complementary=True)
    return network, tokens_BT.repeat(2, 1), made


def losses_of(network: Network, question: Question) -> torch.Tensor:
    losses: torch.Tensor = Student(network)(*question[:4], question.positions_Q, question.mask_QQ)[0]
    return losses


def logits_of(network: Network, noisy: list[int], clean: list[int], place: int) -> torch.Tensor:
    """The logits of one token as in decoding: nothing after its block, and only clean tokens before it."""
    block, shift = network.spec.block, network.spec.lookbehind
    begin, end = (0, len(noisy)) if block is None else (place // block * block, (place // block + 1) * block)
    if block is not None and place == begin and shift:
        end = begin
    logits: torch.Tensor = network(torch.tensor([(clean[:begin] + noisy[begin:])[:end]]))
    return logits[0, place - shift]


def gradients(network: torch.nn.Module) -> list[torch.Tensor]:
    found = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    network.zero_grad()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_formula(family: str) -> None:
    """Against eq. 5 written out token by token in float64: with shifts, and block by block where the model is so."""
    network, tokens_BT, made = example(family)
    question = ask(tokens_BT, made, network.spec)
    loss = weighted(losses_of(network, question), question.weight_N, question.total)
    loss.backward()
    ours = gradients(network)

    slow = torch.zeros((), dtype=torch.float64)
    for row in range(len(tokens_BT)):
        shown = [TOY_MASK if made.hidden_BT[row, place] else int(tokens_BT[row, place]) for place in range(11)]
        for place in range(11):
            if made.weight_BT[row, place] > 0:
                weight = 1 / 0.4 if row < 4 else 1 / 0.6
                logits_V = logits_of(network, shown, tokens_BT[row].tolist(), place)
                slow = slow - weight * log_softmax(logits_V, dim=-1)[tokens_BT[row, place]]
    slow = slow / (8 * 4)  # eight views of blocks of four
    slow.backward()
    torch.testing.assert_close(loss, slow, rtol=1e-6, atol=1e-9)  # the weights are float32
    for mine, reference in zip(ours, gradients(network), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cut", [1, 3, 8])
def test_an_accumulated_batch_is_a_big_batch(cut: int, family: str) -> None:
    network, tokens_BT, made = example(family)
    whole = ask(tokens_BT, made, network.spec)
    weighted(losses_of(network, whole), whole.weight_N, whole.total).backward()
    big = gradients(network)
    parts = [slice(first, first + cut) for first in range(0, 8, cut)]
    questions = [ask(tokens_BT[part], made.rows(part), network.spec) for part in parts]
    assert sum(question.total for question in questions) == whole.total
    for question in questions:
        weighted(losses_of(network, question), question.weight_N, whole.total).backward()
    for mine, reference in zip(gradients(network), big, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", ["dream", "sdar"])
def test_recomputing_layers_changes_no_gradient(family: str) -> None:
    network, tokens_BT, made = example(family)
    question = ask(tokens_BT, made, network.spec)
    found = []
    for network.checkpointing in (False, True):
        losses_of(network, question).sum().backward()
        found.append(gradients(network))
    for kept, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(kept, recomputed)


# --- data -------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.text())
def test_any_text_becomes_known_tokens(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert all(0 <= token < len(TOKENIZER) for token in ids)
    assert isinstance(TOKENIZER.decode(ids), str)


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.sampled_from(sorted(TASKS)))
def test_problems_survive_the_tokenizer_in_whole_words(seed: int, task: str) -> None:
    problem = TASKS[task](random.Random(seed))
    for text in (problem.question, problem.worked, sums.sheet(random.Random(seed), 3)):
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
        assert not any((len(token) == 1 and token.isalpha()) or token.startswith("<0x") for token in TOKENIZER.tokenize(text))
    assert 5 <= len(TOKENIZER.encode(problem.worked)) < 160


def test_a_batch_is_prompts_answers_and_eos() -> None:
    source = list(itertools.islice(problems("chain", "train", seed=0), 50))
    data = batch(TOKENIZER, source, random.Random(3), tokens=1024, block_length=32, longest=128)
    assert data.tokens_BT.shape == data.answer_BT.shape
    assert data.tokens_BT.numel() <= 1024
    for row, mask, problem in zip(data.tokens_BT, data.answer_BT, source, strict=False):
        answer = row[mask].tolist()
        assert len(answer) % 32 == 0
        assert TOKENIZER.decode([token for token in answer if token != EOS]) == problem.worked
        assert answer[-1] == EOS


@pytest.mark.parametrize("block", [4, 16])
def test_on_the_grid_an_answer_ends_with_the_block_of_its_eos(block: int) -> None:
    source = list(itertools.islice(problems("chain", "train", seed=0), 50))
    data = batch(TOKENIZER, source, random.Random(3), tokens=1024, block_length=block, longest=128, on_grid=True)
    starts = set()
    for row, mask, problem in zip(data.tokens_BT, data.answer_BT, source, strict=False):
        places = mask.nonzero()[:, 0].tolist()
        assert places == list(range(places[0], places[-1] + 1))
        assert (places[-1] + 1) % block == 0
        answer = row[mask].tolist()
        assert TOKENIZER.decode(answer[: answer.index(EOS)]) == problem.worked
        assert set(answer[answer.index(EOS) :]) == {EOS}
        assert len(answer) - answer.index(EOS) <= block
        starts.add(places[0] % block)
    assert len(starts) > 1  # prompts end anywhere in a block


def test_similar_problems_are_near_in_length_and_short_ones_come_first() -> None:
    def length(place: int, reach: float, seed: int) -> int:
        drawn = similar(problems("arithmetic", "train", seed=seed), random.Random(seed), pool=60, reach=reach)
        return len(drawn[place].question) + len(drawn[place].worked)

    near = [abs(length(0, 1.0, seed) - length(5, 1.0, seed)) for seed in range(20)]
    far = [abs(length(0, 1.0, seed) - length(59, 1.0, seed)) for seed in range(20)]
    assert sum(near) < sum(far) / 4
    assert sum(length(0, 0.2, seed) for seed in range(20)) < sum(length(0, 1.0, seed) for seed in range(20))


def test_lessons_are_training_problems_of_every_task() -> None:
    config = PretrainConfig(output="", mixture=MIXTURE, tokens=256, longest_answer=32, block_length=32, short=0.0)
    for number in range(20):
        data = lesson(config, TOKENIZER, number)
        for row, mask in zip(data.tokens_BT.tolist(), data.answer_BT.tolist(), strict=True):
            if row[0] == TOKENIZER.convert_tokens_to_ids("<|user|>"):
                question = TOKENIZER.decode(row[1 : row.index(TOKENIZER.convert_tokens_to_ids("<|assistant|>"))])
                assert Problem(task="", question=question, worked="", key="", steps=0).split == "train"
                assert not mask[0]


def test_a_mixture_without_sums_can_be_drilled(tmp_path: Path) -> None:
    config = replace(small(tmp_path, steps=3), mixture={"sorting": 1.0}, drills=1.0)
    assert unmask.load(pretrain(config)).tokenizer is not None


def test_a_drill_hides_results_only() -> None:
    data = drill(TOKENIZER, random.Random(0), tokens=500, count=3)
    for row, mask in zip(data.tokens_BT, data.answer_BT, strict=True):
        sheet = TOKENIZER.decode(row.tolist())
        results = [part.split("= ")[1] for part in sheet.rstrip(".").split(". ")]
        assert TOKENIZER.convert_ids_to_tokens(row[mask].tolist()) == list("".join(results))


# --- the trainer ------------------------------------------------------------------------------------------------------


class Killed(Exception):
    """Simulates a power cut."""


def interrupted(run: Callable[[Callable[[int, dict[str, float]], None]], object], after: int) -> dict[int, float]:
    """Losses of a run that dies after a step, and of its continuation."""
    seen: dict[int, float] = {}

    def report(step: int, measured: dict[str, float]) -> None:
        seen[step] = measured["loss"]
        if step == after:
            raise Killed

    with pytest.raises(Killed):
        run(report)
    run(lambda step, measured: seen.update({step: measured["loss"]}))
    return seen


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole: list[float] = []
    pretrain(small(tmp_path / "whole"), lambda step, measured: whole.append(measured["loss"]))
    # One step after the checkpoint of step 3 is lost, and made again.
    parts = interrupted(lambda report: pretrain(small(tmp_path / "parts"), report), after=4)
    assert [parts[step] for step in range(6)] == whole
    logs = [checkpoint.read_log(tmp_path / name / "log.csv") for name in ("whole", "parts")]
    assert [[row["step"], row["loss"]] for row in logs[0]] == [[row["step"], row["loss"]] for row in logs[1]]
    one, other = [unmask.load(tmp_path / name) for name in ("whole", "parts")]
    for left, right in zip(one.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(left, right)
    assert one.tokenizer.decode(one.tokenizer.encode("Compute 23 + 8.")) == "Compute 23 + 8."
    assert (tmp_path / "whole" / "loss.png").stat().st_size > 1000
    assert "| steps | 6 |" in (tmp_path / "whole" / "README.md").read_text()
    with pytest.raises(unmask.ConfigError, match=r"other settings \(steps\)"):
        pretrain(small(tmp_path / "whole", steps=9))


def test_two_trainings_do_not_write_one_folder(tmp_path: Path) -> None:
    def second(step: int, measured: dict[str, float]) -> None:
        with pytest.raises(unmask.ConfigError, match="is being written by another process"):
            pretrain(small(tmp_path))
        raise Killed

    with pytest.raises(Killed):
        pretrain(small(tmp_path), second)
    assert pretrain(small(tmp_path)) == tmp_path  # what has ended holds nothing


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Accelerator.save_state
    calls = []

    def full(self: Accelerator, folder: str) -> None:
        calls.append(folder)
        if len(calls) == 2:
            (Path(folder) / "model.safetensors").write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(self, folder)

    monkeypatch.setattr(Accelerator, "save_state", full)
    with pytest.raises(OSError, match="No space"):
        pretrain(small(tmp_path))
    assert [path.name for path in checkpoint.found(tmp_path)] == ["checkpoint-000003"]
    seen: list[int] = []
    pretrain(small(tmp_path), lambda step, measured: seen.append(step))
    assert seen == [3, 4, 5]
    assert [path.name for path in checkpoint.found(tmp_path)] == ["checkpoint-000006"]


def test_a_moving_average_is_what_is_kept(tmp_path: Path) -> None:
    """With an average the weights that come back are not the last ones, and a continued run has the same."""
    network, tokens_BT, made = example("llada")
    question = Question(*ask(tokens_BT, made, network.spec))
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}

    def run(folder: str, steps: int, ema: float | None, report: Report | None = None) -> dict[str, torch.Tensor]:
        config = TrainingConfig(
            output=str(tmp_path / folder),
            learning_rate=0.1,
            schedule="constant",
            warmup=0,
            ema=ema,
            precision="fp32",
            checkpoint_every=3,
        )
        network.load_state_dict(start)
        tuner = torch.optim.SGD(network.parameters(), lr=0.1)
        accelerator = Accelerator(cpu=True)
        return fit(accelerator, network, [tuner], lambda step, process, processes: [question], config, steps, report)

    last, mean = run("last", 6, None), run("mean", 6, 0.9)
    name = "model.transformer.wte.weight"
    assert not torch.equal(last[name], mean[name])
    path = start[name].double()
    shadow = path.clone()
    for step in range(6):
        now = run(f"until-{step}", step + 1, None)[name]
        decay = min(0.9, (1 + step) / (10 + step))
        shadow = decay * shadow + (1 - decay) * now
    torch.testing.assert_close(mean[name].double(), shadow, rtol=1e-5, atol=1e-6)
    kept: list[dict[str, torch.Tensor]] = []
    interrupted(lambda report: kept.append(run("parts", 6, 0.9, report)), after=4)
    torch.testing.assert_close(kept[0][name], mean[name])


def test_bad_training_options() -> None:
    chain = {"output": "x", "mixture": {"chain": 1.0}}
    for settings_, said in (
        (chain | {"stepz": 3}, "stepz"),
        ({"output": "x"}, "mixture"),
        (chain | {"schedule": "cosin"}, "did you mean 'cosine'"),
        (chain | {"learning_rate": "2e-5"}, r"2\.0e-5"),
        (chain | {"muon_learning_rate": "1e-2"}, "muon_learning_rate"),
        (chain | {"mixture": {}}, "positive weights"),
        (chain | {"steps": 0}, "steps"),
        (chain | {"ema": 1.5}, "ema"),
        (chain | {"mixture": {"chian": 1.0}}, "did you mean 'chain'"),
        (chain | {"heads": 3}, "heads"),
        (chain | {"longest_answer": 100}, "longest_answer"),
    ):
        with pytest.raises(unmask.ConfigError, match=said):
            PretrainConfig.from_dict(settings_)


def test_a_log_cut_short_is_read_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,2.5\n2,2.25\n3,")
    assert checkpoint.read_log(path) == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25}]
    log = checkpoint.Log(path, done=1)
    log.write(2, {"loss": 2.0})
    assert checkpoint.read_log(path) == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}]
    assert json.dumps(checkpoint.read_log(path))
