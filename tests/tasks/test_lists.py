"""ParallelBench's list operations: every right answer passes and no other, checked by counting all of them."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.evals import load
from unmask.evals.task import Source
from unmask.files import digest
from unmask.tasks import TASKS, problems
from unmask.tasks.lists import KINDS, ListOperation, sample_of

# How many answers over three names and a fourth are right.
RIGHT = {"shuffle": 5, "insert_random": 4, "remove_random": 3, "replace_random": 3}
LINE, NEW = ("Mia", "Tom", "Ana"), "Zoe"


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_right_answers_pass(kind: str) -> None:
    _, expected = KINDS[kind](list(LINE), 1, NEW, random.Random(0))
    rule = ListOperation(kind=kind, line=LINE, name=NEW, expected=tuple(expected))
    every = (answer for length in range(5) for answer in itertools.product((*LINE, NEW), repeat=length))
    accepted = [answer for answer in every if rule.accepts(answer)]
    assert tuple(expected) in accepted
    assert len(accepted) == RIGHT.get(kind, 1)


def test_results_by_hand() -> None:
    made = {kind: ", ".join(KINDS[kind](list(LINE), 1, NEW, random.Random(0))[1]) for kind in KINDS}
    del made["shuffle"]
    assert made == {
        "copy": "Mia, Tom, Ana",
        "reverse": "Ana, Tom, Mia",
        "sort": "Ana, Mia, Tom",
        "insert_index": "Mia, Zoe, Tom, Ana",
        "insert_random": "Mia, Zoe, Tom, Ana",
        "remove_index": "Mia, Ana",
        "remove_random": "Mia, Ana",
        "replace_index": "Mia, Zoe, Ana",
        "replace_random": "Mia, Zoe, Ana",
    }


@settings(max_examples=60)
@given(st.sampled_from(list(KINDS)), st.integers(0, 10**9))
def test_worked_answers_pass(kind: str, seed: int) -> None:
    problem = sample_of(kind, random.Random(seed))
    assert problem.task == f"waiting_line_{kind}"
    assert problem.verify(problem.worked)
    assert not problem.verify(problem.worked.replace("answer is", "answer is Nemo,"))
    assert not problem.verify(problem.key)


def test_evaluated_held_out_and_no_part_of_the_mixture() -> None:
    task = load("waiting_line", Source(limit=60))
    assert {item.group for item in task.items} == {f"waiting_line_{kind}" for kind in KINDS}
    assert {item.facts["problem"].split for item in task.items} == {"test"}
    assert all(task.score(item, item.reference)["exact"] for item in task.items)
    alone = load("waiting_line_sort", Source(limit=20))
    assert {item.group for item in alone.items} <= {str(length) for length in range(3, 9)}
    assert not any(name.startswith("waiting_line") for name in TASKS)


def test_the_streams_of_the_trained_tasks_stay() -> None:
    """What unmask-tiny was trained on, before there were lists."""
    drawn = itertools.islice(problems(dict.fromkeys(TASKS, 1.0), "train", seed=0), 300)
    assert digest([[problem.question, problem.worked] for problem in drawn]) == "20d6df27afe30c8e"
