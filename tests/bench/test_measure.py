"""The clock takes turns, stops in time and says how many readings it made."""

import time

import torch

from unmask.bench.measure import machine, rounds

CPU = torch.device("cpu")


def test_sides_take_turns() -> None:
    calls: list[str] = []
    timings = rounds([lambda: calls.append("a"), lambda: calls.append("b")], CPU, repeats=3, seconds=9.0, warm=True)
    assert calls == ["a", "b"] * 3
    assert [timing.repeats for timing in timings] == [3, 3]
    assert all(timing.fastest <= timing.seconds <= timing.slowest for timing in timings)


def test_no_round_begins_after_its_time_and_one_always_does() -> None:
    timing = rounds([lambda: time.sleep(0.01)], CPU, repeats=1000, seconds=0.03, warm=True)[0]
    assert 1 <= timing.repeats < 10
    assert timing.fastest >= 0.01
    assert rounds([lambda: None], CPU, repeats=5, seconds=0.0, warm=True)[0].repeats == 1


def test_short_calls_are_repeated() -> None:
    calls = 0

    def side() -> None:
        nonlocal calls
        calls += 1

    timing = rounds([side], CPU, repeats=2, seconds=9.0)[0]
    assert calls > 100
    assert timing.seconds < 1e-3


def test_machine_says_what_it_is() -> None:
    found = machine(CPU)
    assert found["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
    assert found["torch"] == torch.__version__
    assert found["name"]
