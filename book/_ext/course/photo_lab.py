"""Write what the Photo Lab needs: its networks, photographs, answers, scripts.

Network and photographs come from installed packages, so none of it is committed. All of it is the
same each time. The answers are those of EfficientNet-Lite0; SqueezeNet 1.1 joins where its weights
are at hand.

    lite0.bin      the network: length of the header, header (JSON), numbers in half precision
    lite0.js       the same as a script, for a page opened from disk, which may not fetch
    classes.js     the names of the classes, and the noise
    coffee.js ...  a photograph, and what the network makes of it under noise and FGSM
    coffee_pgd_7.js ... what PGD finds at one stop of the slider
    coffee.jpg ... the photograph, small
    photolab.js    the modules of book/assets/photolab, and the Live Lab's that they use
    clean.png, noise.png, gradient.png   the first answer, with which the welcome page opens
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

import advlib
from advlib.data.photographs import PHOTOGRAPHS, photograph
from advlib.evaluation import predict
from advlib.gradients import input_gradient
from advlib.models.imagenet import Normalised
from course import lab, photo_networks
from course.photo_networks import SIDE

MODULES = Path(__file__).resolve().parents[2] / "assets" / "photolab"
IN_WORKER = (
    *("lab/layers", "photolab/halves", "photolab/slow", "photolab/kernel", "photolab/network"),
    *("lab/attacks", "photolab/levels", "photolab/open", "lab/engine"),
)
IN_PAGE = ("lab/files", "lab/ports", "photolab/load")
INTERFACE = (
    *("lab/settings", "lab/view", "lab/address", "lab/figure", "lab/upload", "photolab/choices"),
    *("photolab/answers", "photolab/controls", "photolab/saving", "photolab/panel"),
    *("photolab/networks", "photolab/lab"),
)
"""The modules, each behind those that it imports. The engine's run in a Worker."""
BUDGETS = {
    "linf": (0, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 6, 8),
    "l2": (0, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8),
}
"""The stops of the slider: in L-infinity in 255ths."""
OPENING, OPENING_STOP = "camera", 7
"""What the lab shows first: which photograph, and which epsilon."""
ROWS = 5
"""How many classes are shown."""
PGD_STEPS, PGD_STOPS = 10, tuple(range(1, 13))
"""The stored PGD: its steps, as the page has them at first, and at which stops of the slider."""
QUARTERS = 4
"""Its changes are stored in quarters of epsilon, the size of its steps, for `answers.mjs`."""
FIRST_LETTER = 35
"""A letter for two changes, behind the quotation mark."""
INTRO = (
    f"Noise, FGSM and PGD with {PGD_STEPS} steps in L∞ are stored for these photographs. Targets, "
    "L2 and your own images need the network."
)
NOT_STORED = "Nothing is stored of what this network predicts, so it has to be loaded."


def write_weights(folder: Path, name: str, file: bytes) -> dict[str, Any]:
    """Write a network's file into `folder`; return what the page must know of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.bin").write_bytes(file)
    (folder / f"{name}.js").write_text(lab.assignment(name, b64encode(file).decode()))
    return {"name": name, "bytes": len(file), "sha256": hashlib.sha256(file).hexdigest()}


def script(kernel: Path | None, interface: Sequence[str]) -> str:
    """The engine and the modules of its interface, one of which has `start`, as one script.

    Parameters
    ----------
    kernel
        The compiled kernel. None: the page computes in JavaScript.
    interface
        The source of each module.
    """
    code = "null" if kernel is None else f'base64Bytes("{b64encode(kernel.read_bytes()).decode()}")'
    worker, page = (sources(names) for names in (IN_WORKER, IN_PAGE))
    progress = lab.PROGRESS.read_text(encoding="utf-8")
    return lab.bundle(worker, [progress, *page, f"const KERNEL = {code};", *interface])


def sources(names: Iterable[str]) -> list[str]:
    """The texts of these modules."""
    return [(MODULES.parent / f"{name}.mjs").read_text(encoding="utf-8") for name in names]


# -- photographs and answers -----------------------------------------------------------------------


def noise() -> Tensor:
    """Signs of the noise that `attacks.mjs` draws, whatever epsilon is: (1, 3, SIDE, SIDE).

    Each is -1 where a random number is below 1/2: the first bit of mulberry32 with seed 0.
    """
    count = np.arange(1, SIDE * SIDE * 3 + 1, dtype=np.uint32)
    state = count * np.uint32(0x6D2B79F5)  # modulo 2 ** 32, as all of it
    mixed = (state ^ (state >> 15)) * (state | 1)
    mixed ^= mixed + (mixed ^ (mixed >> 7)) * (mixed | 61)
    signs = np.where((mixed ^ (mixed >> 14)) >> 31, 1.0, -1.0).astype(np.float32)
    return torch.from_numpy(signs.reshape(1, SIDE, SIDE, 3)).permute(0, 3, 1, 2)


def bits(signs: Tensor) -> str:
    """Signs (1, 3, h, w) as base64 of bits, pixel by pixel: 1 where the sign is not negative."""
    return b64encode(np.packbits(signs.permute(0, 2, 3, 1).numpy() >= 0).tobytes()).decode()


def shipped(name: str) -> Tensor:
    """A photograph that scikit-image installs, rounded to 8 bits as the page has it."""
    return (photograph(name) * 255).round() / 255


def gradient_signs(model: Normalised, x: Tensor, y: Tensor) -> Tensor:
    """Signs of the input gradient; a bit has no third value for a gradient of 0."""
    return torch.where(input_gradient(model, x, y).grad < 0, -1.0, 1.0)


def answers(model: Normalised, x: Tensor) -> dict[str, Any]:
    """What the lab shows of a photograph before the network is there: noise and FGSM, each epsilon.

    In L-infinity the direction of either is the same for every epsilon. So the page itself draws
    ``x + eps * direction``, and needs from here what the network makes of it. FGSM raises the loss
    of the class that the network predicts on the photograph itself.
    """
    y = predict(model, x).argmax(1)
    gradient = gradient_signs(model, x, y)
    directions = {"noise": noise(), "fgsm": gradient}
    return {
        "pixels": lab.pixels(x),
        "fgsm": bits(gradient),
        "answers": {name: _along(model, x, y, signs) for name, signs in directions.items()},
    }


def pgd_answer(model: Normalised, x: Tensor, y: Tensor, stop: float) -> dict[str, Any]:
    """What PGD finds within ``stop / 255``, and what the network makes of exactly what is stored.

    Its steps are quarters of epsilon. Only a value that has met the box may lie between two of
    them, and is rounded.
    """
    eps = stop / 255
    losses: list[float] = []
    x_adv = advlib.pgd(
        model, x, y, eps, steps=PGD_STEPS, random_start=False,
        on_step=lambda *seen: losses.append(round(float(seen[3]), 5)),
    )  # fmt: skip
    quarters = ((x_adv - x) * QUARTERS / eps).round().clamp(-QUARTERS, QUARTERS)
    pairs = (quarters + QUARTERS).permute(0, 2, 3, 1).reshape(-1, 2).to(torch.uint8).numpy()
    letters = FIRST_LETTER + (2 * QUARTERS + 1) * pairs[:, 0] + pairs[:, 1]
    logits = predict(model, (x + eps / QUARTERS * quarters).clamp(0, 1))
    return {"change": letters.tobytes().decode(), **_reading(logits, y), "losses": losses}


def _reading(logits: Tensor, y: Tensor) -> dict[str, Any]:
    """The most probable classes, `y` among them."""
    shares = logits.softmax(1)[0]
    first = shares.topk(ROWS).indices.tolist()
    if int(y) not in first:
        first[-1] = int(y)  # as `mostProbable` in view.mjs
    return {"rows": [[i, float(f"{shares[i]:.6g}")] for i in first]}


def _along(model: Normalised, x: Tensor, y: Tensor, signs: Tensor) -> list[dict[str, Any]]:
    found = []
    for stop in BUDGETS["linf"]:
        logits = predict(model, (x + stop / 255 * signs).clamp(0, 1))
        found.append({**_reading(logits, y), "loss": round(float(cross_entropy(logits, y)), 5)})
    return found


def write(folder: Path, kernel: Path | None) -> dict[str, Any]:
    """Write the lab's files into `folder`; return what the page itself holds.

    Raises
    ------
    WeightsError, InputError
        The network or the photographs are not installed.
    """
    model = photo_networks.lite0()
    photographs = {name: shipped(name) for name in PHOTOGRAPHS}
    networks = [
        write_weights(folder, "lite0", photo_networks.weights(model.net))
        | {"title": "EfficientNet-Lite0", "intro": INTRO}
    ]
    second = photo_networks.squeezenet()
    if second is not None:
        networks.append(
            write_weights(folder, "squeezenet", photo_networks.weights(second.net))
            | {"title": "SqueezeNet 1.1", "intro": NOT_STORED}
        )
    for name, x in photographs.items():
        _write_photograph(folder, name, x, model)
    classes = {"names": model.categories, "noise": bits(noise())}
    (folder / "classes.js").write_text(lab.assignment("classes", classes), encoding="utf-8")
    (folder / "photolab.js").write_text(script(kernel, sources(INTERFACE)), encoding="utf-8")
    return {
        "photographs": [[name, PHOTOGRAPHS[name].credit] for name in PHOTOGRAPHS],
        "budgets": BUDGETS,
        "image": OPENING,
        "stop": OPENING_STOP,
        "pgd": {"steps": PGD_STEPS, "stops": PGD_STOPS},
        "networks": networks,
        "first": _first_answer(folder, photographs[OPENING], model),
    }


def _write_photograph(folder: Path, name: str, x: Tensor, model: Normalised) -> None:
    y = predict(model, x).argmax(1)
    files = {name: answers(model, x)}
    for stop in PGD_STOPS:
        files[f"{name}_pgd_{stop}"] = pgd_answer(model, x, y, BUDGETS["linf"][stop])
    for file, value in files.items():
        (folder / f"{file}.js").write_text(lab.assignment(file, value), encoding="utf-8")
    _image(x).resize((96, 96)).save(folder / f"{name}.jpg", quality=80)


def _first_answer(folder: Path, x: Tensor, model: Normalised) -> dict[str, Any]:
    """Draw the photograph clean, with noise and after FGSM; return what is said of the three."""
    stop = BUDGETS["linf"][OPENING_STOP]
    y = predict(model, x).argmax(1)
    changes = {
        "clean": torch.zeros_like(x),
        "noise": noise(),
        "gradient": gradient_signs(model, x, y),
    }
    readings = []
    for name, signs in changes.items():
        x_adv = (x + stop / 255 * signs).clamp(0, 1)
        _image(x_adv).save(folder / f"{name}.png")  # a whole number of levels: a file keeps it
        shares = predict(model, x_adv).softmax(1)[0]
        place = int(shares.argmax())
        readings.append([name, model.categories[place], round(float(shares[place]), 4)])
    return {"eps": f"{stop}/255", "credit": PHOTOGRAPHS[OPENING].credit, "readings": readings}


def _image(x: Tensor) -> Image.Image:
    return Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).numpy())
