"""Draw the README's picture: one stop sign clean, with noise, and adversarial.

python book/cover.py
"""

from pathlib import Path

import torch

import advlib
from advlib import plots
from advlib.data import signs
from advlib.evaluation import predict

EPS = 4 / 255
TARGET = "speed limit 100"
PLACE = Path(__file__).parent / "assets" / "cover.png"


def main() -> None:
    """Attack a well-lit stop sign and save the figure."""
    model = advlib.models.load("signs-standard")
    pool, _ = signs.render(64, seed=8, classes=["stop"])
    x = pool[pool.flatten(1).std(1).argmax()][None]  # the strongest contrast
    target = torch.tensor([signs.CLASS_NAMES.index(TARGET)])
    columns = [
        (title, picture, predict(model, picture).softmax(1)[0], role)
        for title, picture, role in (
            ("clean", x, "clean"),
            ("noise 4/255", advlib.noise(x, EPS, distribution="sign"), "noise"),
            ("PGD 4/255", advlib.pgd(model, x, target, EPS, targeted=True), "adversarial"),
        )
    ]
    figure = plots.story(columns, signs.CLASS_NAMES, original=x, factor=25)
    figure.savefig(PLACE, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
