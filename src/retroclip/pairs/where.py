"""A small SQL predicate over a row's columns: parsed here, never pasted into anybody's query.

    predicate  := and (OR and)*          and := not (AND not)*         not := [NOT] test
    test       := ( predicate ) | column [= == != <> < <= > >=] literal | column IS [NOT] NULL
                | column [NOT] IN ( literal, … ) | column [NOT] BETWEEN literal AND literal
                | column [NOT] LIKE 'a%_'
    literal    := 'text' ('' is one quote) | number | TRUE | FALSE

Unknown is unknown: a comparison with a missing value is neither true nor false, as in SQL. A column that holds a
list (`captions`) satisfies a test when one of its values does. Values are compared as what the literal is, since text
files hold numbers as text: `width < 200` also of '150', and `width = '150'` also of 150.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from retroclip.errors import SourceError

Test = Callable[[Mapping[str, Any]], bool | None]

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*') | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<name>[^\W\d][\w.]*|"[^"]+"|`[^`]+`) | (?P<op><=|>=|!=|<>|==|=|<|>) | (?P<mark>[(),]))""",
    re.VERBOSE,
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "==": operator.eq, "!=": operator.ne, "<>": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_KEYWORDS = frozenset(["AND", "OR", "NOT", "IN", "IS", "NULL", "LIKE", "BETWEEN", "TRUE", "FALSE"])


@dataclass(frozen=True, slots=True)
class Predicate:
    """A parsed predicate: `predicate(row)` is True only for rows it holds for; `columns` are those it reads."""

    text: str
    columns: frozenset[str]
    test: Test

    def __call__(self, row: Mapping[str, Any]) -> bool:
        return self.test(row) is True


def parse_where(text: str) -> Predicate:
    """Parse a predicate.

    Raises:
        SourceError: anything else than the grammar above: `;`, comments, functions, sub-queries.
    """
    try:
        return _Parser(text).parse()
    except RecursionError:
        raise SourceError("where: too many nested parentheses") from None


def _tokens(text: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise SourceError(f"where: can't read {text[position:].strip()[:20]!r} in {text!r}; {_HINT}")
        kind, value = str(match.lastgroup), match.group(match.lastgroup or 0)
        if kind == "name" and value.upper() in _KEYWORDS:
            kind, value = "keyword", value.upper()
        found.append((kind, value))
        position = match.end()
    return found


_HINT = "use column = 'value' with AND, OR, NOT, IN (…), BETWEEN … AND …, LIKE '…%', IS NULL"


class _Parser:
    """Recursive descent; each method takes one level of the grammar and returns its test."""

    def __init__(self, text: str):
        self.text, self.tokens, self.at = text, _tokens(text), 0
        self.columns: set[str] = set()

    def parse(self) -> Predicate:
        test = self._or()
        if self.at < len(self.tokens):
            raise self._error()
        return Predicate(self.text, frozenset(self.columns), test)

    def _or(self) -> Test:
        tests = [self._and()]
        while self._take("keyword", "OR"):
            tests.append(self._and())
        return tests[0] if len(tests) == 1 else lambda row: _any(test(row) for test in tests)

    def _and(self) -> Test:
        tests = [self._not()]
        while self._take("keyword", "AND"):
            tests.append(self._not())
        return tests[0] if len(tests) == 1 else lambda row: _not(_any(_not(test(row)) for test in tests))

    def _not(self) -> Test:
        if self._take("keyword", "NOT"):
            return _negate(self._not())
        if self._take("mark", "("):
            test = self._or()
            self._expect("mark", ")")
            return test
        return self._test()

    def _test(self) -> Test:
        column = self._column()
        if self._take("keyword", "IS"):
            negated = self._take("keyword", "NOT")
            self._expect("keyword", "NULL")
            return lambda row: (row.get(column) is None) is not negated
        negated = self._take("keyword", "NOT")
        if self._take("keyword", "IN"):
            test = _compare_any(column, operator.eq, self._literals())
        elif self._take("keyword", "BETWEEN"):
            test = _between(column, *self._bounds())
        elif self._take("keyword", "LIKE"):
            test = _like(column, self._literal())
        elif not negated and self.at < len(self.tokens) and self.tokens[self.at][0] == "op":
            compare = _COMPARE[self.tokens[self.at][1]]
            self.at += 1
            test = _compare_any(column, compare, [self._literal()])
        else:
            raise self._error()
        return _negate(test) if negated else test

    def _column(self) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] != "name":
            raise self._error()
        name = str(self.tokens[self.at][1]).strip('"`')
        self.at += 1
        self.columns.add(name)
        return name

    def _literals(self) -> list[Any]:
        self._expect("mark", "(")
        literals = [self._literal()]
        while self._take("mark", ","):
            literals.append(self._literal())
        self._expect("mark", ")")
        return literals

    def _bounds(self) -> tuple[Any, Any]:
        low = self._literal()
        self._expect("keyword", "AND")
        return low, self._literal()

    def _literal(self) -> Any:
        kind, value = self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")
        self.at += 1
        if kind == "text":
            return value[1:-1].replace("''", "'")
        if kind == "number":
            return float(value) if set(value) & set(".eE") else int(value)
        if kind == "keyword" and value in ("TRUE", "FALSE"):
            return value == "TRUE"
        self.at -= 1
        raise self._error()

    def _take(self, kind: str, value: str) -> bool:
        taken = self.at < len(self.tokens) and self.tokens[self.at] == (kind, value)
        self.at += taken
        return taken

    def _expect(self, kind: str, value: str) -> None:
        if not self._take(kind, value):
            raise self._error()

    def _error(self) -> SourceError:
        where = f"before {self.tokens[self.at][1]!r}" if self.at < len(self.tokens) else "at its end"
        return SourceError(f"where: {self.text!r} is not understood {where}; {_HINT}")


def _any(values: Iterable[bool | None]) -> bool | None:
    """Three-valued OR."""
    unknown = False
    for value in values:
        if value:
            return True
        unknown = unknown or value is None
    return None if unknown else False


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _negate(test: Test) -> Test:
    return lambda row: _not(test(row))


def _compare_any(column: str, compare: Callable[[Any, Any], bool], literals: list[Any]) -> Test:
    return lambda row: _any(
        _compare(compare, value, literal) for value in _values(row.get(column)) for literal in literals
    )


def _between(column: str, low: Any, high: Any) -> Test:
    def holds(value: Any) -> bool | None:
        inside = (_compare(operator.ge, value, low), _compare(operator.le, value, high))
        return _not(_any(_not(one) for one in inside))  # so that NaN lies in no interval

    return lambda row: _any(holds(value) for value in _values(row.get(column)))


def _compare(compare: Callable[[Any, Any], bool], value: Any, literal: Any) -> bool | None:
    """Compare as the literal's type, since text files hold numbers as text; unknown where that can't be done."""
    if value is None:
        return None
    try:
        if isinstance(literal, bool):
            value = {"true": True, "false": False}[str(value).lower()]
        elif isinstance(literal, (int, float)) and isinstance(value, str):
            value = float(value)
        elif isinstance(literal, str) and not isinstance(value, str):
            value = str(value).lower() if isinstance(value, bool) else str(value)
        return bool(compare(value, literal))
    except (KeyError, TypeError, ValueError):
        return None


def _like(column: str, pattern: Any) -> Test:
    """`%` stands for any text, `_` for one character; case counts."""
    start, *rest = ("".join("." if c == "_" else re.escape(c) for c in part) for part in str(pattern).split("%"))
    # Each part between two % may be taken where it comes first, for good: time does not explode with their number.
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1] if part)
    regex = re.compile(f"{start}{middle}.*{rest[-1]}" if rest else start, re.DOTALL)
    return lambda row: _any(
        None if value is None else regex.fullmatch(str(value)) is not None for value in _values(row.get(column))
    )


def _values(value: Any) -> list[Any]:
    return list(value) or [None] if isinstance(value, (list, tuple)) else [value]
