"""Checks of lesson 14, "Not only images"."""

import re

import torch
from torch import Tensor

from advlib.attacks.token_exchange import stems
from advlib.data.passages import passages
from advlib.errors import WeightsError
from advlib.lessons import (
    Answer,
    Mistake,
    check,
    close,
    expect_answer,
    expect_tensor,
    expect_untouched,
    name_mistake,
)
from advlib.models.minilm import MiniLM, minilm
from advlib.models.wordpiece import words


@check
def predicted_gains(answer: Answer) -> str:
    """Exercise 14.1: the predicted change of the similarity for each word of the vocabulary.

    ``answer(g, table, old)`` takes the gradient (d,) with respect to the embedding at a position,
    the embeddings (vocabulary, d) and the number of the word that stands there, and returns
    ``(table - table[old]) @ g``, shape (vocabulary,).
    """
    generator = torch.Generator().manual_seed(14)
    table = torch.randn(9, 5, generator=generator)
    g, old = torch.randn(5, generator=generator), 3
    before = table.clone()
    given = answer(g, table, old)
    expect_answer(given)
    if isinstance(given, Tensor) and given.shape == table.shape:
        raise Mistake(
            "you return one number for each coordinate. A dot product adds them up: @ or sum(1)."
        )
    gains = expect_tensor(given, (9,), "gains")
    expect_untouched(table, before)
    right = (table - table[old]) @ g
    if not close(gains, right, atol=1e-4):
        mistakes = {
            "the word that stands there is not subtracted: it should gain 0 by being exchanged for "
            "itself.": table @ g,
            "the sign is reversed: the new word comes in, the old one goes out.": -right,
            "you use the sign of the gradient. That belongs to the linf ball; here every step goes "
            "to another word, and its whole length counts.": (table - table[old]) @ g.sign(),
            "you divide by the length of the step: the gain of the whole step is asked for.": right
            / (table - table[old]).norm(dim=1).clamp_min(1e-12),
        }
        name_mistake(gains, mistakes, atol=1e-4)
        raise Mistake(
            f"word 0 should gain {float(right[0]):.3f}, yours gains {float(gains[0]):.3f}: the "
            "step from the old embedding to the new one, times the gradient."
        )
    return "one matrix product predicts the gain of every word in the vocabulary."


@check
def best_exchange(answer: Answer) -> str:
    """Exercise 14.2: the best allowed exchange over all positions.

    ``answer(gains, allowed)`` takes predicted gains (k, vocabulary) and which words are allowed
    (vocabulary,), and returns the position and the word with the largest gain, as two integers.
    """
    generator = torch.Generator().manual_seed(15)
    gains = torch.randn(4, 11, generator=generator)
    allowed = torch.ones(11, dtype=torch.bool)
    position, word = divmod(int(gains.argmax()), 11)
    allowed[word] = False
    gains[:, 5] = -9.0
    before = gains.clone()
    given = answer(gains, allowed)
    expect_answer(given)
    expect_untouched(gains, before)
    try:
        got = tuple(int(part) for part in given)
    except TypeError:
        raise Mistake("return two integers: the position, and the number of the word.") from None
    right = _best(gains, allowed)
    if got == (position, word):
        raise Mistake(
            f"word {word} is not allowed. Set the gains of such words to -infinity first."
        )
    if got == right[::-1]:
        raise Mistake("first the position, then the word: yours are the other way round.")
    if got != right:
        raise Mistake(
            f"position {right[0]} and word {right[1]} are expected, yours are {got}. argmax of all "
            "gains, then divmod."
        )
    negative = -1 - gains.abs()
    if tuple(int(part) for part in answer(negative, allowed)) != _best(negative, allowed):
        raise Mistake(
            "where all gains are negative your function takes a word that is not allowed: 0 is "
            "larger than they are. Use -infinity for words that are not allowed."
        )
    return "the largest predicted gain among the words that the threat model allows."


def _best(gains: Tensor, allowed: Tensor) -> tuple[int, int]:
    return divmod(int(gains.masked_fill(~allowed, -torch.inf).argmax()), gains.shape[1])


PAIRS = (("coffee", "owl"), ("tea", "bank card"))
"""Passages and the queries they are to be found for; the lesson attacks none of these pairs."""
MOST_WORDS = 60


@check
def above_the_median(answer: Answer) -> str:
    """Exercise 14.3: reach the first three where passages are ranked by their median sentence.

    ``answer(encoder, text, query)`` returns the text with at most `MOST_WORDS` words behind it,
    none of which holds one of the `stems` of the query.
    """
    library = {passage.topic: passage for passage in passages()}
    try:
        encoder = minilm()
    except WeightsError as error:
        raise Mistake(f"this exercise needs the sentence encoder: {error}") from None
    places, held = [], {topic: sentences(encoder, p.text) for topic, p in library.items()}
    for topic, other in PAIRS:
        text, query = library[topic].text, library[other].query
        given = answer(encoder, text, query)
        expect_answer(given)
        if not isinstance(given, str) or not given.startswith(text):
            raise Mistake("return the text as it was given, with words behind it.")
        added = words(given[len(text) :])
        if len(added) > MOST_WORDS:
            raise Mistake(f"you add {len(added)} words and marks; {MOST_WORDS} are allowed.")
        copied = sorted({word for word in added for stem in stems(query) if stem in word})
        if copied:
            raise Mistake(f"{', '.join(copied)}: too close to a word of the query.")
        (target,) = encoder.encode([query])
        own = (sentences(encoder, given) @ target).median()
        rivals = [vectors for name, vectors in held.items() if name != topic]
        places.append(1 + sum(bool((of @ target).median() > own) for of in rivals))
    said = f"{PAIRS[0][0]} at place {places[0]} and {PAIRS[1][0]} at place {places[1]}"
    if max(places) > 3:
        raise Mistake(
            f"{said}. Half of the sentences decide where a text stands: how many does yours change?"
        )
    return f"{said}. The median holds only as long as the attacker writes fewer than half of it."


def sentences(encoder: MiniLM, text: str) -> Tensor:
    """The unit vectors of a text's sentences."""
    return encoder.encode(re.split(r"(?<=[.!?]) ", text))
