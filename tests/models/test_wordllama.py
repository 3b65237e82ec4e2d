"""WordLlama: the library's tokens and vectors, and no weights but the known ones."""

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch

from advlib.errors import WeightsError
from advlib.models.wordllama import PACKAGE, WordLlama, wordllama

RANDOM_STATE_IS_WATCHED = True
PEER = json.loads((Path(__file__).parent / "peer_wordllama.json").read_text(encoding="utf-8"))
"""By tokenizers 0.23 and NumPy, as the library of WordLlama calls them: tokens, four numbers."""


@pytest.fixture(scope="module")
def encoder() -> WordLlama:
    return wordllama()


def test_its_tokens_are_those_of_the_library(encoder: WordLlama) -> None:
    for text, tokens, _ in PEER:
        assert encoder.tokens(text) == tokens, text


def test_its_vectors_are_those_of_the_library(encoder: WordLlama) -> None:
    found = encoder.encode([text for text, *_ in PEER])
    assert torch.allclose(found[:, :4], torch.tensor([v for *_, v in PEER]), atol=1e-5)
    assert torch.allclose(found.norm(dim=1), torch.ones(len(PEER)))


def test_letters_are_joined_in_the_order_of_the_merges() -> None:
    numbers = {"▁": 0, "a": 1, "b": 2, "ab": 3, "▁a": 4, "<0xC3>": 5, "<0xA9>": 6}
    small = WordLlama(torch.eye(7), numbers, ["a b", "▁ a"])
    assert small.tokens("ab a é") == [0, 3, 4, 0, 5, 6]


def test_what_is_missing_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("advlib.models.wordllama")
    monkeypatch.setattr(module, "PACKAGE", "no-such-package")
    with pytest.raises(WeightsError, match=f"not installed: pip install --no-deps {PACKAGE}==0"):
        wordllama()
    folder = tmp_path / "other-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module, "PACKAGE", "other")
    target = tmp_path / "wordllama" / module._FILES[0]
    target.parent.mkdir(parents=True)
    target.write_bytes(b"another file")
    with pytest.raises(WeightsError, match="has SHA-256"):
        wordllama()
