"""The program in an answer: whole functions, in fenced blocks or bare, with prose around them, or the lines behind a head.

An answer is prose and code in any order. What is looked for is Python that defines a name; the first of these that does:

    the whole answer, if it is a program
    a fenced block, the last one first, but one offered as an alternative after all others
    the statements that stand in the text before the first block, or in the whole text, prose left out
    a class with a method of that name, as LeetCode asks for it
"""

import ast
import html
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeGuard

LONGEST = 20_000  # letters of an answer that are looked at: more is no function
MARGIN = 400  # lines that begin at the margin, likewise
STATEMENT = 40  # most of them that one statement is tried to go on over
_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[^\n`]*$")
_CODE_TAG = re.compile(r"<code[^>]*>\n?(.*?)(?:</code>|\Z)", re.DOTALL | re.IGNORECASE)
_DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.Assign)
_CLAUSE = re.compile(r"(else|elif|except|finally)\b")
_ALTERNATIVE = re.compile(r"^or\b|\b(alternative(ly)?|another (way|version|approach|solution)|also)\b", re.IGNORECASE)


class Block(NamedTuple):
    """A fenced block: its code, and the line of prose that leads to it."""

    code: str
    lead: str


def program(answer: str, names: Sequence[str]) -> str | None:
    r"""The part of an answer that defines one of `names`, with what it needs of other blocks; None if there is none.

    >>> program("Here it is:\n\ndef one():\n    return 1\n\nIt returns 1.", ["one"])
    'def one():\n    return 1\n\n'
    """
    texts = list(readings(answer[:LONGEST]))
    found = [part for text in texts for part in (*_defining(text, names), *_methods(text, names))]
    return next((part for part in found if parses(part)), found[0] if found else None)


def readings(answer: str) -> Iterator[str]:
    """The answer as it is, then without what some models and pages put around or into code: quote marks, odd spaces."""
    yield answer
    plain = re.sub("[\u00a0\u2002-\u200a\u202f\u3000]", " ", re.sub("[\u200b\u2060\ufeff]", "", answer))
    plain = re.sub(r"^[ \t]*> ?(?![>])", "", plain, flags=re.MULTILINE)
    if plain != answer:
        yield plain


def _defining(text: str, names: Sequence[str]) -> Iterator[str]:
    """What defines one of the names, the likeliest first; Python or not."""
    if parses(text) and _accepts(text, names):
        prose = any(_is_value(node) and not isinstance(node.value, ast.Constant) for node in ast.parse(text).body)
        yield statements(text) if prose else text
    before, found = blocks(text)
    alternatives = [block for block in found if _ALTERNATIVE.search(block.lead)]
    for block in [block for block in reversed(found) if block not in alternatives] + alternatives:
        if _accepts(block.code, names):
            yield _helpers(block.code, [other.code for other in found if other is not block]) + block.code
    for part in (statements(before), statements(text), before):
        if _accepts(part, names):
            yield part


def _accepts(part: str, names: Sequence[str]) -> bool:
    return any(defines(part, name) for name in names)


def _methods(text: str, names: Sequence[str]) -> Iterator[str]:
    """Programs whose class has the method, with the method as a function."""
    for part in (*(block.code for block in reversed(blocks(text)[1])), statements(text)):
        for node in ast.parse(part).body if parses(part) else ():
            if isinstance(node, ast.ClassDef):
                methods = {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}
                yield from (f"{part}\n{name} = {node.name}().{name}\n" for name in names if name in methods)


def defines(program: str, name: str) -> bool:
    r"""Whether a program defines that name at its top level.

    >>> defines("def double(x):\n    return 2 * x", "double"), defines("double(3)", "double")
    (True, False)
    >>> defines("double: Callable = lambda x: 2 * x", "double")
    True
    """
    name = re.escape(name)
    pattern = rf"^(?:(?:async[ \t]+)?def[ \t]+{name}\b|{name}[ \t]*(?::[^=\n]*)?=(?!=))"
    return re.search(pattern, program, re.MULTILINE) is not None


def blocks(text: str) -> tuple[str, list[Block]]:
    r"""The text before the first fenced block, and the blocks; the last one may lack its closing fence.

    A fence inside a block's docstring stands deeper than the block's own, or the block is no program without what follows.

    >>> blocks("Like this:\n~~~python\nx = 1\n~~~\nGood.")
    ('Like this:\n', [Block(code='x = 1\n', lead='Like this:')])
    """
    lines, found, place, before = text.splitlines(keepends=True), list[Block](), 0, None
    lead = ""
    while place < len(lines):
        opening = _FENCE.match(lines[place].rstrip("\r\n"))
        if opening is None:
            lead = lines[place].strip() or lead
            place += 1
            continue
        before = "".join(lines[:place]) if before is None else before
        code, place = _until_closed(lines, place + 1, *opening.groups())
        found.append(Block(code, lead))
        lead = ""
    if not found:
        found = [Block(html.unescape(match[1]), "") for match in _CODE_TAG.finditer(text)]
    return (text if before is None else before), found


def _until_closed(lines: Sequence[str], begin: int, indent: str, fence: str) -> tuple[str, int]:
    """The code of a block that begins at a line, without the opening fence's indent, and the line behind its end."""
    closing = re.compile(rf"^[ \t]{{0,{len(indent) + 3}}}{re.escape(fence)}")
    ends = itertools.chain((place for place in range(begin, len(lines)) if closing.match(lines[place])), [len(lines)])
    first: tuple[str, int] | None = None
    for end in itertools.islice(ends, STATEMENT):
        code = re.sub(rf"^{indent}", "", "".join(lines[begin:end]), flags=re.MULTILINE)
        first = first or (code, end + 1)
        # A program that is cut by a fence within a string goes on behind it.
        if parses(code) or code.count('"""') % 2 == code.count("'''") % 2 == 0:
            return code, end + 1
    assert first is not None
    return first


def statements(text: str) -> str:
    r"""The statements at the margin of a text, prose and bare values left out.

    >>> statements("So:\nx = [\n  1,\n]\n>>> x\n[1]\nDone")
    'x = [\n  1,\n]\n'
    """
    units = re.split(r"^(?=[^\s])", text, flags=re.MULTILINE)[1 : MARGIN + 1]
    made, place = "", 0
    while place < len(units):
        tries = range(place + 1, min(place + STATEMENT, len(units)) + 1)
        end = next((end for end in tries if parses("".join(units[place:end]))), None)
        if end is None:
            place += 1
            continue
        while end < len(units) and _CLAUSE.match(units[end]) and parses("".join(units[place : end + 1])):
            end += 1
        unit = "".join(units[place:end])
        made += "" if all(_is_value(node) for node in ast.parse(unit).body) else unit
        place = end
    return made


def _is_value(node: ast.stmt) -> TypeGuard[ast.Expr]:
    """Whether a statement only names something, as a line of prose or a result does, and calls nothing."""
    return isinstance(node, ast.Expr) and not any(isinstance(inner, ast.Call) for inner in ast.walk(node))


def _helpers(code: str, others: Sequence[str]) -> str:
    """Of the other blocks that define what a program uses and has not: their definitions and imports."""
    if not parses(code):
        return ""
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    made = ""
    for other in others:
        nodes = ast.parse(other).body if parses(other) else []
        kept = [node for node in nodes if isinstance(node, (*_DEFINITIONS, ast.Import, ast.ImportFrom))]
        missing = {name for node in kept for name in _defined(node) if name in used and not defines(code, name)}
        made += "".join(f"{ast.unparse(node)}\n" for node in kept) if missing else ""
    return made


def _defined(node: ast.stmt) -> list[str]:
    """The names that a definition gives."""
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []


def body(text: str) -> str:
    r"""The part of a continuation that belongs to the function: all lines up to the next statement at the top level.

    The first line always belongs to it: some tokenizers drop the spaces at the start of a text.

    >>> body(" y = x + 1\n    return y\n\nprint(2)\n")
    '    y = x + 1\n    return y\n\n'
    """
    text = "    " + text.lstrip()
    end = re.search(r"^[^\s#]", text, re.MULTILINE)
    return text[: end.start()] if end else text


def continuation(answer: str, head: str) -> str:
    """The lines behind a function's head in an answer that does not repeat it: bare, in the longest block, or below prose."""
    made = []
    for text in map(longest, readings(answer[:LONGEST])):
        made.append(body(text))
        if (indented := re.search(r"^(?: {2}|\t)", text, re.MULTILINE)) is not None:
            made.append(body(text[indented.start() :]))
    return next((part for part in made if parses(head + part)), made[0])


def longest(answer: str) -> str:
    """The text before the first block if it begins indented and so goes on with the prompt, else the longest block."""
    before, found = blocks(answer)
    goes_on = re.match(r"\n*(?: {2}|\t)", before) is not None
    return before if goes_on or not found else max((block.code for block in found), key=len)


def parses(program: str) -> bool:
    """Whether a text is Python."""
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
