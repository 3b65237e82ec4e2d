"""Photographs and classic data sets: whatever comes in, pixels in [0, 1] come out."""

import gzip
import os
import re
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advlib.data import PHOTOGRAPHS, classic, classics, photograph
from advlib.errors import DownloadError, InputError


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_an_installed_photograph_needs_nothing_but_its_name(name: str) -> None:
    x = photograph(name)
    assert x.shape == (1, 3, 224, 224) and x.dtype == torch.float32
    assert 0 <= x.min() < 0.1 and 0.7 < x.max() <= 1


def test_each_credit_names_the_photographer_that_scikit_image_names() -> None:
    from skimage import data

    for file, credit in PHOTOGRAPHS.values():
        _, by, licence = credit.rsplit(", ", 2)
        notes = getattr(data, file.rpartition(".")[0]).__doc__
        assert by.removeprefix("by ") in notes and licence in notes


def test_without_scikit_image_its_photographs_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # nothing is installed there
    with pytest.raises(InputError, match="pip install scikit-image"):
        photograph("cat")


def test_the_middle_is_cut_as_torchvision_cuts_it() -> None:
    from skimage import data
    from torchvision.models import SqueezeNet1_1_Weights

    preset = SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms()
    theirs = preset(torch.from_numpy(data.chelsea().copy()).permute(2, 0, 1))
    mean, std = torch.tensor(preset.mean).view(3, 1, 1), torch.tensor(preset.std).view(3, 1, 1)
    # Theirs rounds to whole grey levels after scaling, ours does not.
    assert (theirs * std + mean - photograph("cat")[0]).abs().max() < 1 / 255


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "CMYK", "1", "I;16"])
def test_a_file_of_any_kind_becomes_three_colours(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    grey = np.full((40, 60), 255, dtype=np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(grey) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(path)
    x = photograph(path, resize=32, crop=24)
    assert x.shape == (1, 3, 24, 24)
    assert x.min() >= 0 and x.max() <= 1
    if mode != "I;16":
        assert x.min() > 0.99


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    Image.new("RGBA", (30, 30), (0, 0, 0, 0)).save(tmp_path / "glass.png")
    assert photograph(tmp_path / "glass.png", resize=24, crop=24).min() > 0.999


def test_a_camera_held_sideways_is_turned(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste("black", (0, 0, 20, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    x = photograph(tmp_path / "turned.png", resize=20, crop=20)
    assert x[0, :, :5].mean() < 0.1 and x[0, :, -5:].mean() > 0.9


def test_a_long_strip_is_cut_in_the_middle(tmp_path: Path) -> None:
    strip = np.zeros((10, 1000, 3), np.uint8)
    strip[:, 495:505] = 255
    Image.fromarray(strip).save(tmp_path / "strip.png")
    assert photograph(tmp_path / "strip.png", resize=10, crop=8).mean() > 0.95


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_a_file_that_is_no_image_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.png cannot be read as an image"):
        photograph(path)


def test_a_photograph_that_is_not_there_lists_what_is() -> None:
    with pytest.raises(InputError, match="cat, coffee, camera, rocket or the path"):
        photograph("panda")
    with pytest.raises(InputError, match="crop"):
        photograph("cat", resize=100, crop=200)


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def test_mnist_comes_as_tensors(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = np.arange(7, dtype=np.uint8)
    for part in ("train", "t10k"):
        _write_idx(raw / f"{part}-images-idx3-ubyte", images)
        _write_idx(raw / f"{part}-labels-idx1-ubyte", labels)
    x, y = classic("mnist", n=5, root=tmp_path)
    assert x.shape == (5, 1, 28, 28) and x.dtype == torch.float32
    assert torch.equal(y, torch.arange(5))
    assert torch.allclose(x[:, 0] * 255, torch.from_numpy(images[:5]).float())


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_a_data_set_that_is_not_available_names_the_ways_to_provide_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(DownloadError, match=r"could not be fetched .*root=\.\.\. or ADVLIB_DATA"):
        classic(name, root=tmp_path)
    with pytest.raises(InputError, match="fashion-mnist"):
        classic("imagenet-21k")


def test_a_data_set_comes_over_https_and_by_its_whole_hash() -> None:
    for source in classics.SOURCES.values():
        assert source.address.startswith("https://")
        assert len(source.files) == len(source.sha256)
        for sha256 in source.sha256:
            assert re.fullmatch("[0-9a-f]{64}", sha256)


def test_a_data_set_is_fetched_and_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def from_elsewhere(url: str, path: Path, sha256: str, *, check: bool) -> None:
        assert check
        asked.append((url, sha256))
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (3, 28, 28) if "images" in url else (3,)
        _write_idx(path, np.full(shape, 7, np.uint8))
        path.write_bytes(gzip.compress(path.read_bytes()))

    monkeypatch.setattr(classics, "fetch", from_elsewhere)
    for _ in range(2):
        x, y = classic("fashion-mnist", root=tmp_path)
        assert x.shape == (3, 1, 28, 28) and y.tolist() == [7, 7, 7]
    source = classics.SOURCES["fashion-mnist"]
    addresses = [f"{source.address}/{file}" for file in source.files]
    assert asked == list(zip(addresses, source.sha256, strict=True))


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(b"cut short")
    with pytest.raises(DownloadError, match=r"train-images-idx3-ubyte\.gz has SHA-256"):
        classic("fashion-mnist", root=tmp_path)


@pytest.mark.skipif(
    not Path("../shared/testdata/data/MNIST/raw").is_dir(),
    reason="no copy of the real MNIST beside the repository",
)
def test_the_real_mnist_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # what is there is enough
    shutil.copytree("../shared/testdata/data/MNIST", tmp_path / "MNIST")
    os.chmod(tmp_path / "MNIST", 0o755)
    for folder in (tmp_path / "MNIST").rglob("*"):
        folder.chmod(0o755)
    x, y = classic("mnist", root=tmp_path)
    assert x.shape == (10000, 1, 28, 28) and y[:5].tolist() == [7, 2, 1, 0, 4]
