"""WordPiece: text becomes the tokens of BERT's vocabulary, and tokens become text again.

References
----------
Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding"; Wu et al. 2016, "Google's Neural Machine Translation System" (the word pieces).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

LONGEST_WORD = 100
"""Letters beyond which a word is unknown."""


class WordPiece:
    """The tokens of an uncased BERT.

    Text cannot write a special token: ``"[SEP]"`` becomes a bracket, a word and a bracket.

    Parameters
    ----------
    vocabulary
        The tokens, in the order of their numbers; a piece that goes on within a word begins
        with ``##``.

    Attributes
    ----------
    vocabulary : tuple of str
        The tokens, by number.
    numbers : dict
        The number of each token.
    """

    def __init__(self, vocabulary: Iterable[str]) -> None:
        self.vocabulary = tuple(vocabulary)
        self.numbers = {token: number for number, token in enumerate(self.vocabulary)}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, between ``[CLS]`` and ``[SEP]``."""
        inside = [number for word in words(text) for number in self._pieces(word)]
        return [self.numbers["[CLS]"], *inside, self.numbers["[SEP]"]]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones; a space before each word."""
        names = (self.vocabulary[number] for number in tokens)
        text = " ".join(name for name in names if name not in ("[CLS]", "[SEP]", "[PAD]"))
        return re.sub(r" ##| (?=[.,;:!?])", "", text)

    def _pieces(self, word: str) -> list[int]:
        """The longest piece of the vocabulary, and so on with the rest of the word."""
        unknown = [self.numbers["[UNK]"]]
        if len(word) > LONGEST_WORD:
            return unknown
        found, start = [], 0
        while start < len(word):
            mark = "##" if start else ""
            for end in range(len(word), start, -1):
                if mark + word[start:end] in self.numbers:
                    break
            else:
                return unknown
            found.append(self.numbers[mark + word[start:end]])
            start = end
        return found


def words(text: str) -> list[str]:
    """Words and punctuation marks: in lower case, without accents and control characters."""
    spaced = "".join(
        f" {character} " if _is_chinese(character) else " " if character.isspace() else character
        for character in text
        if character.isspace()
        or not (character == "\ufffd" or unicodedata.category(character).startswith("C"))
    )
    plain = "".join(
        character
        for character in unicodedata.normalize("NFD", spaced)
        if unicodedata.category(character) != "Mn"
    )
    marked = "".join(
        f" {character} " if _is_punctuation(character) else character for character in plain.lower()
    )
    return marked.split()


def _is_punctuation(character: str) -> bool:
    return character in r"$+<=>^`|~" or unicodedata.category(character).startswith("P")


def _is_chinese(character: str) -> bool:
    """Whether it is a word of its own: the ideographs that Chinese, Japanese and Korean share."""
    return unicodedata.name(character, "").startswith(("CJK UNIFIED", "CJK COMPATIBILITY IDEO"))
