"""Tokens and vectors of all-MiniLM-L6-v2 by the libraries, stored for test_minilm.py.

python tests/models/peer_vectors.py

It needs sentence-transformers, which nothing else here does, in an environment of its own. The
stored file was made with version 6.2.0 on transformers 5.24.0.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from advlib.data.passages import passages
from advlib.models.minilm import _FOLDER, PACKAGE

STORED = Path(__file__).parent / "peer_vectors.safetensors"
ODD = [
    "",
    "Naïve CAFÉ, œuvre & Łódź: 3.14% of $100 — don't!",
    "漢字 and かな, Ελληνικά, русский, ﬁne\u00adprint\u200b\ttab\nline\x00\ufffd",
    "antidisestablishmentarianism " + "x" * 101 + " 🙂",
    "[ mask ]ed ##word a_b `c` ^d ~e",
    " ".join(["word"] * 90),
]
"""Accents, other scripts, marks, characters that are dropped, words that are cut into pieces."""


def texts() -> list[str]:
    """Every passage and query of the course, and the odd ones."""
    return [text for p in passages() for text in (p.query, p.text)] + ODD


def main() -> None:
    """Compute tokens and vectors and store them."""
    from importlib import metadata

    from sentence_transformers import SentenceTransformer

    folder = metadata.distribution(PACKAGE).locate_file(_FOLDER)
    peer = SentenceTransformer(str(folder), device="cpu")
    peer.max_seq_length = 512
    peer.tokenizer.backend_tokenizer.no_padding()
    peer.tokenizer.backend_tokenizer.no_truncation()
    stored = {"vectors": peer.encode(texts(), convert_to_tensor=True, normalize_embeddings=True)}
    for number, text in enumerate(texts()):
        stored[f"tokens {number}"] = torch.tensor(peer.tokenizer.backend_tokenizer.encode(text).ids)
    save_file(stored, STORED)


if __name__ == "__main__":
    main()
