"""Whatever a checkpoint's chat template does, the chat is answered or refused in one line."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import unmask
from unmask.engine import template
from unmask.engine.prompt import chat

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    loaded = unmask.load("unmask-tiny")
    monkeypatch.setattr(template, "SECONDS", 0.1)
    return loaded


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{{ messages + 1 }}", "TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{{ raise_exception('only users speak') }}", "turns: only users speak"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% for x in range(10**10) %}{% endfor %}", "OverflowError"),
        ("{% if %}", "TemplateSyntaxError"),
        ({"tools": "{{ 1 }}"}, "no default"),
        (ENDLESS, "does not end within 0.1 s"),
        (ENDLESS.replace("{% endfor %}", "{{ a }}{% endfor %}", 1), "does not end within 0.1 s"),
        ("{{ 'x' * 3000000 }}", "3000000 letters"),
    ],
)
def test_a_template_that_fails_refuses_the_turns_in_one_line(model: Any, written: Any, said: str) -> None:
    model.tokenizer.chat_template = written
    with pytest.raises(unmask.RequestError, match=said) as caught:
        unmask.generate(model, ["Hi"], max_new_tokens=32)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_debugger_or_coverage_goes_on_behind_a_template(model: Any) -> None:
    def tracer(*_: object) -> None:
        return None

    before = sys.gettrace()
    try:
        for written in (model.tokenizer.chat_template, "{{ 1 / 0 }}"):
            model.tokenizer.chat_template = written
            sys.settrace(tracer)
            with contextlib.suppress(unmask.RequestError):
                chat(model, [{"role": "user", "content": "Hi"}])
            assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


def test_a_long_chat_is_no_endless_one(model: Any) -> None:
    turns = [{"role": role, "content": "Hi"} for role in ("user", "assistant") * 500]
    assert len(chat(model, [*turns, {"role": "user", "content": "Hi"}])) > 2000


def test_a_tokenizer_is_loaded_without_clean_up(tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(Path(unmask.__file__).parent / "assets" / "unmask-tiny", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"clean_up_tokenization_spaces": True}))
    cleaning = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = unmask.load(folder).tokenizer
    ids = tokenizer.encode("so it is , and that 's it .")
    assert cleaning.decode(ids).strip() == "so it is, and that's it."
    from unmask.engine.text import read, settled

    answer = read(ids, tokenizer, (1,)).text
    assert answer.strip() == "so it is , and that 's it ."
    assert all(answer.startswith(settled(ids[:size], tokenizer, (1,))) for size in range(len(ids) + 1))
