"""Collecting with potential triggers, choosing, fine-tuning, merging, and the estimate of a run's needs."""

import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate import DistributedType
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModel

import unmask
from tests.serve.live import until
from tests.train import gradients
from tests.train.test_train import interrupted
from unmask.decode.memory import Streak
from unmask.decode.proposal import Proposal
from unmask.engine.request import Completion, StepRecord
from unmask.files import read_journal, writing
from unmask.methods import load
from unmask.models import loading
from unmask.models.denoiser import ModelSpec
from unmask.models.toy import CONFIGS, MASK, toy
from unmask.train import adapter, checkpoint, sharding
from unmask.train.batches import questions
from unmask.train.begin import CONFIGS as LAYOUTS
from unmask.train.begin import initialise
from unmask.train.budget import estimate
from unmask.train.collect import CollectConfig, _ended, collect, sources
from unmask.train.pretrain import PretrainConfig, pretrain
from unmask.train.rows import Encoded, Examples, lay_out, order
from unmask.train.selection import choose, examples
from unmask.train.sft import SFTConfig, merge, sft
from unmask.train.tokenizer import build, save, vocabulary
from unmask.train.trajectory import Recorder, Triggers
from unmask.train.verdict import verdicts

ROOT = Path(__file__).parents[2]
MIXTURE = {"chain": 1.0, "equations": 1.0}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained checkpoints of three families with a tokenizer; the third is block-causal, with blocks of eight."""
    tokenizer = build(vocabulary(MIXTURE), model_max_length=256)
    folders = {name: tmp_path_factory.mktemp(name) for name in ("llada", "dream", "sdar")}
    config = PretrainConfig(output="", mixture=MIXTURE, width=32, layers=2, heads=2, mlp=48, max_length=256, block_length=8)
    for name, architecture in (("llada", "LLaDAModelLM"), ("sdar", "SDARForCausalLM")):
        settings = LAYOUTS[architecture](config, len(tokenizer))
        network = loading.build(settings, Path(name)).to_empty(device="cpu")
        initialise(network, torch.Generator().manual_seed(0))
        checkpoint.export(dict(network.state_dict()), settings, folders[name])
    ids = {"vocab_size": len(tokenizer), "eos_token_id": 1, "mask_token_id": 2}
    dream = {**CONFIGS["dream"], **ids, "max_position_embeddings": 256}
    network = loading.build(dream, Path("dream")).to_empty(device="cpu")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    checkpoint.export(dict(network.state_dict()), dream, folders["dream"])
    for folder in folders.values():
        save(tokenizer, folder)
    return folders


def collected(path: Path, count: int = 12) -> Path:
    """A collected file of short answers, the third candidate of each the least redundant."""
    tokenizer = build(vocabulary(MIXTURE), model_max_length=256)
    lines: list[dict[str, Any]] = [{"provenance": {"model": "made by hand"}}]
    for number in range(count):
        texts = [f"{number} + {choice} = {number + choice}. The answer is {number + choice}." for choice in range(4)]
        lines.append(
            {
                "id": number,
                "task": "chain",
                "prompt": f"Compute {number} + 2.",
                "key": str(number + 2),
                "candidates": [
                    {
                        "text": text,
                        "token_ids": tokenizer.encode(text),
                        "steps": list(range(1, len(tokenizer.encode(text)) + 1)),
                        "seed": choice,
                        "right": choice > 0,
                        "tokens": len(tokenizer.encode(text)),
                        "forwards": 5,
                        "triggers": Triggers(windows=[0, 6, 2, 9][choice]).to_dict(),
                    }
                    for choice, text in enumerate(texts)
                ],
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def tuning(base: Path, tmp_path: Path, **changes: Any) -> SFTConfig:
    data = tmp_path / "candidates.jsonl"
    if not data.exists():
        collected(data)
    settings: dict[str, Any] = {
        "model": str(base),
        "data": str(data),
        "output": str(tmp_path / "tuned"),
        "lora": {"rank": 4, "alpha": 8},
        "length": 96,
        "batch_size": 4,
        "micro_batch": 3,
        "epochs": 2,
        "learning_rate": 0.01,
        "checkpoint_every": 2,
        "precision": "fp32",
    }
    return SFTConfig.from_dict(settings | changes)


# --- triggers ---------------------------------------------------------------------------------------------------------


def record(
    block: list[int], candidate: list[int], confidence: list[float], committed: list[int], *, refresh: bool
) -> StepRecord:
    return StepRecord(
        forward=0,
        rows=[0],
        refresh=[refresh],
        query_tokens=[[]],
        committed=[[10 + place for place in committed]],
        tokens=[[]],
        rule=[[]],
        prompt=[10],
        start=[10],
        block=[block],
        candidate=[candidate],
        confidence=[confidence],
    )


def test_potential_triggers_by_hand() -> None:
    """Two sure windows in one stretch, one run, a stable prediction in the third step; EOS counts for nothing."""
    rules = load("r2-dllm")
    recorder = Recorder(rules, prompts=1, mask_id=99, ends=[1])
    #         two windows of three     a run    alone   taken  EOS
    candidate = [5, 6, 7, 8, 20, 30, 30, 20, 40, 20, 50, 1, 1, 1]
    confident = [0.85, 0.82, 0.86, 0.81, 0.1, 0.85, 0.5, 0.1, 0.75, 0.1, 0.95, 0.88, 0.88, 0.88]
    block = [99] * 14
    recorder(record(block, candidate, confident, [10], refresh=True))
    assert recorder.triggers[0] == Triggers(windows=2, components=1, positions=4, runs=1, temporal=0)
    block[10] = 50
    recorder(record(block, candidate, confident, [], refresh=False))
    recorder(record(block, candidate, confident, [], refresh=False))
    # In the third step 40 (0.75) is stable; what windows and runs would have taken is not watched.
    assert recorder.triggers[0] == Triggers(windows=6, components=3, positions=12, runs=3, temporal=1)


def test_steps_by_hand() -> None:
    """Each token's forward, counted per row; a rewritten token has its last one."""
    recorder = Recorder(load("r2-dllm"), prompts=2, mask_id=99, ends=[1])
    one = record([99] * 4, [5] * 4, [0.1] * 4, [1, 2], refresh=True)
    both = StepRecord.of_batch([one, record([99] * 4, [5] * 4, [0.1] * 4, [0, 2], refresh=False)], forward=1, rows=[1, 0])
    recorder(one)
    recorder(both)
    recorder(record([5, 5, 5, 99], [5] * 4, [0.1] * 4, [3], refresh=False))
    assert recorder.forwards == [3, 1]
    assert recorder.steps == [{1: 1, 2: 2, 0: 2, 3: 3}, {1: 1, 2: 1}]


def test_potential_triggers_are_what_the_rules_would_take() -> None:
    """Against a decode by the reference loop: the recorder on a rule-free decode, the rules asked one by one."""
    model, rules = toy("llada", sharpness=3.0), load("r2-dllm", threshold=0.97)
    recorder = Recorder(rules, prompts=3, mask_id=MASK, ends=model.spec.eos_ids)
    records: list[StepRecord] = []

    def both(step: StepRecord) -> None:
        recorder(step)
        records.append(step)

    prompts = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    unmask.generate(model, prompts, method=load("fast-dllm", threshold=0.97), max_new_tokens=64, observer=both)
    expected = [Triggers() for _ in prompts]
    streaks = [Streak.empty(1, 32, torch.device("cpu"), torch.float32) for _ in prompts]
    cluster, run, temporal = (
        rules.rules(64, shifted=False)[2],
        rules.rules(64, shifted=False)[1],
        rules.rules(64, shifted=False)[3],
    )
    for step in records:
        for place, row in enumerate(step.rows):
            candidate = torch.tensor([step.candidate[place]])
            masked = torch.tensor([step.block[place]]) == MASK
            still = masked.clone()
            still[0, [position - step.start[place] for position in step.committed[place]]] = False
            still &= candidate != model.spec.eos_ids[0]
            proposal = Proposal(
                candidate,
                torch.tensor([step.confidence[place]]),
                torch.tensor([step.confidence[place]]),
                masked,
                still,
                ~still,
                torch.tensor([0 if step.refresh[place] else 1]),
                torch.tensor([0]),
                torch.tensor([step.block[place]]),
                torch.zeros_like(masked),
            )
            for rule, name in ((cluster, "positions"), (run, "runs"), (temporal, "temporal")):
                mask, memory = rule(proposal, streaks[row] if name == "temporal" else None)
                if name == "temporal":
                    streaks[row] = memory
                setattr(expected[row], name, getattr(expected[row], name) + int(mask.sum()))
                proposal = proposal._replace(open_BL=proposal.open_BL & ~mask)
    for counted, right in zip(recorder.triggers, expected, strict=True):
        assert (counted.positions, counted.runs, counted.temporal) == (right.positions, right.runs, right.temporal)
    assert sum(counted.temporal for counted in recorder.triggers) > 0
    assert sum(counted.positions for counted in recorder.triggers) > 0


def test_verdicts() -> None:
    texts = [r"so \boxed{12}", "#### 12", "The answer is 12.", "It is 1,012", "nothing"]
    assert verdicts(texts, "12") == [True, True, True, False, False]
    assert verdicts(texts, None) == [True, True, True, False, False]
    assert verdicts(["1", "1", "2", "2"], None) == [False] * 4  # a tie is no majority
    assert verdicts(["1", "2", "3"], None) == [False] * 3
    assert verdicts(["#### 1,000", "The answer is **1000**."], "1,000") == [True, True]
    assert verdicts(["#### 72", "So 71."], "She sold 72 clips in all.\n#### 72") == [True, False]
    halves = [r"\boxed{\frac{1}{2}}", r"\boxed{\frac{3}{2}}", r"so \boxed{\frac{1}{2}}."]
    assert verdicts(halves, None) == [True, False, True]
    assert verdicts(halves, r"\frac{3}{2}") == [False, True, False]


# --- collecting -------------------------------------------------------------------------------------------------------


def collecting(base: Path, tmp_path: Path, **changes: Any) -> CollectConfig:
    settings = {"model": str(base), "output": str(tmp_path / "made" / "candidates.jsonl"), "limit": 5, "max_new_tokens": 32}
    return CollectConfig.from_dict(settings | {"mixture": MIXTURE, "candidates": 3, "batch": 2} | changes)


def test_collecting_goes_on_where_it_was(bases: dict[str, Path], tmp_path: Path) -> None:
    whole = collect(collecting(bases["llada"], tmp_path))
    provenance, lines = read_journal(whole, "collect")
    assert provenance["method"]["name"] == "fast-dllm"
    assert [line["id"] for line in lines] == list(range(5))
    for line in lines:
        assert len({candidate["seed"] for candidate in line["candidates"]}) == 3
        for candidate in line["candidates"]:
            assert set(candidate["triggers"]) == {"windows", "components", "positions", "runs", "temporal"}
            assert len(candidate["token_ids"]) == len(candidate["steps"]) == candidate["tokens"]
            assert 1 <= max(candidate["steps"]) <= candidate["forwards"]
    other = collecting(bases["llada"], tmp_path, output=str(tmp_path / "cut.jsonl"))
    text = whole.read_text()
    Path(other.output).write_text(text[: text.index('{"id": 3') + 20])
    assert collect(other).read_text() == text
    with pytest.raises(unmask.ConfigError, match="other settings"):
        collect(collecting(bases["llada"], tmp_path, temperature=0.5))


def test_a_collection_that_was_killed_goes_on_and_has_one_writer(bases: dict[str, Path], tmp_path: Path) -> None:
    config, other = (collecting(bases["llada"], tmp_path, limit=30, output=str(tmp_path / name)) for name in ("a", "b"))
    code = "import json, sys; from unmask.train.collect import *; collect(CollectConfig.from_dict(json.loads(sys.argv[1])))"
    settings = {name: value for name, value in asdict(config).items() if value is not None}
    environment = os.environ | {"PYTHONPATH": str(Path(unmask.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", code, json.dumps(settings)], env=environment) as child:
        until(lambda: Path(config.output).exists() and Path(config.output).read_bytes().count(b"\n") > 2, 120)
        child.send_signal(signal.SIGSTOP)  # a process that stands still holds what it holds
        with pytest.raises(unmask.ConfigError, match="is being written by another process"):
            collect(config)
        child.send_signal(signal.SIGKILL)
    assert collect(config).read_text() == collect(other).read_text()


def test_a_collection_that_failed_at_once_leaves_nothing_in_the_way(bases: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(unmask.ConfigError, match="no such file"):
        collect(collecting(bases["llada"], tmp_path, mixture=None, prompts=str(tmp_path / "none.jsonl")))
    assert len(read_journal(collect(collecting(bases["llada"], tmp_path)), "collect")[1]) == 5


def test_what_a_model_wrote_is_kept_with_the_end_of_its_turn() -> None:
    def answer(ids: list[int], tokens: int) -> Completion:
        return Completion(
            text="",
            token_ids=ids,
            tokens=tokens,
            forwards=1,
            query_tokens=1,
            finish_reason="stop",
            seconds=0.0,
            method=unmask.method("vanilla"),
            commits={},
        )

    spec = ModelSpec(mask_id=9, eos_ids=(1,), vocab_size=10, max_length=64, turn_ids=(3,))
    assert _ended(answer([5, 6, 3, 1], 2), spec) == [5, 6, 3]
    assert _ended(answer([5, 6, 1, 1], 2), spec) == [5, 6]
    assert _ended(answer([5, 6, 7, 8], 4), spec) == [5, 6, 7, 8]


def test_prompts_are_training_problems(bases: dict[str, Path], tmp_path: Path) -> None:
    drawn = list(itertools.islice(sources(collecting(bases["llada"], tmp_path)), 60))
    assert {prompt.problem.split for prompt in drawn if prompt.problem} == {"train"}
    assert len({prompt.text for prompt in drawn}) == 60


def test_collecting_from_a_file_of_prompts(bases: dict[str, Path], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Compute 3 + 4.", "answer": 7}\n{"prompt": "Compute 1 + 1."}\n')
    config = collecting(bases["llada"], tmp_path, mixture=None, prompts=str(prompts))
    lines = read_journal(collect(config), "collect")[1]
    assert [(line["prompt"], line["key"]) for line in lines] == [("Compute 3 + 4.", "7"), ("Compute 1 + 1.", None)]
    prompts.write_text('{"question": "Compute 3 + 4."}\n')
    with pytest.raises(unmask.ConfigError, match=r"prompts.jsonl:1: expected"):
        collect(collecting(bases["llada"], tmp_path, mixture=None, prompts=str(prompts), output=str(tmp_path / "new.jsonl")))


def test_bad_collecting_options(bases: dict[str, Path], tmp_path: Path) -> None:
    for changes, said in (
        ({"limits": 3}, "did you mean 'limit'"),
        ({"prompts": "x.jsonl"}, "either a mixture"),
        ({"temperature": 0.0}, "temperature"),
        ({"candidates": 0}, "candidates"),
    ):
        with pytest.raises(unmask.ConfigError, match=said):
            collecting(bases["llada"], tmp_path, **changes)
    with pytest.raises(unmask.ConfigError, match="must not have R2-dLLM's rules"):
        collect(collecting(bases["llada"], tmp_path, method="r2-dllm"))
    with pytest.raises(unmask.ConfigError, match="turn a rule off"):
        collect(collecting(bases["llada"], tmp_path, rules={"temporal_steps": None}))


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_choosing(tmp_path: Path) -> None:
    path = collected(tmp_path / "candidates.jsonl")
    line = read_journal(path, "collect")[1][0]
    pick = {"spatial": "windows", "per_token": True, "seed": "0"}
    assert choose(line["candidates"], "lowest", **pick)["seed"] == 2
    assert choose(line["candidates"], "highest", **pick)["seed"] == 3
    drawn = [choose(line["candidates"], "random", **(pick | {"seed": str(seed)}))["seed"] for seed in range(50)]
    assert set(drawn) == {1, 2, 3}
    assert choose(line["candidates"][:1], "lowest", **pick) is None
    found = examples(path, "lowest", spatial="windows", per_token=True, seed=0)
    assert len(found) == 12
    assert found[3].prompt == "Compute 3 + 2."
    path.write_text("nonsense\n")
    with pytest.raises(unmask.ConfigError, match="not a file of"):
        examples(path, "lowest", spatial="windows", per_token=True, seed=0)
    with pytest.raises(unmask.ConfigError, match="unmask train collect"):
        examples(tmp_path / "none.jsonl", "lowest", spatial="windows", per_token=True, seed=0)


def test_a_count_per_token_does_not_favour_short_answers() -> None:
    short = {"right": True, "tokens": 10, "triggers": Triggers(windows=2).to_dict()}
    long = {"right": True, "tokens": 100, "triggers": Triggers(windows=5).to_dict()}
    assert choose([short, long], "lowest", spatial="windows", per_token=True, seed="") is long
    assert choose([short, long], "lowest", spatial="windows", per_token=False, seed="") is short


# --- fine-tuning ------------------------------------------------------------------------------------------------------


def test_every_example_comes_once_per_epoch() -> None:
    config = SFTConfig(output="", model="", data="", batch_size=4)
    for epoch in range(3):
        seen = [index for step in range(3) for index in order(12, config, 3 * epoch + step)]
        assert sorted(seen) == list(range(12))
    assert order(12, config, 0) != order(12, config, 3)


@pytest.mark.parametrize("objective", ["block", "masked"])
def test_masks_depend_on_neither_split(objective: str) -> None:
    """The questions of a step are the same for any micro-batch and any number of processes."""
    pairs = [Encoded.of([5, 6, 7], range(8, 20 + row)) for row in range(7)]
    laid = Examples(examples=pairs, length=40, block_length=8, eos_id=1, on_grid=False, fill="length")
    spec = ModelSpec(mask_id=2, eos_ids=(1,), vocab_size=40, max_length=64)

    def shown(micro: int, processes: int) -> list[list[int]]:
        config = SFTConfig(
            output="", model="", data="", batch_size=5, micro_batch=micro, objective=objective, block_length=8, length=40
        )
        rows = laid.rows(config, 4)
        parts = [part for process in range(processes) for part in questions(rows, config, spec, 4, process, processes)]
        return [row for part in parts for row in part.input_BQ.tolist()]

    assert shown(1, 1) == shown(16, 1) == shown(3, 2) == shown(2, 4)
    with pytest.raises(unmask.ConfigError, match="raise batch_size"):
        shown(1, 11)


@pytest.mark.parametrize("objective", ["block", "masked"])
def test_a_block_causal_model_is_asked_about_all_blocks_at_once(objective: str, bases: dict[str, Path]) -> None:
    """Blocks lie on the grid, the first one with the prompt's tail, and the last one holds the first EOS."""
    pairs = [([5, 6, 7], list(range(8, 20 + row))) for row in range(7)]
    examples = [Encoded.of(*pair) for pair in pairs]
    rows = lay_out(examples, length=40, block_length=8, eos_id=1, on_grid=True)
    for (prompt, answer), mask, blocks in zip(pairs, rows.answer_BT, rows.blocks_B.tolist(), strict=True):
        places = mask.nonzero()[:, 0].tolist()
        assert places == list(range(3, 8 * blocks))
        assert 0 < 8 * blocks - len(prompt) - len(answer) <= 8
    spec = unmask.load(bases["sdar"]).spec
    config = SFTConfig(output="", model="", data="", batch_size=4, micro_batch=8, objective=objective, length=40)
    laid = Examples(examples=examples, length=40, block_length=8, eos_id=1, on_grid=True, fill="length")
    (part,) = questions(laid.rows(config, 0), config, spec, 0, 0, 1)
    picked = rows.answer_BT[order(len(pairs), config, 0)]
    asked = torch.zeros_like(picked.repeat(2, 1) if objective == "block" else picked)
    assert part.positions_Q is not None
    asked[part.row_N, part.positions_Q[part.place_N]] = True
    if objective == "block":
        assert torch.equal(asked[:4] ^ asked[4:], picked)  # the second view hides what the first one shows
    else:
        assert not (asked & ~picked).any()
    with pytest.raises(unmask.ConfigError, match="has blocks of 8 tokens; leave it out"):
        replace(config, block_length=16).block(spec)


@pytest.mark.parametrize("family", ["llada", "dream", "sdar"])
def test_lora_learns_merges_and_loads_everywhere(family: str, bases: dict[str, Path], tmp_path: Path) -> None:
    config = tuning(bases[family], tmp_path, epochs=20)
    losses: list[float] = []
    folder = sft(config, lambda step, measured: losses.append(measured["loss"]))
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.98 * sum(losses[:10])  # adapters of an untrained model under a frozen head learn little
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
    for step in (sft, merge):
        with writing(folder), pytest.raises(unmask.ConfigError, match="is being written by another process"):
            step(config)
    whole = merge(config)
    tuned, base = unmask.load(whole), unmask.load(bases[family])
    tokens = torch.arange(20, 50)[None]
    ours = tuned.network(tokens)
    assert not torch.allclose(ours, base.network(tokens), atol=1e-2)
    # The same weights through transformers, and through peft on top of the base.
    torch.testing.assert_close(AutoModel.from_pretrained(whole)(tokens).logits, ours)
    from peft import PeftModel

    beside = PeftModel.from_pretrained(AutoModel.from_pretrained(bases[family]), folder)
    torch.testing.assert_close(beside(tokens).logits, ours, rtol=1e-4, atol=1e-4)
    assert unmask.generate(tuned, ["Compute 3 + 2."], max_new_tokens=32)[0].forwards > 0


# Every switch of the objective, in two settings that go together (tests/train/test_objective.py says what each does).
SWITCHED: dict[str, dict[str, Any]] = {
    "off": {},
    "noise": {"mask_rate": [0.1, 0.8], "rising": True, "block_length": [8, 16], "wrong": 0.2, "draw": "blocks"},
    "taught": {"window": "answer", "pattern": "trajectory", "near": 3, "on_policy": 0.5, "certainty": 2.0, "micro_batch": 2},
}


@pytest.mark.parametrize("switched", SWITCHED)
def test_a_killed_tuning_goes_on(switched: str, bases: dict[str, Path], tmp_path: Path) -> None:
    whole: list[float] = []
    changes = SWITCHED[switched]
    config = tuning(bases["llada"], tmp_path, output=str(tmp_path / "whole"), **changes)
    sft(config, lambda step, measured: whole.append(measured["loss"]))
    config = tuning(bases["llada"], tmp_path, output=str(tmp_path / "parts"), **changes)
    parts = interrupted(lambda report: sft(config, report), after=3)
    assert [parts[step] for step in range(6)] == whole
    names = {path.name for path in checkpoint.found(tmp_path / "parts")[-1].iterdir()}
    assert "model.safetensors" in names
    size = (checkpoint.found(tmp_path / "parts")[-1] / "model.safetensors").stat().st_size
    assert size < (bases["llada"] / "model.safetensors").stat().st_size / 2  # adapters alone


def test_a_tuning_does_not_go_on_with_other_data(bases: dict[str, Path], tmp_path: Path) -> None:
    config = tuning(bases["llada"], tmp_path)
    sft(config)
    sft(tuning(bases["llada"], tmp_path, micro_batch=1))  # finished, and only split otherwise: nothing to do
    collected(tmp_path / "candidates.jsonl", count=20)
    with pytest.raises(unmask.ConfigError, match=r"other settings \((steps|examples)\)"):
        sft(config)


def test_training_everything(bases: dict[str, Path], tmp_path: Path) -> None:
    config = tuning(bases["llada"], tmp_path, lora=None, objective="masked")
    folder = sft(config)
    tuned, base = unmask.load(folder), unmask.load(bases["llada"])
    names = [
        name for name, tensor in tuned.network.state_dict().items() if torch.equal(tensor, base.network.state_dict()[name])
    ]
    assert names == []
    assert tuned.tokenizer is not None
    with pytest.raises(unmask.ConfigError, match="without LoRA"):
        merge(config)


def test_bad_tuning_options(bases: dict[str, Path], tmp_path: Path) -> None:
    for changes, said in (
        ({"select": "lowset"}, "did you mean 'lowest'"),
        ({"objective": "blocks"}, "did you mean 'block'"),
        ({"lora": {"ranks": 3}}, "did you mean 'rank'"),
        ({"mask_rate": 1.0}, "mask_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"dtype": "bf16"}, "dtype"),
    ):
        with pytest.raises(unmask.ConfigError, match=said):
            tuning(bases["llada"], tmp_path, **changes)
    with pytest.raises(unmask.ConfigError, match=r"none of 12 examples can be used; .*prompt 0: "):
        sft(tuning(bases["llada"], tmp_path, length=20))
    with pytest.raises(unmask.ConfigError, match="exceeds the model's 256"):
        sft(tuning(bases["llada"], tmp_path, length=512))
    with pytest.raises(unmask.ConfigError, match="run `unmask train sft` first"):
        merge(tuning(bases["llada"], tmp_path, output=str(tmp_path / "never")))


def test_an_adapter_for_another_model_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    config = tuning(bases["llada"], tmp_path)
    sft(config)
    folder = Path(config.output)
    weights = {f"base_model.model.nowhere.{part}.weight": torch.zeros(4, 4) for part in ("lora_A", "lora_B")}
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(unmask.ConfigError, match="not an adapter for this model"):
        merge(config)


def test_adapters_go_beside_the_seven_matrices_only(bases: dict[str, Path]) -> None:
    for folder in bases.values():
        model = unmask.load(folder)
        settings = loading.read_json(folder / "config.json")
        before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
        adapter.add(model.network, settings, rank=2, alpha=2, dropout=0.0, seed=0)
        trained = [name for name, parameter in model.network.named_parameters() if parameter.requires_grad]
        assert len(trained) == 2 * 2 * 7  # layers, A and B, matrices
        assert all("lora" in name for name in trained)
        after = model.network.state_dict()
        for name, tensor in before.items():
            owner, _, leaf = name.rpartition(".")
            assert torch.equal(tensor, after[name] if name in after else after[f"{owner}.base_layer.{leaf}"])


# --- the estimate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parameters", "steps"), [("llada-8b", 8.016e9, 4875), ("dream-7b", 7.616e9, 4265)])
def test_the_published_runs_without_weights(name: str, parameters: float, steps: int) -> None:
    settings = yaml.safe_load((ROOT / "configs" / f"r2-{name}.yaml").read_text())
    shape, count = settings.pop("shape"), settings.pop("examples")
    budget = estimate(SFTConfig.from_dict(settings), shape, count)
    assert budget.parameters == pytest.approx(parameters, rel=0.001)
    assert budget.steps == steps
    assert 15 * 2**30 < budget.memory_bytes < 40 * 2**30
    assert 1e19 < budget.flops < 4e19


def test_the_estimate_counts_what_is_trained(bases: dict[str, Path], tmp_path: Path) -> None:
    config = tuning(bases["dream"], tmp_path)
    budget = estimate(config, None, None)
    model = unmask.load(bases["dream"])
    assert budget.parameters == sum(parameter.numel() for parameter in model.network.parameters())
    adapter.add(model.network, loading.read_json(bases["dream"] / "config.json"), rank=4, alpha=8, dropout=0.0, seed=0)
    trained = sum(parameter.numel() for parameter in model.network.parameters() if parameter.requires_grad)
    assert budget.trained == trained
    assert (budget.examples, budget.steps) == (12, 6)
    with pytest.raises(unmask.ConfigError, match=r"config\.json as `shape`"):
        estimate(tuning(Path("owner/nowhere"), tmp_path), None, 10)


def test_the_estimate_counts_both_copies_of_a_block_causal_model(bases: dict[str, Path], tmp_path: Path) -> None:
    full = estimate(tuning(bases["llada"], tmp_path, block_length=8), None, None)
    both = estimate(tuning(bases["sdar"], tmp_path), None, None)
    assert (both.tokens, both.rows_per_step) == (full.tokens, full.rows_per_step)
    assert both.flops > 2 * full.flops  # and more tokens meet the output matrix
    assert both.activation_bytes > 2 * full.activation_bytes
    with pytest.raises(unmask.ConfigError, match="has blocks of 8 tokens"):
        estimate(tuning(bases["sdar"], tmp_path, block_length=32), None, None)


# --- several processes ------------------------------------------------------------------------------------------------


def launched(processes: int, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launcher, str(ROOT / "tests" / "train" / script), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """DDP over gloo, as `accelerate launch` does it, with uneven shares, killed once and continued: the weights of one."""
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    gradients.main(str(tmp_path / "alone"), 99)
    together = (2, "gradients.py", str(tmp_path / "together"))
    assert launched(*together, "3").returncode != 0  # killed after three steps of five, the checkpoint is of two
    assert [path.name for path in checkpoint.found(tmp_path / "together")] == ["checkpoint-000002"]
    assert launched(*together, "99").returncode == 0
    one, start = load_file(tmp_path / "alone" / "weights.safetensors"), toy().network.state_dict()
    same_weights(*(tmp_path / name / "weights.safetensors" for name in ("alone", "together")))
    assert max((tensor - start[name]).abs().max().item() for name, tensor in one.items()) > 0.01
    logs = [checkpoint.read_log(tmp_path / name / "log.csv") for name in ("alone", "together")]
    assert [row["step"] for row in logs[1]] == [1, 2, 3, 4, 5]
    assert [row["loss"] for row in logs[1]] == pytest.approx([row["loss"] for row in logs[0]], rel=1e-4)


SHARDED: dict[str, dict[str, Any]] = {
    # Two and three rows in micro-batches of two: one process has more to do.
    "llada": {"lora": None, "objective": "masked", "batch_size": 5, "micro_batch": 2, "epochs": 3},
    "llada-lora": {"clip": 0.01},
    "dream-lora": {"gradient_checkpointing": True, "ema": 0.9},
    "sdar": {"lora": None, "gradient_checkpointing": True},
    # As many forwards in both processes, whichever has masks to fill.
    "llada-switched-lora": SWITCHED["taught"] | {"batch_size": 3},
    "sdar-switched": {"lora": None, "window": "group", "complementary": False, "on_policy": 0.3, "wrong": 0.2},
}


def test_sharded_processes_tune_as_one(bases: dict[str, Path], tmp_path: Path) -> None:
    """FSDP2 over gloo, cut off once and continued: the curve and the weights of one process, whole or LoRA."""
    runs = {}
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    gradients.main(str(tmp_path / "alone"), 99)
    for name, changes in SHARDED.items():
        config = tuning(bases[name.partition("-")[0]], tmp_path, output=str(tmp_path / f"{name}-together"), **changes)
        (tmp_path / f"{name}.json").write_text(json.dumps(asdict(config)))
        runs[name] = (sft(replace(config, output=str(tmp_path / f"{name}-alone"))), Path(config.output))
    done = launched(2, "sharded.py", str(tmp_path), ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    assert done.returncode == 0, done.stderr
    same_weights(*(tmp_path / name / "weights.safetensors" for name in ("alone", "together")))
    for name, (alone, together) in runs.items():
        logs = [checkpoint.read_log(folder / "log.csv") for folder in (alone, together)]
        assert [row["step"] for row in logs[1]] == [row["step"] for row in logs[0]]
        assert [row["loss"] for row in logs[1]] == pytest.approx([row["loss"] for row in logs[0]], rel=1e-4)
        file = "adapter_model.safetensors" if name.endswith("lora") else "model.safetensors"
        same_weights(alone / file, together / file)
        if name.endswith("lora"):
            saved = FileSystemReader(checkpoint.found(together)[0] / "pytorch_model_fsdp_0").read_metadata()
            assert all("lora" in key for key in saved.state_dict_metadata)


def same_weights(alone: Path, together: Path) -> None:
    one, two = load_file(alone), load_file(together)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=3e-4)


def test_what_cannot_be_sharded_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(unmask.ConfigError, match="only FSDP 2"):
        sharding.plugin("no")
    monkeypatch.setenv("FSDP_VERSION", "2")
    plugin = sharding.plugin("bf16")
    assert plugin is not None
    assert plugin.mixed_precision_policy.reduce_dtype == torch.float32
    # As `start` would make it with several processes.
    monkeypatch.setattr("unmask.train.pretrain.start", lambda config: SimpleNamespace(distributed_type=DistributedType.FSDP))
    with pytest.raises(unmask.ConfigError, match="Muon needs whole matrices"):
        pretrain(PretrainConfig(output=str(tmp_path / "output"), mixture=MIXTURE))
    assert not (tmp_path / "output").exists()
