"""A base model is asked without its chat template, behind a BOS token, by every command and by the server."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

import unmask
from tests.cli.test_cli import run
from tests.evals.test_reproduce import SETTINGS
from unmask.evals.lm_eval import UnmaskLM
from unmask.files import read_journal
from unmask.models.loading import locate
from unmask.serve.deploy import Plan
from unmask.serve.lines import Job, request
from unmask.train.collect import CollectConfig, collect
from unmask.train.dataset import DataConfig, samples

QUESTION = "Compute 12 - 9."
BOS = 4  # <|assistant|>, which stands for a token that begins a text
BASE = ("--no-chat-template", "--add-bos")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The embedded model with a BOS token, in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(locate("unmask-tiny"), "base")
    settings = json.loads(Path("base/tokenizer_config.json").read_text())
    Path("base/tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<|assistant|>"}))
    return "base"


def prompt(model: unmask.Denoiser) -> list[int]:
    return [BOS, *model.tokenizer.encode(QUESTION)]


def test_generate_compare_and_view(capsys: pytest.CaptureFixture[str], base: str) -> None:
    model = unmask.load(base)
    (wanted,) = unmask.generate(model, [prompt(model)], method="vanilla", max_new_tokens=32)
    usual = unmask.generate(model, [QUESTION], method="vanilla", max_new_tokens=32)[0]
    assert wanted.query_tokens != usual.query_tokens
    named = ("--model", base, "--max-new-tokens", "32", *BASE)
    _, out, _ = run(capsys, "generate", QUESTION, "--method", "vanilla", *named, "--json")
    found = json.loads(out.splitlines()[-1])
    assert (found["token_ids"], found["query_tokens"]) == (wanted.token_ids, wanted.query_tokens)
    _, out, _ = run(capsys, "compare", QUESTION, "--methods", "vanilla", *named, "--json")
    assert json.loads(out)["rows"][0]["query_tokens"] == wanted.query_tokens
    assert run(capsys, "view", QUESTION, "--methods", "vanilla", *named, "-o", "trace.json")[0] == 0
    (trace,) = json.loads(Path("trace.json").read_text())["traces"]
    assert sum(step["queried"] for step in trace["steps"]) == wanted.query_tokens


def test_eval_keeps_its_answers_apart(capsys: pytest.CaptureFixture[str], base: str) -> None:
    command = ("eval", "arithmetic", "--model", base, "--methods", "vanilla", "--limit", "2", "--max-new-tokens", "32")
    assert run(capsys, *command)[0] == run(capsys, *command, *BASE)[0] == 0
    told = [read_journal(path, "eval")[0] for path in Path("runs/eval").glob("*/vanilla.jsonl")]
    assert sorted((one.get("chat_template", True), one.get("add_bos", False)) for one in told) == [(False, True), (True, False)]
    code, _, err = run(capsys, *command, "--output", str(next(Path("runs/eval").iterdir())), "--no-chat-template")
    assert (code, "with other settings" in err) == (2, True)


def test_a_missing_bos_token_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "generate", QUESTION, "--add-bos")
    assert code == 2
    assert err == (
        "error: unmask-tiny cannot be asked behind a BOS token, because its tokenizer has no bos_token: leave add_bos out\n"
    )


def test_reproduce_asks_as_the_table_does(capsys: pytest.CaptureFixture[str], base: str) -> None:
    settings = SETTINGS | {"model": base, "chat_template": False, "add_bos": True, "entries": SETTINGS["entries"][:1]}
    Path("table.yaml").write_text(yaml.safe_dump(settings))
    for extra in ((), ("--chat-template", "--output", "other")):
        code, out, _ = run(capsys, "reproduce", "table.yaml", "--limit", "1", *extra, "--json")
        assert code == 0
        found = json.loads(out.splitlines()[-1])
        assert found["ours"]["add_bos"] is True
        assert found["ours"]["chat_template"] is bool(extra)
        assert (found["not_comparable"] is None) == (not extra)
    code, out, _ = run(capsys, "reproduce", "table.yaml", "--model", "unmask-tiny", "--limit", "1", "--json")
    assert (code, json.loads(out.splitlines()[-1])["ours"]["chat_template"]) == (0, True)  # another model: as it is asked


def test_lines_and_replicas(base: str) -> None:
    model = unmask.load(base, chat_template=False, add_bos=True)
    job = Job(model=base, method=unmask.method("vanilla"), chat_template=False, add_bos=True)
    assert list(request(model, {"prompt": QUESTION}, job).prompt) == prompt(model)
    told = job.to_dict()
    assert (told["chat_template"], told["add_bos"]) == (False, True)
    assert not {"chat_template", "add_bos"} & set(Job(model=base, method=unmask.method("vanilla")).to_dict())
    plan = Plan.read({"chat_template": "false", "add_bos": "true"})
    assert (plan.chat_template, plan.add_bos) == (False, True)


def test_collect_and_what_is_trained_on_it(base: str) -> None:
    Path("prompts.jsonl").write_text('{"prompt": "Compute 12 - 9."}\n' * 2)
    settings = {"model": base, "output": "out.jsonl", "prompts": "prompts.jsonl", "limit": 2, "max_new_tokens": 32}
    settings |= {"candidates": 1, "temperature": 0, "chat_template": False, "add_bos": True}
    lines = collect(CollectConfig.from_dict(settings)).read_text().splitlines()
    assert json.loads(lines[0])["provenance"]["chat_template"] is False
    rows = [json.loads(line) for line in lines[1:]]
    for row in rows:
        row["candidates"][0]["right"] = True
    Path("out.jsonl").write_text("\n".join([lines[0], *map(json.dumps, rows)]) + "\n")
    model = unmask.load(base)
    found = list(samples(DataConfig(data="out.jsonl"), model, block_length=32, seed=0))
    assert [sample.pieces[0].tokens for sample in found] == [prompt(model)] * 2  # type: ignore[union-attr]
    with pytest.raises(unmask.ConfigError, match="collect: add_bos must be true or false, got 'yes'"):
        CollectConfig.from_dict(settings | {"add_bos": "yes"})


def test_the_harness_names_bos_as_its_own_models_do(base: str) -> None:
    lm = UnmaskLM.create_from_arg_string(f"model={base},add_bos_token=true")
    assert lm.tok_encode(QUESTION) == prompt(lm.model)
    assert lm.tok_encode(f"<|assistant|>{QUESTION}") == prompt(lm.model)
    assert lm.tok_encode(" 3", add_special_tokens=False)[0] != BOS  # a continuation
    with pytest.raises(unmask.ConfigError, match="unknown model argument 'pretrained': here it is model=GSAI-ML/LLaDA-8B-Base"):
        UnmaskLM.create_from_arg_string("pretrained=GSAI-ML/LLaDA-8B-Base")
