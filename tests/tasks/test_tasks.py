"""Generated problems: right by their own verifier, disjoint between the splits, of the lengths that decoding needs."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unmask
from unmask.tasks import TASKS, problems, sums
from unmask.tasks.problem import Problem, Split

SEEDS = st.integers(0, 10**9)


def check_arithmetic(problem: Problem) -> None:
    """An independent reading of the question."""
    words = problem.question.replace("?", " ?").replace(".", " .").split()
    total = int(words[2])
    for place, word in enumerate(words):
        if word == "On":
            verb, rest = words[place + 3], words[place + 4 :]
            amount = int(rest[1] if rest[0] == "away" else rest[0])
            total += amount if verb in ("buys", "finds", "gets", "wins") else -amount
    assert problem.key == str(total)


def check_chain(problem: Problem) -> None:
    assert problem.key == str(eval(problem.question.removeprefix("Compute ").rstrip(".")))


def check_equations(problem: Problem) -> None:
    left, right = problem.question.removeprefix("Solve ").rstrip(".").split(" = ")
    assert eval(left.replace("x", problem.key)) == int(right)


def check_counting(problem: Problem) -> None:
    wanted, _, *word = problem.question.rstrip("?").removeprefix("How many times does ").split()
    assert problem.key == str(word[1:].count(wanted))


def check_sorting(problem: Problem) -> None:
    names = problem.question.removeprefix("Sort the names ").rstrip(".").split(", ")
    assert problem.key == ", ".join(sorted(names))


def check_expressions(problem: Problem) -> None:
    assert problem.key == str(eval(problem.question.removeprefix("What does Python print for ").rstrip("?")))


def check_editing(problem: Problem) -> None:
    how, line = problem.question.split(": ")
    words = line.split()
    if how.endswith("times"):
        words = words * int(how.split()[1])
    elif how.endswith("first"):
        words = words[::-1]
    else:
        _, new, _, old = how.split()
        words = [new if word == old else word for word in words]
    assert problem.key == " ".join(words)


CHECKS = {
    "arithmetic": check_arithmetic,
    "chain": check_chain,
    "equations": check_equations,
    "counting": check_counting,
    "sorting": check_sorting,
    "expressions": check_expressions,
    "editing": check_editing,
}


def test_every_task_has_an_independent_check() -> None:
    assert set(CHECKS) == set(TASKS)


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=60)
@given(SEEDS)
def test_keys_are_right_and_only_they_pass(name: str, seed: int) -> None:
    problem = TASKS[name](random.Random(seed))
    assert problem.task == name
    CHECKS[name](problem)
    assert problem.verify(problem.worked)
    assert not problem.verify(problem.worked.replace("The answer is", "The answer is 1"))
    assert not problem.verify(problem.key)
    assert not problem.verify("")


@pytest.mark.parametrize("name", TASKS)
def test_splits_share_no_question(name: str) -> None:
    def some(split: Split) -> set[str]:
        return {problem.question for problem in itertools.islice(problems(name, split, seed=0), 1000)}

    assert not some("train") & some("test")


def test_a_stream_depends_on_its_seed_alone() -> None:
    def some(seed: int) -> list[Problem]:
        return list(itertools.islice(problems({"chain": 1.0, "sorting": 1.0}, "train", seed=seed), 20))

    assert some(1) == some(1)
    assert some(1) != some(2)
    assert {problem.task for problem in some(1)} == {"chain", "sorting"}


def test_unknown_task() -> None:
    with pytest.raises(unmask.ConfigError, match="did you mean 'arithmetic'"):
        problems("arithmatic", "train", seed=0)


def test_sums_stay_within_two_digits() -> None:
    rng = random.Random(0)
    for _ in range(500):
        total = rng.randint(10, 99)
        sign, digit, result = sums.step(rng, total)
        assert result == (total + digit if sign == "+" else total - digit)
        assert 10 <= result <= 99
        assert 2 <= digit <= 9


def test_gsm_symbolic_is_split_by_template() -> None:

    def templates(split: Split) -> set[str | None]:
        found = list(itertools.islice(problems("gsm_symbolic", split, seed=0), 40))
        for problem in found:
            assert problem.verify(problem.worked)
            assert not problem.verify(f"First {problem.key}. The answer is {problem.key}1.")
        return {problem.family for problem in found}

    train, test = templates("train"), templates("test")
    assert not train & test
    assert len(train) > 20
    assert len(test) > 2


def test_decimal_and_negative_answers() -> None:
    half = Problem(task="", question="", worked="", key="-3.5", steps=1)
    assert half.verify("So it is. The answer is -3.5.")
    assert not half.verify("The answer is -3.")
    assert not half.verify("The answer is 3.5.")
