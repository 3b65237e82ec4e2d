"""A folder of photographs: what is read, how it is prepared, and what its folders say."""

import time
from pathlib import Path

import pytest
import reference
import torch
from PIL import Image
from torch import Tensor, nn

import advlib
from advlib.audit import Audit, command_line
from advlib.audit.photos import photo_folder, synsets
from advlib.audit.run import _at_most, _Job
from advlib.audit.sources import stream
from advlib.data import photograph
from advlib.errors import InputError
from advlib.models import Normalised

RANDOM_STATE_IS_WATCHED = True

NAMES = ("tabby", "Egyptian cat", "crane", "crane", "ping-pong ball")


def model(names: tuple[str, ...] = NAMES, crop: int = 8) -> Normalised:
    """It says which of its classes an image is by its brightness."""

    class Brightness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            place = torch.arange(len(names)) / len(names)
            return -((x.mean((1, 2, 3))[:, None] - place) ** 2) * 100

    preparation = {"resize": crop, "crop": crop, "mode": "bicubic"}
    return Normalised(Brightness(), (0.0,) * 3, (1.0,) * 3, names, preparation).eval()


def photo(path: Path, level: float = 0.5, size: tuple[int, int] = (16, 12), **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (round(255 * level),) * 3).save(path, **how)
    return path


def labels(folder: Path, names: tuple[str, ...] = NAMES) -> list[int]:
    stream = photo_folder(folder, model(names))
    return stream.piece(0, stream.count)[1].tolist()


def found(stream, name: str) -> str:
    return " ".join(note.message for note in stream.notes if note.name == name)


@pytest.mark.parametrize(
    ("place", "label"),
    [
        ("tabby/a.png", 0),
        ("Tabby/a.png", 0),
        ("egyptian_cat/a.png", 1),
        ("Egyptian Cat/deep/er/a.png", 1),
        ("tabby/egyptian-cat/a.png", 1),  # the nearest folder counts
        ("Ping pong ball/a.png", 4),
    ],
)
def test_a_folder_bears_the_name_of_a_class(place: str, label: int, tmp_path: Path) -> None:
    photo(tmp_path / place)
    assert labels(tmp_path) == [label]


@pytest.mark.parametrize(
    "place", ["n02123045/a.png", "n02123045-tabby/a.png", "any/n02123045_17.JPEG"]
)
def test_a_folder_or_a_file_bears_the_synset(place: str, tmp_path: Path) -> None:
    photo(tmp_path / place)
    names = tuple(map(str, range(1000)))
    assert labels(tmp_path, names) == [281]  # tabby
    assert len(synsets()) == 1000 == len(set(synsets())) and synsets() == sorted(synsets())
    stream = photo_folder(tmp_path, model())  # synsets are ImageNet's: five classes have none
    assert "NO LABELS" in found(stream, "labels-from-model")


def test_synsets_and_names_of_imagenet_belong_together() -> None:
    weights = pytest.importorskip("torchvision.models").SqueezeNet1_1_Weights.IMAGENET1K_V1
    names = weights.meta["categories"]
    known = {"n01440764": "tench", "n02123159": "tiger cat", "n07920052": "espresso"}
    known |= {"n02510455": "giant panda", "n15075141": "toilet tissue", "n03100240": "convertible"}
    assert {key: names[synsets().index(key)] for key in known} == known


def test_where_no_folder_fits_the_decisions_stand_in_and_the_card_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for place, level in (("crane/a.png", 0.1), ("holidays/b.png", 0.45), ("c.png", 0.81)):
        photo(tmp_path / "photos" / place, level)
    result = advlib.audit(
        model(),
        tmp_path / "photos",
        eps=0.15,
        level="quick",
        masking=False,
        report=tmp_path / "card",
    )
    assert result.clean.count == result.clean.total == 3 and result.robust.count < 3
    assert result.warnings[0].name == "labels-from-model"
    assert "NO LABELS" in str(result) and "NO LABELS" in (tmp_path / "card/card.html").read_text()
    assert "NO LABELS" in result.markdown() and "'tabby'" in str(result)


def test_what_does_not_fit_among_what_does_is_left_out_and_listed(tmp_path: Path) -> None:
    photo(tmp_path / "tabby/a.png")
    for number in range(25):
        photo(tmp_path / f"holidays/{number:02d}.png")
    stream = photo_folder(tmp_path, model())
    assert stream.count == 1
    words = found(stream, "files-left-out")
    assert "their folders name no class of the model (25)" in words
    assert "holidays/00.png" in words and "holidays/24.png" not in words and "and 5 more" in words


def test_what_cannot_be_read_is_left_out_and_listed(tmp_path: Path) -> None:
    whole = photo(tmp_path / "tabby/whole.jpg", size=(200, 200), quality=95)
    (tmp_path / "tabby/cut.jpg").write_bytes(whole.read_bytes()[:-300])
    (tmp_path / "tabby/words.png").write_text("no image")
    (tmp_path / "tabby/empty.heic").write_bytes(b"")
    (tmp_path / "tabby/notes.txt").write_text("not listed")
    photo(tmp_path / ".hidden/tabby/a.png")
    stream = photo_folder(tmp_path, model())
    assert stream.count == 1
    words = found(stream, "files-left-out")
    assert words.startswith("Left out because they cannot be read (3)")
    assert all(name in words for name in ("cut.jpg", "words.png", "empty.heic"))
    whole.unlink()
    with pytest.raises(InputError, match="no photograph that can be read .3 that cannot."):
        photo_folder(tmp_path, model())
    with pytest.raises(InputError, match="no folder"):
        photo_folder(tmp_path / "missing", model())


def test_photographs_of_all_kinds_are_prepared_as_the_model_says(tmp_path: Path) -> None:
    for number, size in enumerate(((1, 1), (3, 400), (400, 3), (16, 12))):
        photo(tmp_path / f"tabby/{number}.png", 0.2, size)
    Image.new("L", (9, 9), 51).save(tmp_path / "tabby/grey.png")
    Image.new("CMYK", (9, 9), (204, 204, 204, 0)).save(tmp_path / "tabby/print.tif")
    Image.new("RGBA", (9, 9), (51, 51, 51, 255)).save(tmp_path / "tabby/clear.png")
    stream = photo_folder(tmp_path, model())
    x, _ = stream.piece(0, stream.count)
    assert x.shape == (7, 3, 8, 8) and stream.count == 7
    assert float((x - 0.2).abs().max()) < 0.01
    first = sorted((tmp_path / "tabby").iterdir())[0]
    assert torch.equal(x[:1], photograph(first, resize=8, crop=8, mode="bicubic"))


def test_a_camera_held_upright_is_turned(tmp_path: Path) -> None:
    image = Image.new("RGB", (32, 32), "black")
    image.paste("white", (0, 0, 16, 32))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left half is the upper one
    (tmp_path / "tabby").mkdir()
    image.save(tmp_path / "tabby/a.png", exif=exif)
    x, _ = photo_folder(tmp_path, model()).piece(0, 1)
    assert float(x[0, :, :3].mean()) > 0.9 and float(x[0, :, 5:].mean()) < 0.1


def test_another_photograph_or_label_is_another_audit(tmp_path: Path) -> None:
    known = []
    for step in range(4):
        photo(tmp_path / "tabby/a.png", 0.2 if step < 2 else 0.3)
        if step == 1:
            photo(tmp_path / "tabby/b.png")
        if step == 3:
            (tmp_path / "tabby").rename(tmp_path / "egyptian cat")
        known.append(photo_folder(tmp_path, model()).known)
    assert len(set(known)) == 4
    again = [model(crop=9), model(NAMES[::-1]), model()]
    assert len({photo_folder(tmp_path, one).known for one in again}) == 3


class Slow(nn.Module):
    """Every image takes half a millisecond."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.seconds = reference.mlp(75, 5, scale=2.0).float(), 0.0

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.0005 * len(x))
        self.seconds += 0.0005 * len(x)
        return self.model(x)


@pytest.mark.parametrize("masking", [False, True])
def test_the_estimate_is_not_too_small_and_not_far_too_large(masking: bool) -> None:
    model = Slow()
    x = reference.images(40, 3, 5, 5).float()
    y = model.model(x).argmax(1)
    job = _Job(model, stream(x, y), "quick", 0.001, "linf", 8, 32, 0, None)
    _, most = _at_most(job, 1, masking)
    assert _at_most(job, 2, masking)[1] < most
    model.seconds = 0.0
    settings = {"level": "quick", "batch_size": 8, "piece_size": 32, "masking": masking}
    advlib.audit(model, x, y, 0.001, **settings)  # nothing is fooled: the most there is to do
    assert model.seconds < most < 4 * model.seconds


@pytest.mark.parametrize("level", ["quick", "standard", "thorough"])
def test_no_attack_takes_more_than_the_estimate_counts(level: str) -> None:
    from advlib.audit.plan import at_most, plan

    network = reference.mlp(75, 5, scale=2.0).float()
    x = reference.images(12, 3, 5, 5).float()
    y = network(x).argmax(1)
    result = advlib.audit(network, x, y, 1e-4, level=level, masking=False)
    for row, attack in zip(result.rows, plan(level, 5), strict=True):
        forward, backward = at_most(attack)
        assert row.backward <= backward * row.attacked
        # Every attack may look at its last point once a run, and at what it begins with.
        assert row.forward - row.backward <= (forward + 12) * row.attacked


def test_the_whole_command_on_photographs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The installed network on photographs of scikit-image; a second time it is done."""
    for folder, name in (("n07920052", "coffee"), ("Egyptian cat", "cat"), ("missile", "rocket")):
        from advlib.data.photographs import _read

        path = tmp_path / "photos" / folder / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(_read(name)).save(path)
    (tmp_path / "photos/missile/broken.jpg").write_text("no image")
    from advlib.__main__ import main

    arguments = ["audit", "--model", "efficientnet_lite0", "--data", str(tmp_path / "photos")]
    arguments += [
        "--out",
        str(tmp_path / "card"),
        "--eps",
        "1/255",
        "--level",
        "quick",
        "--progress",
    ]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "3 images" in said.err and "at most about" in said.err and "robust" in said.err
    held = Audit.from_json((tmp_path / "card/card.json").read_text())
    assert held.clean.total == 3 and held.clean.count >= 2 and held.robust.count == 0
    assert held.data["shape"] == [3, 224, 224]
    assert {one.name for one in held.by_class} == {"espresso", "Egyptian cat", "missile"}
    assert "broken.jpg" in said.out and held.settings["batch_size"] == 16
    page = (tmp_path / "card/card.html").read_text()
    assert page.count("<img") == 2 * held.clean.count
    assert main(arguments) == 0


def test_an_onnx_file_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="no gradient"):
        command_line.load_model("network.onnx")
