"""SQL predicates: parsed by the store; only what its parser lets slip is refused here."""

import re
from collections.abc import Sequence

from retroclip.errors import MemoryStoreError
from retroclip.memory.schema import IdArray

_LITERAL = re.compile(r"'(?:[^']|'')*'")
_NAME = re.compile(r"`[^`]*`")
_FIELDS = re.compile(r"\.? Valid fields are .*$", re.DOTALL)  # with the store's own; ours follow
_NO_FIELD = "No field named"
_TESTS = "=, !=, <, <=, >, >=, BETWEEN, IN, LIKE and IS NULL with AND, OR, NOT"
_ADDED = ": SELECT 1 FROM t WHERE "  # the store's parser reads statements, and quotes them
_STORE_NOISE = re.compile(r"^(?:(?:External error|Invalid user input): )+|,? ?/[^\s,]+\.rs:\d+:\d+.*$", re.DOTALL)


def checked_predicate(where: str) -> str:
    """Return `where` when it is one predicate. Raises MemoryStoreError otherwise.

    Lance reads the first expression and silently ignores what follows a `;` or a comment, so that
    `n = 50; DROP TABLE x` would delete rows: both are refused, except inside a quoted string. So are double quotes:
    in SQL, and to the readers of sources, they hold a name; to Lance a text, and `"label" != 'cat'` holds of all rows.
    """
    if not where.strip():
        raise MemoryStoreError("the predicate is empty: write one such as \"label = 'cat'\"")
    code = _LITERAL.sub("''", where)
    for token in (";", "--", "/*", "*/"):
        if token in code:
            raise MemoryStoreError(f"the predicate {where!r} contains {token!r}: write one expression, no comments")
    if '"' in _NAME.sub("", code):
        raise MemoryStoreError(
            f"the predicate {where!r} has double quotes: write texts in single quotes, names as they are or in `…`"
        )
    return where


def rows_with(ids: IdArray) -> str:
    """A predicate for the rows with these ids."""
    return f"_rowid IN ({', '.join(map(str, ids.tolist()))})"


def names_no_column(error: BaseException) -> bool:
    """Whether the store's complaint about a predicate is that it names something that is no column."""
    return _NO_FIELD in str(error)


def predicate_error(where: str, error: Exception, columns: Sequence[str], metadata: Sequence[str]) -> MemoryStoreError:
    """The store's complaint about `where` as one line that ends with what can be named."""
    complaint = _FIELDS.sub("", without_noise(error)).rstrip(".").replace(f"{_ADDED}{where} ", " ")
    told = f"columns: {', '.join(columns)}"
    told += f"; in the metadata, by {_TESTS}, without functions: {', '.join(metadata)}" if metadata else ""
    unknown = names_no_column(error) and _named(complaint) not in metadata
    hint = "; strings stand in single quotes" if unknown else ""
    return MemoryStoreError(f"the predicate {where!r} is not understood: {complaint} ({told}{hint})")


def _named(complaint: str) -> str:
    """The name that is no column, by the store's complaint."""
    return complaint.partition(f"{_NO_FIELD} ")[2].partition(". Did you mean")[0].strip('`"')


def without_noise(error: BaseException) -> str:
    """The store's complaint in one line, without the places in its source."""
    return (_STORE_NOISE.sub("", str(error)).strip().splitlines() or [type(error).__name__])[0]
