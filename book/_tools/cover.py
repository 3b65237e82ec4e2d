"""Draw the README's image: one stop sign clean, with noise, and adversarial.

The same beside the book's title is what a link to the book shows elsewhere.

python book/_tools/cover.py
"""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import advlib
from advlib import plots
from advlib.data import signs
from advlib.evaluation import predict

EPS = 4 / 255
TARGET = "speed limit 100"
PLACE = Path(__file__).resolve().parents[1] / "assets" / "cover.png"
SOCIAL = PLACE.with_name("social.png")
WIDTH, HEIGHT = 1200, 630
TITLE = "Adversarial\nExamples,\nHands On"


def columns() -> list[plots.Column]:
    """Attack a well-lit stop sign: for each image its title, pixels, probabilities and role."""
    model = advlib.models.load("signs-standard")
    pool, _ = signs.render(64, seed=8, classes=["stop"])
    x = pool[pool.flatten(1).std(1).argmax()][None]  # the strongest contrast
    target = torch.tensor([signs.CLASS_NAMES.index(TARGET)])
    return [
        (title, image, predict(model, image).softmax(1)[0], role)
        for title, image, role in (
            ("clean", x, "clean"),
            ("noise 4/255", advlib.noise(x, EPS, distribution="sign"), "noise"),
            ("PGD 4/255", advlib.pgd(model, x, target, EPS, targeted=True), "adversarial"),
        )
    ]


def alt(shown: list[plots.Column]) -> str:
    """What README and welcome page say of the image; a test compares them with it."""
    predicted = [signs.CLASS_NAMES[int(probabilities.argmax())] for _, _, probabilities, _ in shown]
    least = min(float(probabilities.max()) for _, _, probabilities, _ in shown)
    sure = "more than 99.9 %" if least > 0.999 else f"at least {plots.percent(least)}"
    return (
        "A stop sign clean, with random noise of 4/255, and after projected gradient descent "
        "within 4/255. All three look alike. The network classifies them as "
        f"{predicted[0]}, {predicted[1]}, and {predicted[2]}, each with {sure} confidence."
    )


def beside_title(figure: Figure) -> Figure:
    """Set the figure beside the book's title, in the shape that a preview of a link has."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=HEIGHT / figure.get_figheight())
    buffer.seek(0)
    image = plt.imread(buffer)
    preview = plt.figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor="white")
    preview.figimage(image, xo=WIDTH - image.shape[1] - 20, yo=0)
    preview.text(0.05, 0.5, TITLE, fontsize=42, fontweight="bold", va="center", linespacing=1.3)
    return preview


def main() -> None:
    """Save both images and print their alternative text."""
    shown = columns()
    figure = plots.story(shown, signs.CLASS_NAMES, original=shown[0][1], factor=25)
    figure.savefig(PLACE, dpi=150, metadata={"Software": None})
    beside_title(figure).savefig(SOCIAL, dpi=100, metadata={"Software": None})
    print(alt(shown))


if __name__ == "__main__":
    main()
