"""WordLlama, a second encoder: the mean over the tokens of one table, in whatever order they stand.

It shares neither tokens nor weights nor training texts with MiniLM. Its author trained the table
from the token embeddings of language models, Llama 2 among them.

References
----------
Miller 2024, "WordLlama: Recycled Token Embeddings from Large Language Models" (software); Sennrich,
Haddow & Birch 2016, "Neural Machine Translation of Rare Words with Subword Units" (the tokens).
"""

import json
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.models.files import installed

PACKAGE = "wordllama"
"""The package that brings table and tokens (MIT, Lee Miller)."""
_ADVICE = f"pip install --no-deps {PACKAGE}==0.4.0.post1"
_FILES = ("weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json")
_SHA256 = (
    "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
    "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
)


class WordLlama:
    """A table (tokens, width), the number of each token, and which pairs become one, in order."""

    def __init__(self, table: Tensor, numbers: dict[str, int], merges: Sequence[str]) -> None:
        self.table, self.numbers = table, numbers
        self._ranks = {tuple(pair.split(" ")): rank for rank, pair in enumerate(merges)}

    def tokens(self, text: str) -> list[int]:
        """Letters joined pair by pair, in the order of `merges`; an unknown one is its bytes."""
        found = []
        for word in text.split(" "):
            parts = list("▁" + word)
            while pairs := [pair for pair in pairwise(parts) if pair in self._ranks]:
                at = list(pairwise(parts)).index(min(pairs, key=self._ranks.__getitem__))
                parts[at : at + 2] = ["".join(parts[at : at + 2])]
            for part in parts:
                known = [part] if part in self.numbers else [f"<0x{b:02X}>" for b in part.encode()]
                found += [self.numbers[name] for name in known]
        return found

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, width) of texts."""
        return F.normalize(torch.stack([self.table[self.tokens(t)].mean(0) for t in texts]), dim=1)


def wordllama() -> WordLlama:
    """WordLlama, from its package, which is only read; `WeightsError` where it is not installed."""
    from safetensors.torch import load_file

    table, tokens = (
        installed(PACKAGE, f"wordllama/{name}", digest, _ADVICE, "the second encoder")
        for name, digest in zip(_FILES, _SHA256, strict=True)
    )
    model = json.loads(tokens.read_text(encoding="utf-8"))["model"]
    return WordLlama(load_file(table)["embedding.weight"].float(), model["vocab"], model["merges"])
