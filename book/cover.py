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


def columns() -> list[plots.Column]:
    """Attack a well-lit stop sign: for each picture its title, pixels, probabilities and role."""
    model = advlib.models.load("signs-standard")
    pool, _ = signs.render(64, seed=8, classes=["stop"])
    x = pool[pool.flatten(1).std(1).argmax()][None]  # the strongest contrast
    target = torch.tensor([signs.CLASS_NAMES.index(TARGET)])
    return [
        (title, picture, predict(model, picture).softmax(1)[0], role)
        for title, picture, role in (
            ("clean", x, "clean"),
            ("noise 4/255", advlib.noise(x, EPS, distribution="sign"), "noise"),
            ("PGD 4/255", advlib.pgd(model, x, target, EPS, targeted=True), "adversarial"),
        )
    ]


def alt(shown: list[plots.Column]) -> str:
    """What README and welcome page say of the picture; a test compares them with it."""
    read = [signs.CLASS_NAMES[int(probabilities.argmax())] for _, _, probabilities, _ in shown]
    least = min(float(probabilities.max()) for _, _, probabilities, _ in shown)
    sure = "more than 99.9 %" if least > 0.999 else f"at least {plots.percent(least)}"
    return (
        "A stop sign clean, with random noise of 4/255, and after projected gradient descent "
        f"within 4/255. All three look alike. The network reads {read[0]}, {read[1]}, and "
        f"{read[2]}, each with {sure} confidence."
    )


def main() -> None:
    """Save the figure and print its alternative text."""
    shown = columns()
    figure = plots.story(shown, signs.CLASS_NAMES, original=shown[0][1], factor=25)
    figure.savefig(PLACE, dpi=150, metadata={"Software": None})
    print(alt(shown))


if __name__ == "__main__":
    main()
