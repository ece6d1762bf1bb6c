"""The embedded model's tokenizer: whole words of its tasks, one token per digit, letters and bytes for everything else.

A Unigram model over a fixed list, so nothing is learnt and the file is the same on every machine. Numbers are joined to
the word before them (`with 23` is `▁with 2 3`) and the decoder restores the space, which saves a token per number.
"""

import itertools
import re
import string
from collections.abc import Iterable, Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from unmask.tasks import problems, sums

SPECIAL = ("<|pad|>", "<|eos|>", "<|mask|>", "<|user|>", "<|assistant|>")
# The characters that a number is joined to; the decoder puts a space between one of these and a digit.
BEFORE_NUMBER = "[A-Za-z+*/=-]"
PAD, EOS, MASK = range(3)
# A word or operator, and the character right before it if that is not a space.
_WORD = re.compile(r"([^\s\w])?([A-Za-z]+|(?<= )[-+=])")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|eos|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def vocabulary(mixture: Mapping[str, float], texts: int = 5000) -> list[str]:
    """The pieces of a tokenizer in which every word of the mixture is one token: words with their space, or without.

    >>> "▁Compute" in vocabulary({"chain": 1.0}, texts=10)
    True
    """
    found = {"▁" + word for word in sums.words()}
    for problem in itertools.islice(problems(mixture, "train", seed=0), texts):
        for text in (problem.question, problem.worked):
            found.update(word if open else "▁" + word for open, word in _WORD.findall(text))
    return sorted(found)


def build(words: Iterable[str], *, model_max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer in which each of `words` (▁ is a space) is one token and any other text is letters and bytes.

    >>> tokenizer = build(["▁has", "▁apples"], model_max_length=512)
    >>> tokenizer.tokenize("Mia has 23 apples.")
    ['▁', 'M', 'i', 'a', '▁has', '2', '3', '▁apples', '.']
    >>> tokenizer.decode(tokenizer.encode("Mia has 23 apples."))
    'Mia has 23 apples.'
    """
    pieces: list[tuple[str, float]] = [(token, 0.0) for token in SPECIAL]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    pieces += [(character, -10.0) for character in "▁" + string.digits + string.ascii_letters + string.punctuation]
    pieces += [(word, -1.0) for word in sorted(set(words))]
    # Unigram needs an unknown token by number; with all bytes present it is never used.
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=PAD, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(Regex(f"(?<={BEFORE_NUMBER}) (?=[0-9])"), "")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Replace("▁", " "),
            decoders.Fuse(),
            decoders.Replace(Regex(f"(?<={BEFORE_NUMBER})(?=[0-9])"), " "),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[PAD],
        eos_token=SPECIAL[EOS],
        mask_token=SPECIAL[MASK],
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template into `folder`."""
    tokenizer.save_pretrained(folder)
