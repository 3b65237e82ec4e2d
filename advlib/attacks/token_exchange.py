"""Token exchange: a few tokens behind a text, chosen so that a search finds it for a query.

Tokens are no pixels: there is no small step from one word to the next. What the gradient gives is
a shortlist. At one position, the similarity to the query changes to first order by

.. math:: (e_v - e_w) \\cdot g

if the token :math:`w` with embedding :math:`e_w` is exchanged for :math:`v`, where :math:`g` is the
gradient with respect to the embedding there: one gradient and one matrix product rank all words for
all positions. Each is then visited: the first of its list are tried, and the best one stays if it
helps. After the last position comes a new gradient.

References
----------
Ebrahimi et al. 2018, "HotFlip: White-Box Adversarial Examples for Text Classification"; Shin et al.
2020, "AutoPrompt" (the shortlist is tried); Zou et al. 2023, "Universal and Transferable
Adversarial Attacks on Aligned Language Models" (several positions, many steps); Zhong et al. 2023,
"Poisoning Retrieval Corpora by Injecting Adversarial Passages" (against a search).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor

from advlib.errors import InputError
from advlib.models.minilm import MiniLM
from advlib.models.wordpiece import WordPiece, words

GRADIENT_COST = 3
"""Forward passes that one gradient counts for: the pass itself, and twice as much backwards."""


class Exchanged(NamedTuple):
    """What `token_exchange` did."""

    text: str
    """The text with its suffix."""
    suffixes: list[str]
    """The suffix at the start and after each step."""
    similarities: list[float]
    """The cosine to the query, at the start and after each step."""
    forward_passes: int
    """How many texts the encoder was shown; a gradient counts as `GRADIENT_COST` of them."""


def stems(text: str) -> set[str]:
    """How its words begin: the first four letters, or three of a word of four, as owl of owls."""
    return {word[: 3 if len(word) == 4 else 4] for word in words(text) if len(word) > 2}


def plain_words(tokenizer: WordPiece, avoid: str = "") -> Tensor:
    """Which tokens are whole words of at least three letters from a to z, shape (vocabulary,).

    A text made of them has these tokens again when it is read. Words that hold one of the `stems`
    of `avoid` are left out: forms of its words, and most of their relatives.
    """
    held = stems(avoid)
    return torch.tensor(
        [
            bool(re.fullmatch("[a-z]{3,}", name)) and not any(stem in name for stem in held)
            for name in tokenizer.vocabulary
        ]
    )


def exchange_gains(encoder: MiniLM, tokens: Tensor, positions: slice, target: Tensor) -> Tensor:
    """The predicted change of the similarity for each token at k positions, shape (k, vocabulary).

    `tokens` (t,) are the text; one of those at `positions` is exchanged. `target` (d,) is the unit
    vector of the query.
    """
    table = encoder.token_embedding.weight
    leaf = table[tokens[None]].clone().requires_grad_()
    with torch.enable_grad():
        similarity = encoder.of_embeddings(leaf, tokens[None] != 0) @ target
        (grad,) = torch.autograd.grad(similarity.sum(), leaf)
    g = grad[0, positions]
    return g @ table.detach().T - (g * table.detach()[tokens[positions]]).sum(1, keepdim=True)


def token_exchange(
    encoder: MiniLM,
    text: str,
    query: str,
    *,
    tokens: int = 8,
    sweeps: int = 3,
    candidates: int = 2,
    allowed: Tensor | None = None,
    start: str | None = None,
    guided: bool = True,
    generator: torch.Generator | None = None,
) -> Exchanged:
    """Add a suffix to `text` that raises its similarity to `query`.

    Parameters
    ----------
    encoder
        The sentence encoder, as `advlib.models.minilm` gives it.
    text, query
        The passage that is to be found, and what is searched for.
    tokens
        Length of the suffix: the budget.
    sweeps
        How often each position is visited; each sweep takes one gradient.
    candidates
        How many exchanges are tried at each visit.
    allowed
        Which tokens the suffix may hold, shape (vocabulary,). None: `plain_words`, without those
        of the query.
    start
        The suffix to begin with, in place of `tokens` words drawn at random.
    guided
        Whether the gradient chooses what is tried. If False it is drawn at random, `GRADIENT_COST`
        more words in each sweep, so that both show the encoder as many texts.
    generator
        Draws the first suffix, and what a random search tries. None: seed 0.

    Raises
    ------
    InputError
        Settings below 1; no word is allowed; more than the 512 tokens that the encoder reads.
    """
    if min(tokens, sweeps, candidates) < 1:
        raise InputError("tokens, sweeps and candidates must each be at least 1.")
    tokenizer, device = encoder.tokenizer, encoder.type_embedding.device
    if allowed is None:
        allowed = plain_words(tokenizer, avoid=query)
    choices = allowed.nonzero()[:, 0].cpu()
    if not len(choices):
        raise InputError("`allowed` allows no token at all.")
    generator = generator or torch.Generator().manual_seed(0)

    def drawn(n: int) -> Tensor:
        return choices[torch.randint(len(choices), (n,), generator=generator)]

    first = drawn(tokens) if start is None else torch.tensor(tokenizer.encode(start)[1:-1])
    body = torch.tensor(tokenizer.encode(text))
    now = torch.cat([body[:-1], first, body[-1:]]).to(device)
    if len(now) > 512:
        raise InputError(f"text and suffix have {len(now)} tokens; the encoder reads 512.")
    (target,) = encoder.encode([query])
    with torch.no_grad():
        best = float(encoder(now[None]) @ target)
    k, places = len(first), slice(len(body) - 1, len(now) - 1)
    spent, suffixes, similarities = 1, [tokenizer.decode(now[places].tolist())], [best]
    for visit in range(sweeps * k):
        place = visit % k
        if guided and place == 0:
            gains = exchange_gains(encoder, now, places, target)
            gains[:, ~allowed.to(device)] = -torch.inf
            spent += GRADIENT_COST
        if guided:
            tried = gains[place].topk(min(candidates, len(choices))).indices
        else:
            more = GRADIENT_COST * (place + 1) // k - GRADIENT_COST * place // k
            tried = drawn(candidates + more).to(device)
        rows = now.repeat(len(tried), 1)
        rows[:, places.start + place] = tried
        with torch.no_grad():
            similarity, row = (encoder(rows) @ target).max(0)
        spent += len(tried)
        if similarity > best:
            now, best = rows[row], float(similarity)
        suffixes.append(tokenizer.decode(now[places].tolist()))
        similarities.append(best)
    return Exchanged(f"{text} {suffixes[-1]}", suffixes, similarities, spent)
