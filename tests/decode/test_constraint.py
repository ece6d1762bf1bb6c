"""A way through an automaton, against the enumeration of all answers: random automata, canvases, evidence and commits."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from unmask.decode.automaton import Automaton
from unmask.decode.chain import Chain, Chains
from unmask.decode.constraint import Held, Placed, held
from unmask.decode.narrow import restrict
from unmask.decode.proposal import Proposal
from unmask.decode.sampling import Sampling
from unmask.decode.step import BlockFacts, propose
from unmask.errors import GrammarError
from unmask.grammar.constraint import Grammar
from unmask.grammar.lift import automaton

END, MASK, VOCABULARY = 4, 5, 6  # 0 to 3 are text


def random_automaton(draw: np.random.Generator) -> Automaton:
    """Of 1 to 5 states over 2 to 4 tokens, and an end behind which there are only ends."""
    states, tokens = int(draw.integers(1, 6)), int(draw.integers(2, 5))
    next_CS = np.full((tokens + 2, states + 1), -1)
    to_CS = draw.integers(0, states, (tokens, states))
    next_CS[1 : tokens + 1, :states] = np.where(draw.random((tokens, states)) < 0.6, to_CS, -1)
    accept_S = draw.random(states) < 0.4
    next_CS[-1, :states] = np.where(accept_S, states, -1)
    next_CS[-1, states] = states
    class_V = np.zeros(VOCABULARY, dtype=np.int64)
    class_V[:tokens] = np.arange(1, tokens + 1)
    class_V[END] = tokens + 1
    return automaton(next_CS, class_V, np.append(accept_S, True), ends=(END,), mask_id=MASK)


def answers(made: Automaton, canvas: list[int]) -> list[tuple[int, ...]]:
    """All fillings of a canvas that are answers."""
    choices = [range(VOCABULARY - 1) if token == MASK else (token,) for token in canvas]
    return [ids for ids in itertools.product(*choices) if _accepts(made, ids)]


def _accepts(made: Automaton, ids: tuple[int, ...]) -> bool:
    state = made.walk(ids)
    return state >= 0 and made.least(state) == 0


def evidence(logits_KLV: Tensor, token_KL: Tensor, sampling: Sampling | None = None) -> Proposal:
    rows, length = token_KL.shape
    zero = torch.zeros(rows, dtype=torch.long)
    facts = BlockFacts(torch.zeros(rows, length, dtype=torch.bool), zero, zero, sampling)
    return propose(logits_KLV, token_KL, facts, mask_id=MASK, eos_E=torch.tensor([END]))


def chain(made: Automaton, length: int, rows: int = 1) -> Chains:
    return Chains.of([Chain(made, 0, made.left_S <= 0, length)] * rows, length, torch.device("cpu"))


def placed(grammar: Grammar, window: Tensor, *, prompt: int = 0, behind: list[int]) -> Held:
    return held([Placed(grammar, window.shape[1], prompt, tuple(behind))])


class Case(NamedTuple):
    made: Automaton
    canvas: list[int]
    answers: list[tuple[int, ...]]
    draw: np.random.Generator


@st.composite
def cases(draw: st.DrawFn) -> Case | None:
    """None where the automaton has no answer at all."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    length = draw(st.integers(1, 5))
    try:
        made = random_automaton(random)
    except GrammarError:
        return None
    free = answers(made, [MASK] * length)
    canvas = [MASK] * length
    if free and draw(st.booleans()):  # some of it stands already
        for place in np.flatnonzero(random.random(length) < 0.3).tolist():
            canvas[place] = free[int(random.integers(len(free)))][place]
    return Case(made, canvas, answers(made, canvas), random)


@seed(18)
@settings(max_examples=150)
@given(cases())
def test_allowed_tokens_the_best_way_and_confidence_are_those_of_the_enumeration(case: Case | None) -> None:
    if case is None:
        return
    made, canvas, found, draw = case
    assert (made.least() <= len(canvas)) == bool(answers(made, [MASK] * len(canvas)))
    if not found:
        return
    logits = torch.from_numpy(draw.normal(size=(1, len(canvas), VOCABULARY)) * 3).float()
    shown = evidence(logits, torch.tensor([canvas]))
    narrowed = restrict(chain(made, len(canvas)), logits, shown)
    logp = logits[0].log_softmax(-1)
    masked = [place for place, token in enumerate(canvas) if token == MASK]

    def weight(ids: tuple[int, ...]) -> float:
        return sum(float(logp[place, ids[place]]) for place in masked)

    path = tuple(narrowed.candidate_BL[0].tolist())
    assert path in found
    assert weight(path) == pytest.approx(max(map(weight, found)), abs=1e-4)
    for place in masked:
        allowed = {ids[place] for ids in found}
        share = sum(float(logp[place, token].exp()) for token in (*allowed, MASK))
        expected = float(logp[place, path[place]].exp()) / share
        assert narrowed.confidence_BL[0, place].item() == pytest.approx(min(expected, 1.0), rel=1e-4)
        assert narrowed.filler_BL[0, place].item() == (len(allowed) == 1)


@seed(18)
@settings(max_examples=150)
@given(cases(), st.integers(1, 4), st.booleans(), st.sampled_from([0.0, 1.0]))
def test_any_commits_in_any_order_end_in_an_answer(case: Case | None, block: int, deaf: bool, temperature: float) -> None:
    """Block by block, any part of each way; `deaf` evidence gives what is allowed no probability at all."""
    if case is None or not case.answers:
        return
    made, canvas, _, draw = case
    grammar, tokens = Grammar(automaton=made, limit=len(canvas)), list(canvas)
    for start in range(0, len(tokens), block):
        while MASK in tokens[start : start + block]:
            window = torch.tensor([tokens[start : start + block]])
            logits = torch.from_numpy(draw.normal(size=(1, window.shape[1], VOCABULARY)) * 4).float()
            if deaf:
                logits[..., : VOCABULARY - 1] = [-torch.inf, -200.0, torch.nan][int(draw.integers(3))]
            sampling = drawn(len(window[0]), start, int(draw.integers(99))) if temperature else None
            shown = evidence(logits, window, sampling)
            narrowed = placed(grammar, window, behind=tokens[start + block :]).narrow(logits, shown, sampling, "confidence")
            masked = [place for place, token in enumerate(window[0].tolist()) if token == MASK]
            for place in draw.permutation(masked)[: int(draw.integers(1, len(masked) + 1))].tolist():
                tokens[start + place] = int(narrowed.candidate_BL[0, place])
        grammar = grammar.after(tokens[start : start + block])
    assert tuple(tokens) in case.answers


def drawn(length: int, start: int = 0, number: int = 0, **narrow: Tensor) -> Sampling:
    return Sampling(
        torch.tensor([[1.0]]),
        torch.tensor([[number]]),
        torch.arange(start, start + length)[None],
        narrow.get("top_p"),
        narrow.get("top_k"),
    )


def words(*texts: str) -> Automaton:
    """Of these words over the letters a to d, which are the tokens 0 to 3."""
    from unmask.grammar.dfa import compiled
    from unmask.grammar.expression import either
    from unmask.grammar.lift import lifted
    from unmask.grammar.text import TextMap

    text = TextMap((b"a", b"b", b"c", b"d", None, None))
    return lifted(compiled(either(*texts)), text, ends=(END,), mask_id=MASK, vocabulary=VOCABULARY)


def test_two_ways_do_not_mix() -> None:
    """The likeliest of each position alone would be "ad"."""
    logits = torch.tensor([[[2.0, 0.0, 1.9, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 2.0, 0.0, 0.0]]])
    made = words("ab", "cd")
    narrowed = restrict(chain(made, 2), logits, evidence(logits, torch.tensor([[MASK, MASK]])))
    assert narrowed.candidate_BL.tolist() == [[2, 3]]


def test_each_guessed_state_has_its_own_way() -> None:
    logits = torch.zeros(3, 2, VOCABULARY)
    states = torch.tensor([[MASK, MASK], [0, MASK], [MASK, 3]])
    narrowed = restrict(chain(words("ab", "cd"), 2, 3), logits, evidence(logits, states))
    assert narrowed.candidate_BL[1:].tolist() == [[0, 1], [2, 3]]


def test_drawn_ways_have_the_models_distribution_given_that_they_are_allowed() -> None:
    texts = ["ab", "cd", "ca", "b", "dda", "ad"]
    made, draw = words(*texts), np.random.default_rng(3)
    logits = torch.from_numpy(draw.normal(size=(1, 3, VOCABULARY))).float()
    found = answers(made, [MASK] * 3)
    assert len(found) == len(texts)
    logp = logits[0, :, : VOCABULARY - 1].log_softmax(-1)
    mass = torch.stack([sum(logp[place, token] for place, token in enumerate(ids)) for ids in found]).softmax(0)  # type: ignore[arg-type]
    count = 8_000
    rows = logits.expand(count, -1, -1).contiguous()
    sampling = Sampling(torch.ones(count, 1), torch.arange(count)[:, None], torch.arange(3).expand(count, 3), None, None)
    tokens = torch.full((count, 3), MASK)
    narrowed = restrict(chain(made, 3, count), rows, evidence(rows, tokens, sampling), sampling=sampling)
    seen = [tuple(ids) for ids in narrowed.candidate_BL.tolist()]
    expected = mass * count
    observed = torch.tensor([float(seen.count(ids)) for ids in found])
    assert observed.sum() == count
    assert float(((observed - expected) ** 2 / expected).sum()) < 20.5  # chi squared, 5 degrees of freedom, p = 0.001


def test_filters_leave_the_best_way_in() -> None:
    """top_k 1 keeps "a" and "d", of which there is no word."""
    logits = torch.tensor([[[2.0, 0.0, 1.9, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 2.0, 0.0, 0.0]]])
    for number in range(20):
        sampling = drawn(2, number=number, top_k=torch.tensor([[1]]))
        shown = evidence(logits, torch.tensor([[MASK, MASK]]), sampling)
        narrowed = restrict(chain(words("ab", "cd"), 2), logits, shown, sampling=sampling)
        assert narrowed.candidate_BL.tolist() == [[2, 3]]


def everything() -> Automaton:
    """One state that every token but the mask leads back to."""
    class_V = np.ones(VOCABULARY, dtype=np.int64)
    class_V[MASK] = 0
    return automaton(np.array([[-1], [0]]), class_V, np.array([True]), ends=(END,), mask_id=MASK)


@pytest.mark.parametrize("score", ["confidence", "margin", "negative_entropy"])
@pytest.mark.parametrize("narrow", [None, {}, {"top_k": torch.tensor([[2]])}, {"top_p": torch.tensor([[0.5]])}])
def test_a_grammar_that_allows_everything_changes_nothing(score: str, narrow: dict[str, Tensor] | None) -> None:
    made, length = everything(), 16
    logits = torch.randn(1, length, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 2
    sampling = None if narrow is None else drawn(length, **narrow)
    tokens = torch.full((1, length), MASK)
    tokens[0, 3] = END
    zero = torch.zeros(1, dtype=torch.long)
    facts = BlockFacts(torch.zeros(1, length, dtype=torch.bool), zero, zero, sampling)
    shown = propose(logits, tokens, facts, mask_id=MASK, eos_E=torch.tensor([END]), score=score)  # type: ignore[arg-type]
    narrowed = restrict(chain(made, length), logits, shown, sampling=sampling, score=score)  # type: ignore[arg-type]
    masked = tokens == MASK
    for part in ("candidate_BL", "confidence_BL", "score_BL"):
        assert torch.equal(getattr(narrowed, part)[masked], getattr(shown, part)[masked]), part


def test_fixed_text_behind_the_window_counts() -> None:
    made = words("abc", "add")
    grammar = Grammar(automaton=made, limit=4)
    logits = torch.zeros(1, 2, VOCABULARY)
    logits[..., 1] = 3.0  # "b" is likelier
    shown = evidence(logits, torch.tensor([[MASK, MASK]]))
    narrowed = placed(grammar, shown.token_BL, behind=[3, MASK]).narrow(logits, shown, None, "confidence")
    assert narrowed.candidate_BL.tolist() == [[0, 3]]


def test_behind_the_limit_there_are_only_ends_and_the_prompt_stays() -> None:
    grammar = Grammar(automaton=words("ab", "abcd"), limit=2)
    logits = torch.randn(1, 6, VOCABULARY, generator=torch.Generator().manual_seed(2))
    shown = evidence(logits, torch.tensor([[3, 3, MASK, MASK, MASK, MASK]]))
    narrowed = placed(grammar, shown.token_BL, prompt=2, behind=[MASK]).narrow(logits, shown, None, "confidence")
    assert narrowed.candidate_BL[0, 2:].tolist() == [0, 1, END, END]
    assert narrowed.candidate_BL[0, :2].tolist() == [3, 3]


@seed(18)
@settings(max_examples=60)
@given(st.lists(cases(), min_size=2, max_size=5), st.sampled_from([0.0, 1.0]), st.sampled_from([1, 2]))
def test_rows_of_different_automata_decide_together_as_each_alone(
    found: list[Case | None], temperature: float, tried: int
) -> None:
    """To the last bit; windows reach into the prompt and behind the answer, each row's elsewhere, in one or two states."""
    some = [case for case in found if case is not None and case.answers]
    if not some:
        return
    length, draw = max(len(case.canvas) for case in some) + 3, some[0].draw
    rows, windows = [], []
    for case in some:
        before = int(draw.integers(0, length - len(case.canvas) + 1))
        behind = length - before - len(case.canvas)
        window = [0] * before + case.canvas + [MASK] * behind
        rows.append(Placed(Grammar(automaton=case.made, limit=len(case.canvas)), length, before, (MASK, MASK)))
        windows += [window] * tried
    tokens = torch.tensor(windows)
    logits = torch.from_numpy(draw.normal(size=(*tokens.shape, VOCABULARY)) * 4).float()
    count = len(tokens)
    hot = torch.full((count, 1), temperature)
    seeds, places = torch.arange(count)[:, None], torch.arange(length).expand(count, -1)
    sampling = Sampling(hot, seeds, places, None, None) if temperature else None
    shown = evidence(logits, tokens, sampling)
    together = held(rows).narrow(logits, shown, sampling, "margin")
    filled = held(rows).forced(tokens)
    for number, row in enumerate(rows):
        mine = slice(number * tried, (number + 1) * tried)
        alone = held([row]).narrow(logits[mine], shown.rows(mine), sampling and sampling.rows(mine), "margin")
        for name in ("candidate_BL", "confidence_BL", "score_BL", "filler_BL"):
            assert torch.equal(getattr(together, name)[mine], getattr(alone, name)), name
        assert torch.equal(filled[mine], held([row]).forced(tokens[mine]))
