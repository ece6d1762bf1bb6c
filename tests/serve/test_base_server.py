"""A server of a base model, without its chat template: completions are asked as they are, chats are refused in one line."""

import openai
import pytest

from tests.serve.live import Serving
from unmask.models.denoiser import Denoiser

PROMPT = "3 + 4 ="


def test_completions_are_plain_and_chats_are_refused(serving: Serving, tiny: Denoiser) -> None:
    with serving(tiny.asked(chat_template=False)) as live:
        client = live.client()
        made = client.completions.create(model="unmask-tiny", prompt=PROMPT, max_tokens=32)
        assert made.usage is not None
        assert made.usage.prompt_tokens == len(tiny.tokenizer.encode(PROMPT))
        with pytest.raises(openai.BadRequestError, match="runs without its chat template here: give a plain prompt"):
            client.chat.completions.create(model="unmask-tiny", messages=[{"role": "user", "content": PROMPT}])
        with live.http() as http:
            assert '"chat": false' in http.get("/").text
