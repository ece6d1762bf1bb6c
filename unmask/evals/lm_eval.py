"""The adapter of unmask to EleutherAI's lm-evaluation-harness.

    python -m unmask.evals.lm_eval --model unmask --model_args model=unmask-tiny,method=r2-dllm --tasks gsm8k

is the harness's own `lm_eval` command with all its options, plus the model `unmask`. Version 0.4.13 does not load plug-ins;
later ones do (upstream pull request 4013), so that the plain `lm_eval` finds `unmask` by our entry point.
From Python call `register()`, then `lm_eval.simple_evaluate(model="unmask", ...)`, or hand it an `UnmaskLM`.

A chat template is applied only with `--apply_chat_template`. One process, one device.
"""

import inspect
import itertools
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

from unmask.errors import ConfigError, UnmaskError, require, unknown

try:
    require("this adapter", "lm_eval", "eval")
except ConfigError as missing:
    if __name__ != "__main__":
        raise
    print(f"error: {missing}", file=sys.stderr)
    sys.exit(2)

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import model_registry
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
from tqdm import tqdm

from unmask.decode.settings import whole
from unmask.engine.generate import answer
from unmask.engine.own import completed, default_method_of
from unmask.engine.prompt import begun
from unmask.engine.request import Request
from unmask.engine.template import render
from unmask.engine.text import decode as to_text
from unmask.evals.likelihood import greedy, log_likelihoods
from unmask.files import digest
from unmask.methods import TABLE, load, options
from unmask.methods.method import Method
from unmask.methods.options import takes
from unmask.models import loading

# A child of the harness's logger, so that it has that logger's level and handler.
LOG = logging.getLogger("lm_eval.unmask")
# Tokens per answer if neither task nor method gives a number: the default of the harness's other models.
DEFAULT_NEW_TOKENS = 256
# The generation settings of a task, once the harness has translated its other spellings.
SETTINGS = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k")
# What the harness's other models call `model`.
THEIR_NAMES = frozenset({"pretrained", "model_path", "path"})
# Settings of other models' tasks, each with the value that changes nothing, at which it is let through; so is any at null.
NEUTRAL = {
    "early_stopping": False,
    "ignore_eos": False,
    "length_penalty": 1,
    "min_p": 0,
    "min_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_scores": False,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "return_dict_in_generate": False,
    "skip_special_tokens": True,
    "typical_p": 1,
    "use_cache": True,
}


class UnmaskLM(TemplateLM):  # type: ignore[misc]
    """A model and a method behind the harness's interface.

    Args:
        model: an embedded model, a checkpoint folder or a Hugging Face id.
        method: a preset or a YAML file of settings; None: the model's own.
        batch_size: prompts decoded at once; for likelihoods, rows per forward.
        device, dtype: as `unmask.load` takes them.
        add_bos_token: begin every context with the BOS token, as the harness's own commands say it for base models.
        draws: masks per answer in the estimate of its likelihood (evals/likelihood.py).
        seed: of samples and masks.
        settings: options of the method (threshold=0.8), or fields of its file. A task's own length and sampling
            settings win over `max_new_tokens`, `temperature`, `top_p` and `top_k`.

    Raises ConfigError on an unknown option, naming the valid ones, or a bad value; ModelError as `unmask.load` does.
    """

    def __init__(
        self,
        *,
        model: str = "unmask-tiny",
        method: str | None = None,
        batch_size: int | str = 1,
        device: str = "auto",
        dtype: str = "auto",
        add_bos_token: bool = False,
        draws: int = 128,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        for name in THEIR_NAMES.intersection(settings):
            raise ConfigError(f"unknown model argument '{name}': here it is model={settings[name]}")
        chosen = _method(method or default_method_of(model), settings)
        rows = int(batch_size) if str(batch_size).isdigit() else batch_size  # --batch_size arrives as a string
        whole("batch_size", rows, 1, required=True)
        whole("draws", draws, 1, required=True)
        whole("seed", seed, 0, required=True)
        self.batch_size, self.draws, self.seed = int(rows), draws, seed
        if not isinstance(add_bos_token, bool):
            raise ConfigError(f"add_bos_token must be true or false, got {add_bos_token!r}")
        self.model = loading.load(model, device=device, dtype=dtype, add_bos=add_bos_token)
        self.method = completed(self.model, chosen)
        self.tokenizer = self.model.tokenizer
        if self.tokenizer is None:
            raise ConfigError(f"{model} has no tokenizer, which the harness needs: it asks in text")
        self.spent: Counter[str] = Counter(answers=0, tokens=0, forwards=0)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """Model args win over the harness's --batch_size and --device, which have default values."""
        given = {name: value for name, value in (additional_config or {}).items() if value is not None}
        if given.get("device") == "cuda:0":  # the harness's default on any machine; auto is the same if there is a GPU
            given["device"] = "auto"
        return cls(**given | arg_dict)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        """The same from "key=value,key=value"."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness adds to its results: the weights, the method and its settings, and the cost of the answers."""
        tokens, forwards = self.spent["tokens"], self.spent["forwards"]
        return {
            "model_num_parameters": sum(parameter.numel() for parameter in self.model.network.parameters()),
            "model_dtype": str(self.model.dtype),
            "model_sha": loading.fingerprint(loading.locate(self.model.name)),
            "unmask": {
                "method": self.method.to_dict(),
                "batch_size": self.batch_size,
                "device": str(self.model.device),
                "draws": self.draws,
                "seed": self.seed,
                "generated": {**self.spent, "tokens_per_forward": tokens / forwards if forwards else 0.0},
            },
        }

    # --- text and tokens

    @property
    def max_length(self) -> int:
        return self.model.spec.max_length

    @property
    def eot_token_id(self) -> int:
        return self.model.spec.eos_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without a context."""
        start: int | None = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else start

    @property
    def tokenizer_name(self) -> str:
        """A hash of vocabulary and template, for the harness's cache of prompts."""
        return digest({"vocabulary": self.tokenizer.get_vocab(), "template": self.tokenizer.chat_template})

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids, behind BOS where that is asked for; a text that begins with BOS, as templates write it, gets no second."""
        start = self.tokenizer.bos_token
        special = start is None or not string.startswith(start) if add_special_tokens is None else add_special_tokens
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=special, verbose=False)
        return ids if add_special_tokens is False else list(begun(self.model, ids))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The turns as one text; without a generation prompt the last turn is the start of the answer."""
        if self.tokenizer.chat_template is None:
            raise ConfigError(f"{self.model.name} has no chat template: leave --apply_chat_template out")
        return render(self.tokenizer, chat_history, prompting=add_generation_prompt, continuing=not add_generation_prompt)

    # --- the harness's interface

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers up to their first EOS or stop string, cut to their `max_gen_toks`."""
        repeats: Counter[str] = Counter()  # a repeated request gets another sample
        asked: list[Request] = []
        for context, settings in (instance.args for instance in requests):
            question = repr((context, settings))
            asked.append(self._request(context, settings, self.seed + repeats[question]))
            repeats[question] += 1
        lengths = [self._whole_blocks(request.max_new_tokens) for request in asked]
        prompts = self._shortened([request.prompt for request in asked], lengths)
        answers = [""] * len(asked)
        spent: Counter[str] = Counter(answers=len(asked))
        sizes = [(length, len(prompt)) for length, prompt in zip(lengths, prompts, strict=True)]
        for chunk in self._batches(sizes, "generate_until", disable_tqdm):
            batch = [replace(asked[place], prompt=prompts[place], max_new_tokens=lengths[place]) for place in chunk]
            for place, completion in zip(chunk, answer(self.model, batch), strict=True):
                limit, text = asked[place].max_new_tokens, completion.text
                if completion.tokens > limit:
                    text = to_text(self.tokenizer, completion.token_ids[:limit])
                spent.update(tokens=min(completion.tokens, limit), forwards=completion.forwards)
                answers[place] = text
                self.cache_hook.add_partial("generate_until", requests[place].args, text)
        self.spent.update(spent)
        rate = spent["tokens"] / max(1, spent["forwards"])
        LOG.info(
            f"{len(asked)} answers: {spent['tokens']} tokens to the first EOS or stop, {spent['forwards']} forwards, "
            f"{rate:.2f} tokens per forward"
        )
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is the model's greedy answer."""
        answers = [answer for _, _, answer in requests]
        prompts = self._shortened([prompt for _, prompt, _ in requests], [len(answer) for answer in answers])
        scores = [(0.0, False)] * len(requests)
        sizes = [(0, len(prompt) + len(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
        for chunk in self._batches(sizes, "loglikelihood", disable_tqdm):
            pairs = [(prompts[place], answers[place]) for place in chunk]
            found = log_likelihoods(self.model, pairs, draws=self.draws, seed=self.seed, batch_size=self.batch_size)
            same = greedy(self.model, pairs, batch_size=self.batch_size)
            for place, score in zip(chunk, zip(found, same, strict=True), strict=True):
                scores[place] = score
                self.cache_hook.add_partial("loglikelihood", requests[place][0], score)
        return scores

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each text: the sum over windows as long as the context, each after one token of the one before.

        The last window has a longer context, so that it is as long as the others.
        """
        texts = [instance.args[0] for instance in requests]
        windows = [
            (number, make_disjoint_window(window))
            for number, text in enumerate(texts)
            for window in get_rolling_token_windows(
                self._without_prefix(text), self.prefix_token_id, max_seq_len=self.max_length - 1, context_len=1
            )
        ]
        totals = [0.0] * len(texts)
        sizes = [(0, len(prompt) + len(answer)) for _, (prompt, answer) in windows]
        for chunk in self._batches(sizes, "loglikelihood_rolling", disable_tqdm):
            pairs = [windows[place][1] for place in chunk]
            found = log_likelihoods(self.model, pairs, draws=self.draws, seed=self.seed, batch_size=self.batch_size)
            for place, log_likelihood in zip(chunk, found, strict=True):
                totals[windows[place][0]] += log_likelihood
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _without_prefix(self, text: str) -> list[int]:
        """A text's ids without the BOS before them, which the windows put there themselves."""
        ids = self.tok_encode(text)
        return ids[1:] if ids[:1] == [self.prefix_token_id] else ids

    # --- requests

    def _request(self, context: str, settings: dict[str, Any], seed: int) -> Request:
        """The request of a task's question; `max_new_tokens` is the task's number, not yet in whole blocks."""
        said = {name: value for name, value in settings.items() if not _asks_for_nothing(name, value)}
        chosen = normalize_gen_kwargs(said, self.method.max_new_tokens or DEFAULT_NEW_TOKENS)
        for name in chosen:
            if name not in SETTINGS:
                raise unknown("generation setting", name, SETTINGS)
        whole("max_gen_toks", chosen["max_gen_toks"], 1, required=True)
        # The method checks the task's settings, and keeps its own for those that the task does not set.
        method = self.method.change(**{name: chosen[name] for name in ("temperature", "top_p", "top_k") if name in chosen})
        return Request(
            prompt=tuple(self.tok_encode(context) or [self.prefix_token_id]),
            method=method,
            max_new_tokens=chosen["max_gen_toks"],
            temperature=method.temperature or 0.0,
            top_p=method.top_p,
            top_k=method.top_k,
            seed=seed,
            stop=tuple(string for string in chosen["until"] if string),
        )

    def _whole_blocks(self, tokens: int) -> int:
        block = self.method.block_length or tokens
        return -(-tokens // block) * block

    def _shortened(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[tuple[int, ...]]:
        """Prompts cut at their start if they and an answer of `lengths` tokens do not fit; the last token always stays."""
        limits = [max(1, self.max_length - length) for length in lengths]
        cut = sum(len(prompt) > limit for prompt, limit in zip(prompts, limits, strict=True))
        if cut:
            LOG.warning(
                f"{cut} of {len(prompts)} prompts were cut at their start: the model takes {self.max_length} tokens in all"
            )
        return [tuple(prompt[-limit:]) for prompt, limit in zip(prompts, limits, strict=True)]

    def _batches(self, sizes: Sequence[tuple[int, int]], label: str, quiet: bool) -> Iterator[list[int]]:
        """Indices of `sizes`, `batch_size` at a time, the largest first; a batch has one first number."""
        order = sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)
        # None: a progress bar only on a terminal.
        with tqdm(total=len(order), desc=label, disable=quiet or None) as bar:
            for _, group in itertools.groupby(order, key=lambda place: sizes[place][0]):
                while chunk := list(itertools.islice(group, self.batch_size)):
                    yield chunk
                    bar.update(len(chunk))


def _asks_for_nothing(name: str, value: Any) -> bool:
    """Whether a generation setting leaves everything as it is.

    >>> _asks_for_nothing("num_beams", 1), _asks_for_nothing("num_beams", 4), _asks_for_nothing("top_k", -1)
    (True, False, True)
    """
    if name == "top_k" and isinstance(value, int):
        return value <= 0
    return value is None or (name in NEUTRAL and value == NEUTRAL[name])


def _method(name: str, settings: dict[str, Any]) -> Method:
    """A preset with these options, or a settings file with these settings replaced."""
    if name in TABLE:
        own = [name for name, given in inspect.signature(UnmaskLM).parameters.items() if given.kind is given.KEYWORD_ONLY]
        for option in settings:
            if not takes(name, option):
                raise unknown("model argument", option, {*own, *options(name)})
    return load(name, **settings)


def register() -> None:
    """Make `unmask` a model of the harness in this process; calling it again changes nothing."""
    if "unmask" not in model_registry:
        model_registry.register("unmask", target="unmask.evals.lm_eval:UnmaskLM")


def main() -> None:
    """Run the harness's command line; unmask's errors are one line and exit code 2."""
    register()
    try:
        cli_evaluate()
    except UnmaskError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
