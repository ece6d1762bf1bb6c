"""EleutherAI's harness, the real one, on the embedded model: offline, with tasks and data written here."""

import json
import logging
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import lm_eval.evaluator
import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

import unmask
from unmask.engine.text import decode as to_text
from unmask.errors import ConfigError, PromptTooLong
from unmask.evals import lm_eval as adapter
from unmask.evals.likelihood import greedy, log_likelihoods
from unmask.evals.lm_eval import LOG, UnmaskLM, register
from unmask.models import loading

ROOT = Path(__file__).parents[2]
QUESTIONS = {
    "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?": 31,
    "Tom has 12 pens. On Friday Tom gives away 5. How many pens does Tom have?": 7,
    "Mia has 40 apples. On Monday Mia buys 7. How many apples does Mia have?": 47,
    "Compute 12 - 9.": 3,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as GSM8K's: question, and an answer that ends with the marked number."""
    folder = tmp_path_factory.mktemp("gsm8k")
    lines = [json.dumps({"question": text, "answer": f"So it is {key}.\n#### {key}"}) for text, key in QUESTIONS.items()]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def tasks(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskManager:
    """The harness with our two tasks only: one with free answers, one with choices."""
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(data / f"{split}.jsonl") for split in ("train", "test")}},
        "training_split": "train",
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    written = {
        "task": "write",
        "output_type": "generate_until",
        "doc_to_target": "{{answer.split('#### ')[-1]}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 64, "do_sample": False},
        "filter_list": [
            {
                "name": "last",
                "filter": [{"function": "regex", "group_select": -1, "regex_pattern": "([0-9]+)"}, {"function": "take_first"}],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    chosen = {
        "task": "choose",
        "output_type": "multiple_choice",
        "doc_to_choice": ["The answer is 31.", "The answer is 5."],
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    for task in (written, chosen):
        (tmp_path / f"{task['task']}.yaml").write_text(yaml.safe_dump(shared | task))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)  # asks pip and lscpu, for seconds
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Any:
    """What the adapter logs, whatever the harness has done to its logger's parents."""
    LOG.addHandler(caplog.handler)
    LOG.setLevel(logging.INFO)
    yield caplog
    LOG.removeHandler(caplog.handler)
    LOG.setLevel(logging.NOTSET)


def ask(lm: UnmaskLM, *asked: tuple[str, dict[str, Any]]) -> list[str]:
    requests = [Instance(request_type="generate_until", doc={}, arguments=arguments, idx=0) for arguments in asked]
    return lm.generate_until(requests)


def chat(lm: UnmaskLM, question: str) -> str:
    return lm.apply_chat_template([{"role": "user", "content": question}])


# --- through the harness ----------------------------------------------------------------------------------------------


def test_answers_are_those_of_generate(tasks: TaskManager, log: pytest.LogCaptureFixture) -> None:
    """Text, accuracy and cost are the same as outside the harness, and the cost is in the results."""
    register()
    results = simple_evaluate(
        model="unmask",
        model_args="model=unmask-tiny-base,method=fast-dllm,threshold=0.95,batch_size=3",
        tasks=["write"],
        task_manager=tasks,
        limit=3,
        apply_chat_template=True,
    )
    questions = list(QUESTIONS)[:3]
    method = unmask.method("fast-dllm", threshold=0.95)
    done = unmask.generate(unmask.load("unmask-tiny-base"), questions, method=method, max_new_tokens=64)
    assert [sample["resps"][0][0] for sample in results["samples"]["write"]] == [completion.text for completion in done]
    right = [
        completion.text.endswith(f"The answer is {QUESTIONS[question]}.")
        for question, completion in zip(questions, done, strict=True)
    ]
    assert 0 < sum(right) < 3
    assert results["results"]["write"]["exact_match,last"] == pytest.approx(sum(right) / 3)
    info = results["config"]["unmask"]
    tokens, forwards = sum(completion.tokens for completion in done), sum(completion.forwards for completion in done)
    assert info["generated"] == {
        "answers": 3,
        "tokens": tokens,
        "forwards": forwards,
        "tokens_per_forward": tokens / forwards,
    }
    assert info["method"] == method.to_dict()
    assert (info["batch_size"], info["device"], results["config"]["model_dtype"]) == (3, "cpu", "torch.float32")
    assert f"3 answers: {tokens} tokens to the first EOS or stop, {forwards} forwards" in log.text


def test_choices_are_scored_by_masked_likelihood(tasks: TaskManager) -> None:
    lm = UnmaskLM(draws=40, seed=3, batch_size=16)
    results = simple_evaluate(model=lm, tasks=["choose"], task_manager=tasks, limit=2)
    for question, sample in zip(QUESTIONS, results["samples"]["choose"], strict=False):
        context = lm.tok_encode(question)
        for choice, (response,) in zip((" The answer is 31.", " The answer is 5."), sample["resps"], strict=True):
            pair = (context, lm.tok_encode(question + choice)[len(context) :])
            (expected,) = log_likelihoods(lm.model, [pair], draws=40, seed=3)
            found, same = response
            assert float(found) == pytest.approx(expected, abs=1e-3)
            assert same in (*greedy(lm.model, [pair]), str(*greedy(lm.model, [pair])))
    assert results["results"]["choose"]["acc,none"] in (0.0, 0.5, 1.0)


def test_examples_are_turns_of_a_chat_where_they_are_asked_for(tasks: TaskManager) -> None:
    """A template goes around the prompt if the harness says so; words in a model's name do not matter."""
    lm = UnmaskLM()
    prompts = {}
    for template in (False, True):
        results = simple_evaluate(
            model=lm, tasks=["write"], task_manager=tasks, limit=1, num_fewshot=1, apply_chat_template=template
        )
        prompts[template] = results["samples"]["write"][0]["arguments"][0][0]
    assert "<|" not in prompts[False]
    assert prompts[True].count("<|user|>") == prompts[True].count("<|assistant|>") == 2
    assert prompts[True].endswith("<|assistant|>")
    assert lm.tok_encode(prompts[True])[-1] == lm.tokenizer.convert_tokens_to_ids("<|assistant|>")


def test_the_command_line_on_the_task_file_we_ship(data: Path, tmp_path: Path) -> None:
    command = ["--model", "unmask", "--model_args", "model=unmask-tiny,method=r2-dllm,threshold=0.85,batch_size=2"]
    command += ["--include_path", "configs/lm_eval", "--tasks", "gsm8k_local", "--metadata", f"data={data}"]
    command += ["--num_fewshot", "1", "--limit", "2", "--gen_kwargs", "max_gen_toks=40", "--output_path", str(tmp_path / "out")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "unmask.evals.lm_eval", *command],
        cwd=ROOT,
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "|gsm8k_local|" in ran.stdout
    assert "2 answers: " in ran.stderr
    assert "generate_until:" not in ran.stderr, "a progress bar where no terminal is"
    (written,) = (tmp_path / "out").rglob("results*.json")
    results = json.loads(written.read_text())
    assert set(results["results"]["gsm8k_local"]) >= {"exact_match,marked", "exact_match,last"}
    assert results["config"]["unmask"]["generated"]["answers"] == 2
    assert results["config"]["unmask"]["method"]["commit"] == {"rule": "threshold", "threshold": 0.85}


def test_our_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(adapter, "cli_evaluate", lambda: UnmaskLM(method="r2dllm"))
    with pytest.raises(SystemExit) as ended:
        adapter.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown method 'r2dllm': did you mean 'r2-dllm'?")


# --- answers ----------------------------------------------------------------------------------------------------------


def test_each_request_has_its_own_settings_and_place() -> None:
    """Mixed in one call, each answer equals that of its request alone, in the order of the requests."""
    settings: list[dict[str, Any]] = [
        {"until": ["buys"], "max_gen_toks": 64},
        {"until": ["\n"], "max_gen_toks": 40},
        {"until": "answer", "max_new_tokens": 64, "do_sample": False},
        {"until": [], "max_gen_toks": 64, "do_sample": True, "temperature": 0.8, "top_p": 0.9},
        {"max_gen_toks": 32, "temperature": 0.0},
    ]
    lm = UnmaskLM(batch_size=3)
    asked = [(chat(lm, question), setting) for question in QUESTIONS for setting in settings]
    together = ask(lm, *asked)
    assert together == [ask(UnmaskLM(), one)[0] for one in asked]
    for question, stopped, short in zip(QUESTIONS, together[0::5], together[4::5], strict=True):
        assert stopped == unmask.generate(lm.model, [question], max_new_tokens=64, stop=["buys"])[0].text
        assert short == unmask.generate(lm.model, [question], max_new_tokens=32)[0].text


def test_an_answer_is_cut_to_the_tokens_asked_for_and_counted_like_that() -> None:
    """Ten tokens are a block of 32: its forwards count, its other tokens do not."""
    lm = UnmaskLM()
    question = next(iter(QUESTIONS))
    (text,) = ask(lm, (chat(lm, question), {"until": [], "max_gen_toks": 10}))
    (whole,) = unmask.generate(lm.model, [question], max_new_tokens=32)
    assert whole.tokens > 10
    assert text == to_text(lm.tokenizer, whole.token_ids[:10])
    assert lm.spent == {"answers": 1, "tokens": 10, "forwards": whole.forwards}


def test_a_repeated_prompt_is_another_sample() -> None:
    lm = UnmaskLM(batch_size=4, seed=7)
    asked = [(chat(lm, next(iter(QUESTIONS))), {"until": [], "max_gen_toks": 64, "do_sample": True, "temperature": 4.0})] * 4
    samples = ask(lm, *asked)
    assert len(set(samples)) > 1
    assert ask(UnmaskLM(seed=7), *asked) == samples
    assert ask(UnmaskLM(seed=8), *asked)[:3] == samples[1:]


def test_a_long_prompt_is_cut_at_its_start(log: pytest.LogCaptureFixture) -> None:
    lm = UnmaskLM()
    question = chat(lm, next(iter(QUESTIONS)))
    settings = {"until": [], "max_gen_toks": 64}
    filling = "Tom has 12 pens. " * 200
    long, short = ask(lm, (filling + question, settings), (question, settings))
    assert "1 of 2 prompts were cut at their start" in log.text
    kept = lm.tok_encode(filling + question)[-(512 - 64) :]
    assert long == unmask.generate(lm.model, [kept], max_new_tokens=64)[0].text
    assert short == unmask.generate(lm.model, [next(iter(QUESTIONS))], max_new_tokens=64)[0].text
    with pytest.raises(PromptTooLong, match="512 new ones exceed"):
        ask(lm, (question, {"max_gen_toks": 500}))


def test_a_prompt_of_nothing_begins_with_the_end_of_text() -> None:
    lm = UnmaskLM()
    assert ask(lm, ("", {"max_gen_toks": 32})) == [unmask.generate(lm.model, [[1]], max_new_tokens=32)[0].text]


def test_settings_that_ask_for_nothing_change_nothing() -> None:
    lm = UnmaskLM()
    nothing = {"num_beams": 1, "top_k": -1, "repetition_penalty": 1.0, "use_cache": True, "min_p": None, "max_gen_toks": 32}
    assert ask(lm, ("Compute 1 + 1.", nothing)) == ask(lm, ("Compute 1 + 1.", {"max_gen_toks": 32}))


def test_unknown_settings() -> None:
    with pytest.raises(ConfigError, match="unknown generation setting 'num_beams': known: do_sample, max_gen_toks"):
        ask(UnmaskLM(), ("Compute 1 + 1.", {"num_beams": 4}))
    with pytest.raises(ConfigError, match="top_p must be a number from 0 to 1"):
        ask(UnmaskLM(), ("Compute 1 + 1.", {"do_sample": True, "temperature": 1.0, "top_p": 3.0}))


# --- likelihoods ------------------------------------------------------------------------------------------------------


def test_rolling_counts_every_token_once() -> None:
    """With logits of zero each token costs log V, whatever its window: no window may overlap or leave a gap."""
    lm = UnmaskLM(draws=2, batch_size=2)
    lm.model.network.logit_scale = 0.0
    texts = ["Tom has 12 pens. " * 200, "Compute 1 + 1.", ""]
    counts = [len(lm.tok_encode(text)) for text in texts]
    assert counts[0] > 2 * lm.max_length
    requests = [Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0) for text in texts]
    assert lm.loglikelihood_rolling(requests) == pytest.approx([-count * math.log(509) for count in counts])


def test_likelihoods_keep_their_order_and_shorten_contexts() -> None:
    lm = UnmaskLM(batch_size=4, draws=8)
    long = "Tom has 12 pens." + " Tom has 12 pens." * 200
    pairs = [(long, " Tom"), ("", "Compute 12 - 9."), ("Compute 12 - 9.", " 12 - 9 = 3. The answer is 3.")]
    asked = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
    together = lm.loglikelihood(asked, disable_tqdm=True)
    alone = [UnmaskLM(draws=8).loglikelihood([one], disable_tqdm=True)[0] for one in asked]
    assert [same for _, same in together] == [same for _, same in alone]
    assert [found for found, _ in together] == pytest.approx([found for found, _ in alone], abs=1e-3)
    # The context is cut to the model's length; the continuation is scored whole.
    context, whole = lm.tok_encode(long), lm.tok_encode(long + " Tom")
    answer = whole[len(context) :]
    assert 0 < len(answer) < 4
    assert together[0][0] == pytest.approx(log_likelihoods(lm.model, [(whole[-512:][: -len(answer)], answer)])[0], abs=1e-3)


# --- arguments --------------------------------------------------------------------------------------------------------


def test_model_args_win_over_the_harness_defaults() -> None:
    lm = UnmaskLM.create_from_arg_string(
        "method=vanilla,batch_size=5,suffix_window=None,steps=64",
        {"batch_size": "1", "device": "cuda:0", "max_batch_size": None},
    )
    assert lm.batch_size == 5
    assert lm.method == unmask.method("vanilla", suffix_window=None, steps=64)
    assert UnmaskLM.create_from_arg_obj({}, {"batch_size": "7", "device": "cpu"}).batch_size == 7


def test_a_file_is_a_method_too(tmp_path: Path) -> None:
    file = tmp_path / "method.yaml"
    file.write_text(yaml.safe_dump({"commit": {"rule": "threshold", "threshold": 0.7}, "block_length": 16}))
    lm = UnmaskLM(method=str(file), cache="prefix")
    assert lm.method == unmask.Method.from_dict(
        {"commit": {"rule": "threshold", "threshold": 0.7}, "block_length": 16, "cache": "prefix"}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"treshold": 0.9}, "unknown model argument 'treshold': did you mean 'threshold'.*batch_size.*draws.*threshold"),
        ({"pretrained": "unmask-tiny"}, "unknown model argument 'pretrained'.*model"),
        ({"batch_size": "auto"}, "batch_size must be a whole number of at least 1, got 'auto'"),
        ({"draws": 0}, "draws must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"threshold": 2}, "threshold must be a number from 0 to 1"),
        ({"method": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"device": "nonsense"}, "no device 'nonsense'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UnmaskLM(**arguments)


def test_files_that_are_not_a_method(tmp_path: Path) -> None:
    for text, message in (("[1, 2]", "expected a mapping"), ("a: [", "not valid YAML"), ("speed: 3", "unknown method setting")):
        (tmp_path / "method.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            UnmaskLM(method=str(tmp_path / "method.yaml"))


def test_a_tokenizer_is_named_by_what_it_is(tmp_path: Path) -> None:
    """A copy under another name is the same; another template is another."""
    folder = tmp_path / "something-instruct-chat"
    shutil.copytree(loading.locate("unmask-tiny"), folder)
    copied = UnmaskLM(model=str(folder))
    assert copied.tokenizer_name == UnmaskLM().tokenizer_name
    copied.tokenizer.chat_template = "{{ messages }}"
    assert copied.tokenizer_name != UnmaskLM().tokenizer_name
    copied.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template: leave --apply_chat_template out"):
        chat(copied, "Compute 1 + 1.")


def test_the_last_turn_may_start_the_answer() -> None:
    turns = [{"role": "user", "content": "Compute 12 - 9."}, {"role": "assistant", "content": "The answer"}]
    assert (
        UnmaskLM().apply_chat_template(turns, add_generation_prompt=False) == "<|user|>Compute 12 - 9.<|assistant|>The answer"
    )


# --- a block-causal model ---------------------------------------------------------------------------------------------


def test_a_block_causal_model_answers_in_its_own_blocks_and_scores() -> None:
    lm = UnmaskLM(model="unmask-tiny-block", method="fast-dllm", batch_size=2, draws=4)
    assert (lm.method.block_length, lm.method.cache) == (8, "block")
    questions = list(QUESTIONS)[:2]
    said = ask(lm, *((question, {"until": [], "max_gen_toks": 24}) for question in questions))
    prompts = [lm.tok_encode(question) for question in questions]
    alone = unmask.generate(lm.model, prompts, method="fast-dllm", max_new_tokens=24)
    assert said == [completion.text for completion in alone]
    likely, unlikely = (
        lm.loglikelihood([Instance(request_type="loglikelihood", doc={}, arguments=("Compute 12 - 9.", end), idx=0)])[0][0]
        for end in (" 12 - 9 = 3.", " Tom apples Tom")
    )
    assert likely > unlikely


def test_without_the_harness_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'lm_eval' else find(name, *rest)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "unmask.evals.lm_eval", "--help"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(unmask.__file__).parents[1]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: this adapter needs lm_eval: ")
