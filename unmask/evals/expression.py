"""The value of an arithmetic expression in a model's answer: an exact parser of + - * / and brackets, without eval."""

import re
from fractions import Fraction

# Bounds the depth of the recursion and the size of every number.
MOST_CHARACTERS = 100


def evaluate(text: str) -> tuple[Fraction, list[Fraction]]:
    """The value of an expression and the numbers in it, in their order; -3 is one number if nothing precedes it.

    Raises ValueError for text that is not such an expression, is longer than 100 characters or divides by zero.

    >>> evaluate("(44 - 15) * 2")
    (Fraction(58, 1), [Fraction(44, 1), Fraction(15, 1), Fraction(2, 1)])
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError("too long")
    tokens = re.findall(r"[0-9]+(?:\.[0-9]+)?|\S", text)[::-1]  # the next one is the last: pop takes it
    numbers: list[Fraction] = []
    try:
        value = _sum(tokens, numbers)
    except (IndexError, ZeroDivisionError):
        raise ValueError("ends too early, or divides by zero") from None
    if tokens:
        raise ValueError(f"{tokens[-1]} where an operator belongs")
    return value, numbers


def _sum(tokens: list[str], numbers: list[Fraction]) -> Fraction:
    value = _product(tokens, numbers)
    while tokens and tokens[-1] in "+-":
        sign = 1 if tokens.pop() == "+" else -1
        value += sign * _product(tokens, numbers)
    return value


def _product(tokens: list[str], numbers: list[Fraction]) -> Fraction:
    value = _factor(tokens, numbers)
    while tokens and tokens[-1] in "*/":
        divides = tokens.pop() == "/"
        factor = _factor(tokens, numbers)
        value = value / factor if divides else value * factor
    return value


def _factor(tokens: list[str], numbers: list[Fraction]) -> Fraction:
    token = tokens.pop()
    if token == "(":
        value = _sum(tokens, numbers)
        if tokens.pop() != ")":
            raise ValueError("a bracket stays open")
        return value
    if token == "-" and tokens[-1] == "(":
        return -_factor(tokens, numbers)
    number = -Fraction(tokens.pop()) if token == "-" else Fraction(token)  # ValueError if it is not a number
    numbers.append(number)
    return number
