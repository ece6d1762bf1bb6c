"""How a text becomes a prompt: in the chat template or as it is, behind a BOS token or not, the same way everywhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.engine.generate import make_request
from unmask.engine.prompt import chat, encode
from unmask.models.loading import locate
from unmask.models.toy import toy

QUESTION = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
BOS = 4  # <|assistant|>, which stands for a token that begins a text


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with a BOS token, which its tokenizer does not write by itself."""
    folder = tmp_path_factory.mktemp("models") / "base"
    shutil.copytree(locate("unmask-tiny"), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<|assistant|>"}))
    return folder


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return unmask.load(base)


def test_four_ways_to_ask(model: Any) -> None:
    plain = tuple(model.tokenizer.encode(QUESTION))
    framed = chat(model, [{"role": "user", "content": QUESTION}])
    assert len(framed) > len(plain)
    for template, wanted in ((True, framed), (False, plain)):
        assert encode(model.asked(chat_template=template), QUESTION) == wanted
        assert encode(model.asked(chat_template=template, add_bos=True), QUESTION) == (BOS, *wanted)


def test_bos_stands_there_once(model: Any) -> None:
    asked = model.asked(chat_template=False, add_bos=True)
    assert encode(asked, f"<|assistant|>{QUESTION}") == encode(asked, QUESTION)


def test_token_ids_stay_as_they_are(model: Any) -> None:
    assert encode(model.asked(chat_template=False, add_bos=True), [7, 8]) == (7, 8)


def test_load_and_generate_ask_alike(base: Path, model: Any) -> None:
    named = {"chat_template": False, "add_bos": True}
    loaded = unmask.load(base, **named)  # type: ignore[arg-type]
    ids = [BOS, *model.tokenizer.encode(QUESTION)]
    (wanted,) = unmask.generate(model, [ids], max_new_tokens=32)
    for made in (
        unmask.generate(loaded, [QUESTION], max_new_tokens=32),
        unmask.generate(model, [QUESTION], max_new_tokens=32, **named),  # type: ignore[arg-type]
    ):
        assert made[0].token_ids == wanted.token_ids
    (usual,) = unmask.generate(loaded, [QUESTION], max_new_tokens=32, chat_template=True, add_bos=False)
    assert usual.token_ids == unmask.generate(model, [QUESTION], max_new_tokens=32)[0].token_ids


def test_a_canvas_begins_with_bos(model: Any) -> None:
    canvas = unmask.canvas("3 + 4 = ", unmask.hole(2))
    without, behind = make_request(model, canvas).prompt, make_request(model.asked(add_bos=True), canvas).prompt
    assert behind == (BOS, *without)


def test_a_chat_is_refused_where_there_is_no_template(model: Any) -> None:
    with pytest.raises(unmask.RequestError, match="base runs without its chat template here: give a plain prompt"):
        chat(model.asked(chat_template=False), [{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("name", ["unmask-tiny", "toy"])
def test_a_bos_token_that_is_not_there_is_refused_in_one_line(name: str) -> None:
    model = toy() if name == "toy" else unmask.load(name)
    with pytest.raises(unmask.ConfigError, match=r"cannot be asked behind a BOS token, because it.*: leave add_bos out"):
        model.asked(add_bos=True)
    with pytest.raises(unmask.ConfigError, match="leave add_bos out"):
        unmask.generate(model, [[5, 6]], add_bos=True, max_new_tokens=32)
