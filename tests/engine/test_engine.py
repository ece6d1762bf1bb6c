"""The engine equals the reference loop request by request, keeps its limits, and streams what stays."""

import dataclasses
import random
import threading

import pytest
import torch

import unmask
from tests.bytewise import Bytes
from tests.reference import alone, same_forward, timeless
from unmask.engine import simple
from unmask.engine.engine import Engine, Limits
from unmask.engine.request import Completion, Progress, Request
from unmask.methods import TABLE
from unmask.models.denoiser import Denoiser
from unmask.models.toy import EOS, MASK, toy

FAMILIES = ("llada", "dream")


def model(family: str = "llada", *, seed: int = 5, dtype: torch.dtype = torch.float32) -> Denoiser:
    return dataclasses.replace(toy(family, seed=seed, sharpness=3, dtype=dtype), tokenizer=Bytes())


def drawn(rng: random.Random, count: int) -> list[Request]:
    """Any requests: six methods with any context and drafts, any lengths, sampling and stop strings."""
    methods = []
    for _ in range(6):
        options: dict[str, object] = {"block_length": rng.choice([8, 16]), "cache": rng.choice(["none", "prefix", "dual"])}
        if rng.random() < 0.5:
            options["suffix_window"] = rng.choice([None, 5])
        if rng.random() < 0.3:
            options["draft_steps"] = rng.choice([1, 2, 4])
        name = rng.choice(list(TABLE))
        if options["cache"] != "none" and not name.endswith("-official"):
            options["prompt_interval"] = rng.choice([1, 2, None])
        methods.append(unmask.method(name, **options))
    return [
        Request(
            prompt=tuple(rng.randrange(EOS) for _ in range(rng.choice([1, 2, 9, 30, 70]))),
            method=rng.choice(methods),
            max_new_tokens=rng.choice([16, 32, 48]),
            temperature=rng.choice([0.0, 0.0, 1.0]),
            top_p=rng.choice([None, 0.9]),
            seed=rng.randrange(100),
            stop=rng.choice([(), (), ("ab", "b€"), ("h",)]),
            limit=rng.choice([None, None, 13, 64]),
        )
        for _ in range(count)
    ]


def run(engine: Engine, requests: list[Request], rng: random.Random, *, watch: bool = False) -> list[list[Progress]]:
    """Let the requests arrive at random moments; each one's progress."""
    seen: list[list[Progress]] = []
    arriving = list(requests)
    while arriving or engine.busy:
        while arriving and rng.random() < 0.4:
            assert engine.submit(arriving.pop(0), watch=watch) == len(seen)
            seen.append([])
        for progress in engine.step():
            seen[progress.number].append(progress)
        load = engine.load
        assert load.running <= engine.limits.rows
        assert load.pages <= load.all_pages
    assert engine.load[:3] == (0, 0, 0)
    return seen


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("family", FAMILIES)
def test_it_equals_the_reference_loop_request_by_request(family: str, seed: int, ahead: bool) -> None:
    """Two dozen requests of any kind at any time, in fp32 and under tight limits: answers, costs, ends and every record."""
    rng = random.Random(seed)
    denoiser, requests = model(family), drawn(rng, 24)
    engine = Engine(denoiser, Limits(memory=60 * denoiser.page_bytes, rows=7, tokens=900), ahead=ahead)
    seen = run(engine, requests, rng, watch=True)
    for request, progress in zip(requests, seen, strict=True):
        forwards: list[simple.Forward] = []
        expected = alone(denoiser, request, forwards)
        completion = progress[-1].completion
        assert completion is not None
        assert timeless(completion) == expected
        assert [made.completion for made in progress[:-1]] == [None] * (expected.forwards - 1)
        for number, (made, forward) in enumerate(zip(progress, forwards, strict=True)):
            assert made.record is not None
            assert made.record.forward == number
            assert same_forward(made.record, forward)
        assert "".join(made.text for made in progress) == expected.text


def test_forwards_are_shared_by_any_methods_and_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight methods side by side take as many forwards as the longest of them, refreshes and block forwards together."""
    denoiser, counts = model(), list[int]()
    forward = Denoiser.forward

    def counted(self: Denoiser, tokens_N: torch.Tensor, *rest: object) -> torch.Tensor:
        counts.append(len(tokens_N))
        return forward(self, tokens_N, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Denoiser, "forward", counted)
    requests = [
        Request(prompt=(1, 2, 3), method=unmask.method(name, block_length=8), max_new_tokens=32)
        for name in TABLE
        if not name.startswith("vanilla")
    ]
    done = Engine(denoiser).generate(requests)
    assert len(counts) == max(completion.forwards for completion in done)
    counts.clear()
    done = Engine(denoiser, Limits(tokens=70)).generate(requests)
    assert max(counts) <= 70
    assert len(counts) < sum(completion.forwards for completion in done) / 1.5


def test_first_done_first_out_and_long_ones_do_not_wait() -> None:
    denoiser = model()
    short = Request(prompt=(1, 2), method=unmask.method("r2-dllm", block_length=8), max_new_tokens=8)
    long = Request(prompt=(1, 2), method=unmask.method("vanilla-official", block_length=8), max_new_tokens=64)
    engine = Engine(denoiser, Limits(rows=2))
    numbers = [engine.submit(request) for request in (long, short, short, short)]
    order = []
    while engine.busy:
        order += [progress.number for progress in engine.step() if progress.completion is not None]
    assert order == [*numbers[1:], numbers[0]]


def test_everybodys_turn_comes_within_a_round() -> None:
    """A budget of two refreshes at a time: of six rows nobody waits longer than three steps."""
    engine = Engine(model(), Limits(tokens=90), ahead=True)
    request = Request(prompt=(1,) * 12, method=unmask.method("vanilla-official", block_length=16), max_new_tokens=32)
    numbers = {engine.submit(request) for _ in range(6)}
    steps = []
    while engine.busy:
        steps.append({progress.number for progress in engine.step()})
    assert steps.pop(0) == set()  # the first is launched and has not landed
    assert all(len(ran) <= 2 for ran in steps)
    assert len(steps) == 3 * 32
    for at in range(0, len(steps), 3):
        assert steps[at] | steps[at + 1] | steps[at + 2] == numbers


@pytest.mark.parametrize(
    ("limits", "options", "words"),
    [
        (Limits(memory=0), {}, ["memory for 42 tokens", "holds 0", "cache=none"]),
        (Limits(memory=2 * 16 * 512), {"draft_steps": 4}, ["93 tokens", "holds 32"]),
        (Limits(tokens=41), {}, ["up to 42 tokens", "hold 41"]),
        (Limits(), {"block_length": 5}, ["block_length 5", "use 4"]),
    ],
)
def test_what_can_never_fit_is_refused_at_once(limits: Limits, options: dict[str, object], words: list[str]) -> None:
    engine = Engine(model(), limits)
    request = Request(
        prompt=(1,) * 10, method=unmask.method("fast-dllm", **({"block_length": 16} | options)), max_new_tokens=32
    )
    with pytest.raises(unmask.UnmaskError) as caught:
        engine.submit(request)
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(unmask.UnmaskError):
        engine.generate(
            [
                dataclasses.replace(request, prompt=(1,), max_new_tokens=16, method=unmask.method("vanilla", block_length=8)),
                request,
            ]
        )
    assert not engine.busy
    # Without a cache nothing is remembered, so no memory is needed.
    if limits.memory == 0:
        free = dataclasses.replace(request, method=unmask.method("fast-dllm", block_length=16, cache="none"))
        assert engine.generate([free])[0].forwards > 0


@pytest.mark.parametrize("seed", range(3))
def test_aborts_at_any_moment_free_everything_and_disturb_nobody(seed: int) -> None:
    rng = random.Random(seed)
    denoiser, requests = model("dream"), drawn(rng, 20)
    engine = Engine(denoiser, Limits(memory=40 * denoiser.page_bytes, rows=5, tokens=700))
    numbers = [engine.submit(request) for request in requests]
    doomed = set(rng.sample(numbers, 10))
    done: dict[int, Completion] = {}
    while engine.busy:
        if doomed and rng.random() < 0.5:
            engine.abort(doomed.pop())
        for progress in engine.step():
            if progress.completion is not None:
                done[progress.number] = progress.completion
    assert engine.load[:3] == (0, 0, 0)
    assert len(done) >= 10
    for number, completion in done.items():
        assert timeless(completion) == alone(denoiser, requests[number])
    engine.abort(numbers[0])  # long gone: nothing happens


def test_an_abort_during_a_forward_ends_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = model()
    engine = Engine(denoiser, ahead=True)
    request = Request(prompt=(1, 2), method=unmask.method("fast-dllm", block_length=8), max_new_tokens=32)
    kept, gone = engine.submit(request), engine.submit(request)
    forward = Denoiser.forward

    def meanwhile(self: Denoiser, *rest: object) -> torch.Tensor:
        client = threading.Thread(target=engine.abort, args=(gone,))
        client.start()
        client.join(timeout=10)  # the lock is free during a forward
        assert not client.is_alive()
        return forward(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Denoiser, "forward", meanwhile)
    assert engine.step() == []
    assert engine.load.running == 1
    monkeypatch.setattr(Denoiser, "forward", forward)
    assert [progress.number for progress in engine.step()] == [kept]


def test_an_abort_in_the_air_lends_its_memory_behind_the_landing() -> None:
    """Room for one: the second takes the pages and the seat of one whose forward is still under way, and is none the worse."""
    denoiser = model()
    request = Request(prompt=(1, 2), method=unmask.method("freedave", block_length=8), max_new_tokens=32)
    engine = Engine(denoiser, Limits(memory=5 * denoiser.page_bytes, rows=1), ahead=True)
    for steps in (1, 2, 3):
        gone = engine.submit(dataclasses.replace(request, prompt=(5,) * 9))
        for _ in range(steps):
            engine.step()
        engine.abort(gone)
        assert engine.load[:3] == (0, 0, 0)
        assert engine.busy  # the forward has yet to land
        assert timeless(engine.generate([request])[0]) == alone(denoiser, request)


def test_a_failed_forward_is_told_behind_what_has_landed(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, failing = model(), False
    engine = Engine(denoiser, Limits(rows=2), ahead=True)
    requests = [
        Request(prompt=(1, 2), method=unmask.method("vanilla-official", block_length=8), max_new_tokens=tokens)
        for tokens in (8, 16)
    ]
    forward = Denoiser.forward

    def fails(self: Denoiser, *rest: object) -> torch.Tensor:
        if failing:
            raise MemoryError("no room for this forward")
        return forward(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Denoiser, "forward", fails)
    short, _ = (engine.submit(request) for request in requests)
    for _ in range(8):
        engine.step()
    failing = True
    done = [progress for progress in engine.step() if progress.completion is not None]
    assert [progress.number for progress in done] == [short]
    with pytest.raises(MemoryError):
        engine.step()
    assert not engine.busy
    assert engine.load[:3] == (0, 0, 0)
    failing = False
    assert timeless(engine.generate(requests)[1]) == alone(denoiser, requests[1])


def test_requests_from_many_threads() -> None:
    denoiser = model()
    engine = Engine(denoiser, Limits(rows=4))
    rng = random.Random(0)
    requests = drawn(rng, 24)
    numbers: dict[int, int] = {}

    def client(part: int) -> None:
        for index in range(part, len(requests), 4):
            numbers[engine.submit(requests[index])] = index

    threads = [threading.Thread(target=client, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    done: dict[int, Completion] = {}
    while len(done) < len(requests):
        done |= {made.number: made.completion for made in engine.step() if made.completion is not None}
    assert sorted(numbers) == sorted(done) == list(range(24))
    for number, completion in done.items():
        assert timeless(completion) == alone(denoiser, requests[numbers[number]])


def test_drafts_go_on_from_the_text_and_end_in_the_answer() -> None:
    """A draft says which tokens are guesses; with the text handed out it is a whole block, and less is open every time."""
    rng = random.Random(3)
    denoiser, drafts = model(), 0
    requests = [dataclasses.replace(request, stop=()) for request in drawn(rng, 10)]
    for request, progress in zip(requests, run(Engine(denoiser), requests, rng, watch=True), strict=True):
        text, final = "", progress[-1].completion
        assert final is not None
        for made in progress:
            text += made.text
            if made.draft is None:
                continue
            drafts += 1
            assert made.record is not None
            assert made.draft.start == len(text)
            assert made.draft.forward == made.record.forward
            begin = made.record.start[0] - len(request.prompt)
            length = len(made.record.block[0])
            committed = [place - len(request.prompt) for place in made.record.committed[0]]
            before = [begin + place for place, token in enumerate(made.record.block[0]) if token == MASK]
            wanted = request.limit or request.max_new_tokens
            assert made.draft.masked == [place for place in before if place not in committed and place < wanted]
            assert set(made.draft.masked) <= set(range(begin, begin + length))
        assert text == final.text
    assert drafts > 50


def test_streams_go_on_while_prompts_take_turns() -> None:
    """Six prompts of 60 tokens beside a row in its block, 100 tokens of refreshes per step: one prompt each."""
    model = toy("llada", seed=5)
    method = unmask.method("vanilla-official", block_length=8, cache="dual")
    engine = Engine(model, Limits(rows=8, refresh=100), ahead=False)
    first = engine.submit(Request(prompt=(1, 2), method=method, max_new_tokens=8))
    engine.step()
    others = [engine.submit(Request(prompt=(1,) * 60, method=method, max_new_tokens=8)) for _ in range(6)]
    begun: list[int] = []
    for number in range(6):
        made = {progress.number for progress in engine.step()}
        assert first in made
        begun += [other for other in others if other in made and other not in begun]
        assert begun == others[: number + 1]


def test_a_batch_waits_for_no_stream() -> None:
    model, asked = toy("llada", seed=5), [Request(prompt=(1,) * 60, method=unmask.method("vanilla"), max_new_tokens=32)] * 3
    limits = Limits.fitting(model, asked)
    assert limits.refreshes(model) == limits.budget(model)
    assert Limits(tokens=512).refreshes(model) == 512
    with pytest.raises(unmask.ConfigError, match="refresh"):
        Limits(refresh=0)
