"""Token exchange: the predicted gain is the gradient's, and the suffix is a text."""

from importlib import import_module, resources
from typing import Any

import pytest
import torch

from advlib.attacks.token_exchange import exchange_gains, plain_words, token_exchange
from advlib.data import passages
from advlib.errors import InputError
from advlib.models import MiniLM, minilm

RANDOM_STATE_IS_WATCHED = True
TEXT = "Knead the dough and let it rise."
QUERY = "How can I reset my password?"
QUICK = {"tokens": 4, "sweeps": 1, "candidates": 4}


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return minilm()


def test_the_predicted_gain_is_that_of_finite_differences(encoder: MiniLM) -> None:
    double = minilm().double()
    tokens = torch.tensor(encoder.tokenizer.encode(TEXT))
    target = double.encode([QUERY])[0]
    gains = exchange_gains(double, tokens, slice(2, 4), target)[0]
    embeddings = double.token_embedding(tokens[None])
    for word in ("lock", "the", "password"):
        step = torch.zeros_like(embeddings)
        number = encoder.tokenizer.numbers[word]
        step[0, 2] = double.token_embedding.weight[number] - embeddings[0, 2]
        seen = torch.ones(1, len(tokens), dtype=torch.bool)
        up, down = (
            double.of_embeddings(embeddings + sign * 1e-6 * step, seen) @ target for sign in (1, -1)
        )
        assert torch.isclose(gains[number], (up - down)[0] / 2e-6, rtol=1e-5)
    assert gains[tokens[2]].abs() < 1e-12  # nothing is exchanged


@pytest.mark.parametrize("guided", [True, False])
def test_the_suffix_is_a_text_with_the_similarity_that_is_reported(
    encoder: MiniLM, guided: bool
) -> None:
    found = token_exchange(encoder, TEXT, QUERY, guided=guided, **QUICK)
    assert found.text == f"{TEXT} {found.suffixes[-1]}"
    seen, wanted = encoder.encode([found.text, QUERY])
    assert float(seen @ wanted) == pytest.approx(found.similarities[-1], abs=1e-5)
    assert found.similarities == sorted(found.similarities)
    assert len(found.suffixes) == len(found.similarities) == 5
    assert all(len(suffix.split()) == 4 for suffix in found.suffixes)


def test_the_random_search_shows_the_encoder_as_many_texts(encoder: MiniLM) -> None:
    spent = {
        token_exchange(encoder, TEXT, QUERY, guided=guided, **QUICK).forward_passes
        for guided in (True, False)
    }
    assert spent == {1 + 3 + 4 * 4}


def test_a_sweep_takes_one_gradient(encoder: MiniLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(*arguments: Any) -> torch.Tensor:
        asked.append(arguments)
        return exchange_gains(*arguments)

    module = import_module("advlib.attacks.token_exchange")
    monkeypatch.setattr(module, "exchange_gains", counted)
    token_exchange(encoder, TEXT, QUERY, tokens=2, sweeps=3, candidates=1)
    assert len(asked) == 3


def test_the_gradient_beats_a_random_search(encoder: MiniLM) -> None:
    guided, drawn = (
        token_exchange(encoder, TEXT, QUERY, tokens=4, sweeps=2, guided=guided).similarities[-1]
        for guided in (True, False)
    )
    assert guided > drawn + 0.05


def test_the_words_of_the_query_and_their_relatives_are_not_used(encoder: MiniLM) -> None:
    names = encoder.tokenizer.vocabulary
    allowed = plain_words(encoder.tokenizer, avoid=QUERY)
    assert not any(
        stem in name
        for name, ok in zip(names, allowed, strict=True)
        if ok
        for stem in ("rese", "pass", "how", "can")
    )
    assert all(
        len(name) >= 3 and name.isascii()
        for name in map(names.__getitem__, allowed.nonzero()[:, 0])
    )
    assert plain_words(encoder.tokenizer).sum() > allowed.sum() > 19_000
    owls = plain_words(encoder.tokenizer, avoid="How can owls hunt?")
    assert not owls[encoder.tokenizer.numbers["owl"]]


def test_it_begins_where_it_is_told_to(encoder: MiniLM) -> None:
    found = token_exchange(encoder, TEXT, QUERY, start=QUERY, sweeps=1, candidates=1)
    assert found.suffixes[0] == QUERY.lower()
    assert len(found.suffixes) == 1 + len(encoder.tokenizer.encode(QUERY)) - 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 0}, "at least 1"),
        ({"candidates": 0}, "at least 1"),
        ({"allowed": torch.zeros(30_522, dtype=torch.bool)}, "no token"),
        ({"tokens": 600}, "512"),
    ],
)
def test_unusable_settings_are_refused(encoder: MiniLM, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        token_exchange(encoder, TEXT, QUERY, **settings)


def test_the_stored_attacks_are_what_the_search_finds(encoder: MiniLM) -> None:
    """One of them, made anew: words may differ between machines, how near they come may not."""
    by_topic = {passage.topic: passage for passage in passages()}
    numbers = {topic: number for number, topic in enumerate(by_topic)}
    stored = resources.files("advlib.data") / "attacked_passages.txt"
    rows = [line.split("\t") for line in stored.read_text(encoding="utf-8").splitlines()]
    assert len({topic for topic, *_ in rows}) == len(rows) == 24
    assert all(len(suffix.split()) == 8 for *_, suffix in rows)
    topic, other, suffix = rows[1]
    text, query = by_topic[topic].text, by_topic[other].query
    generator = torch.Generator().manual_seed(100 + numbers[topic])
    made = token_exchange(encoder, text, query, generator=generator)
    seen, wanted = encoder.encode([f"{text} {suffix}", query])
    assert float(seen @ wanted) == pytest.approx(made.similarities[-1], abs=0.1)
