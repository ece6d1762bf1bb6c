"""Two processes that share a model are one: logits, decodes, the engine, and how they end."""

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import unmask
from unmask.cli import main
from unmask.engine.generate import answer
from unmask.engine.request import Completion, Request
from unmask.methods import TABLE
from unmask.models import parallel
from unmask.models.denoiser import Denoiser
from unmask.models.loading import build, locate
from unmask.models.toy import CONFIGS

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
LLADA, DREAM = dict(CONFIGS["llada"]), dict(CONFIGS["dream"])
# How the first process dies -> the models that are compared before.
RUNS = {
    "killed": {
        "biases": LLADA | {"n_kv_heads": 2, "include_bias": True},
        "blocks": dict(CONFIGS["llada2"]),
        "tied": LLADA | {"weight_tying": True},
    },
    "halfway": {"llada": LLADA, "dream": DREAM, "experts": dict(CONFIGS["llada_moe"])},
}
THROUGH_TRANSFORMERS = ("llada", "dream")  # which takes seconds to import
PATIENCE = 300  # seconds, so that nothing hangs for ever; on an idle machine all of it takes a tenth
TOKENS = torch.arange(20)[None]


def _requests() -> list[Request]:
    """Every preset, its drafts, and sampling, after prompts of any length."""
    rng = random.Random(0)
    methods = [unmask.method(name, block_length=8) for name in TABLE]
    methods += [unmask.method(name, block_length=8, draft_steps=3) for name in ("r2-dllm", "fast-dllm")]
    return [
        Request(
            prompt=tuple(rng.randrange(22) for _ in range(rng.choice([1, 9, 30]))),
            method=method,
            max_new_tokens=32,
            temperature=temperature,
        )
        for method in methods
        for temperature in ((0.0, 1.0) if method.name == "r2-dllm" else (0.0,))
    ]


REQUESTS = _requests()


def without_seconds(completions: Sequence[Completion]) -> list[Completion]:
    return [dataclasses.replace(completion, seconds=0.0) for completion in completions]


def answers(model: Denoiser) -> list[Completion]:
    return without_seconds(answer(model, REQUESTS))


def models(folder: Path) -> list[Path]:
    return sorted((folder / "models").iterdir())


def checkpoint(folder: Path, config: dict[str, Any]) -> None:
    """A folder with random weights, biases too."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    draw = torch.Generator().manual_seed(6)
    weights = {
        name: torch.randn(weight.shape, generator=draw) * (0.3 if weight.dim() > 1 else 0.1)
        + (weight.dim() == 1 and not name.endswith("bias"))
        for name, weight in build(config, folder).named_parameters()
    }
    save_file(weights, folder / "model.safetensors")


Run = tuple[Path, list[dict[str, Any]], list[tuple[int, str, float]]]


@pytest.fixture(scope="module", params=["killed", "halfway"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The folder; what each of two processes saw; how each ended: exit code, what it printed, seconds behind the first."""
    folder = tmp_path_factory.mktemp("shared")
    for name, config in RUNS[request.param].items():
        checkpoint(folder / "models" / name, config)
    checkpoint(folder / "uneven", DREAM | {"num_key_value_heads": 1})
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.models.ranks", str(folder), str(rank), request.param],
            cwd=ROOT,
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    ends: list[tuple[int, str, float]] = []
    try:
        for process in processes:
            printed, _ = process.communicate(timeout=PATIENCE)
            ends.append((process.returncode, printed, time.monotonic()))
    finally:
        for process in processes:
            process.kill()
    assert all((folder / f"rank-{rank}").exists() for rank in range(2)), ends
    seen = [torch.load(folder / f"rank-{rank}", weights_only=False) for rank in range(2)]
    return folder, seen, [(code, printed, at - ends[0][2]) for code, printed, at in ends]


def test_logits_are_those_of_one_process_and_the_same_everywhere(run: Run) -> None:
    folder, seen, _ = run
    for path in models(folder):
        with torch.inference_mode():
            alone = unmask.load(path).network(TOKENS)
        assert alone.std() > 0.5
        torch.testing.assert_close(seen[0][path.name]["logits"], alone, atol=1e-5, rtol=0)
        assert torch.equal(*(rank[path.name]["logits"] for rank in seen))
        if path.name in THROUGH_TRANSFORMERS:
            torch.testing.assert_close(seen[0][path.name]["transformers"], alone, atol=1e-5, rtol=0)


def test_whole_decodes_are_those_of_one_process(run: Run) -> None:
    folder, seen, _ = run
    for path in models(folder):
        model = unmask.load(path)
        if model.spec.block is not None:  # decoding in blocks on the grid is not the engine's yet: logits are compared
            continue
        alone = answers(model)
        assert len({tuple(completion.token_ids) for completion in alone}) > 5
        assert all(rank[path.name]["answers"] == alone for rank in seen)


def test_every_process_holds_its_part(run: Run) -> None:
    """Half of every matrix that the plan names and of what adds to its outputs, half of key/value memory, whole norms."""
    folder, seen, _ = run
    for path in models(folder):
        alone = unmask.load(path)
        plan = {name.replace("*", str(layer)): style for name, style in alone.network.tp_plan.items() for layer in range(2)}
        whole = dict(alone.network.named_parameters())
        halves = {
            name
            for name in whole
            if (style := plan.get(name.rpartition(".")[0])) and (style, name.rpartition(".")[2]) != ("rowwise", "bias")
        }
        assert len(halves) >= 14
        for rank in seen:
            held = rank[path.name]
            # Three pages and the one that pads.
            assert (held["page"], held["pool"]) == (alone.page_bytes / 2, 4 * alone.page_bytes / 2)
            assert {name for name, size in held["weights"].items() if size == whole[name].nbytes / 2} == halves
            assert {name for name, size in held["weights"].items() if size == whole[name].nbytes} == set(whole) - halves
            assert held.get("sliced", halves) == halves


def test_slices_are_not_saved_as_if_they_were_the_checkpoint(run: Run) -> None:
    folder, seen, _ = run
    for path in models(folder):
        assert [rank[path.name]["saved"].partition(" of the model")[0] for rank in seen] == [
            "this process holds slice 1 of 2",
            "this process holds slice 2 of 2",
        ]


def test_an_engine_that_leads_answers_as_one_process(run: Run) -> None:
    folder, seen, _ = run
    alone = answers(unmask.load(models(folder)[-1]))
    assert seen[0]["engine"] == seen[0]["led"] == alone


def test_followers_end_with_their_leader(run: Run, request: pytest.FixtureRequest) -> None:
    """The first time both went on: it was closed. Then it dies, by a signal or halfway through a forward."""
    _, _, ((code, said, _), (follower, complained, seconds)) = run
    assert follower != 0
    assert seconds < 60
    if code == 1:
        assert "MemoryError" in said
        assert "out of step" in said
        assert "RuntimeError" in complained
    else:
        assert code == -9
        assert "ConnectionError: the leading process has ended" in complained


def test_heads_that_cannot_be_shared_are_refused(run: Run) -> None:
    _, seen, _ = run
    for rank in seen:
        assert "2 processes cannot evenly share 4 heads, 1 key/value heads" in rank["refused"]
    with torch.device("meta"):
        dream = build(DREAM | {"num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584}, Path()).shape
    parallel.check(dream, 4)
    with pytest.raises(unmask.ConfigError, match=r"3 processes cannot evenly share 28 heads, .*: possible numbers are 1, 2, 4"):
        parallel.check(dream, 3)


def test_a_single_process_gets_an_error_that_names_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(unmask.ConfigError, match="torchrun"):
        unmask.load(tensor_parallel=True)
    for arguments, words in (([], "torchrun --nproc_per_node 2"), (["--device", "cuda:1"], "takes its own GPU")):
        with pytest.raises(SystemExit, match="2"):
            main(["generate", "How many?", "--tensor-parallel", *arguments])
        assert words in capsys.readouterr().err
        monkeypatch.setenv("LOCAL_RANK", "0")


def test_the_command_line_prints_once(tmp_path: Path) -> None:
    """Under torchrun, on a random model with the embedded one's tokenizer: the answer of one process."""
    checkpoint(tmp_path / "model", LLADA | {"vocab_size": 512})
    for file in locate("unmask-tiny").glob("tokenizer*"):
        shutil.copy(file, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text()) | {"mask_token_id": 2}  # the tokenizer's
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "unmask"]
    asked = ["generate", "How many?", "--model", str(tmp_path / "model"), "--max-new-tokens", "32", "--json"]
    done = subprocess.run(
        [*launcher, *asked, "--tensor-parallel", "--device", "cpu"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    alone = unmask.generate(unmask.load(tmp_path / "model"), ["How many?"], max_new_tokens=32)[0]
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["token_ids"] == alone.token_ids
