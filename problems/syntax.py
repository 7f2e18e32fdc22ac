"""Text to syntax tree, with the checks that need no meaning: characters, words, size, grammar."""

from __future__ import annotations

import ast
import keyword
import re
import string
import unicodedata
import warnings
from typing import NoReturn

from ..errors import ConfigurationError

__all__ = ["MAX_DEPTH", "SourceText"]

MAX_CHARACTERS = 4096
MAX_NODES = 1000
MAX_DEPTH = 50

_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_.+-*/^()[],<>= ")
_NO_BRANCHES = "write where(x < 0, a, b), one inside the other if need be"
_WORDS = {
    **dict.fromkeys(("if", "else", "and", "or", "not"), _NO_BRANCHES),
    **dict.fromkeys(("True", "False", "None"), "write a number"),
}
_TOO_DEEP = ("expression nested too deeply", None, f"use at most {MAX_DEPTH} levels")


class SourceText:
    """One expression as text, and the way back from a node to its column.

    Args:
        text: the expression.
        whole: what to show in messages, with `text` at the same columns; `text` itself by default.

    Raises:
        ConfigurationError: too long, empty, or with characters or words outside the language.
    """

    def __init__(self, text: str, whole: str | None = None) -> None:
        self.whole = text if whole is None else whole
        flat = re.sub(r"[\t\r\n]", " ", text)
        self._check_characters(flat)
        self._check_words(flat)
        lead = len(flat) - len(flat.lstrip())
        # Python's ** has the precedence and associativity that ^ has on paper; its own ^ does not.
        columns: list[int] = []
        for place, character in enumerate(flat):
            columns += [place + 1] * (2 if character == "^" else 1)
        self._columns = [*columns[lead:], len(flat) + 1]
        self._source = flat.strip().replace("^", "**")

    def tree(self) -> ast.expr:
        """The syntax tree.

        Raises:
            ConfigurationError: the text breaks Python's grammar, or is too large.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(self._source, mode="eval").body
        except (RecursionError, MemoryError) as error:
            raise self.error(*_TOO_DEEP) from error
        except (SyntaxError, ValueError) as error:
            raise self._syntax_error(error) from error
        count = sum(isinstance(node, ast.expr) for node in ast.walk(tree))
        if count > MAX_NODES:
            raise self.error(f"expression of {count} parts", None, f"write at most {MAX_NODES}")
        return tree

    def error(self, message: str, column: int | None, advice: str) -> ConfigurationError:
        """An error that shows the whole text."""
        return ConfigurationError(message, found=self.whole.strip(), column=column, advice=advice)

    def fail(self, message: str, node: ast.AST, advice: str) -> NoReturn:
        """Raise an error at the column where `node` begins."""
        raise self.error(message, self._column(getattr(node, "col_offset", 0)), advice)

    def _column(self, offset: int) -> int:
        return self._columns[min(max(offset, 0), len(self._columns) - 1)]

    def _check_characters(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise self.error(
                f"text of {len(text)} characters", None, f"write at most {MAX_CHARACTERS}"
            )
        if not text.strip():
            advice = "write a number or a formula such as 'sin(pi*x)'"
            raise self.error("the expression is empty", None, advice)
        for place, character in enumerate(text):
            if character in _CHARACTERS:
                continue
            code = "" if character.isascii() else f" (U+{ord(character):04X})"
            greek = re.fullmatch(r"GREEK SMALL LETTER (\w+)", unicodedata.name(character, ""))
            advice = "write plain ASCII names, numbers, + - * / ^ ( ) [ ] and commas"
            raise self.error(
                f"the character {character!r}{code} is not part of the language",
                place + 1,
                f"write '{greek[1].lower()}'" if greek else advice,
            )

    def _check_words(self, text: str) -> None:
        for match in re.finditer(r"[A-Za-z_]\w*", text):
            word, column = match.group(), match.start() + 1
            if keyword.iskeyword(word):
                advice = _WORDS.get(word, "choose another name")
                raise self.error(f"'{word}' is a reserved word", column, advice)
            if word.startswith("_") or "__" in word:
                advice = "write declared names only"
                raise self.error(f"the name '{word}' is not allowed", column, advice)

    def _syntax_error(self, error: Exception) -> ConfigurationError:
        """What a person most likely did, rather than what the grammar expected."""
        source = self._source
        column = self._column((getattr(error, "offset", None) or 1) - 1)
        if "too many nested" in str(error):
            return self.error(*_TOO_DEEP)
        if single := re.search(r"(?<![<>=])=(?!=)", source):
            column = self._column(single.start())
            advice = "write an expression without '='"
            return self.error("'=' inside an expression", column, advice)
        for opening, closing in ("()", "[]"):
            surplus = source.count(opening) - source.count(closing)
            if surplus:
                missing = closing if surplus > 0 else opening
                return self.error("brackets do not match", column, f"add the missing '{missing}'")
        if glued := re.search(r"(?<![\w.])(\d[\d.]*)\s*([A-Za-df-z_]\w*)", source):
            column = self._column(glued.start(1))
            return self.error("a product needs '*'", column, f"write '{glued[1]}*{glued[2]}'")
        if spaced := re.search(r"[\w)]\s+[A-Za-z(]\w*", source):
            column = self._column(spaced.start())
            return self.error("a product needs '*'", column, "write '*' between the two factors")
        return self.error("cannot be read", column, "write a formula such as 'nu*u_xx - u*u_x'")
