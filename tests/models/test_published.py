"""Released networks: found by name, loaded without running code, with clear errors."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import advlib
from advlib.data.classics import classic
from advlib.errors import DownloadError, InputError, WeightsError
from advlib.models.published import RELEASES, published, published_path

RANDOM_STATE_IS_WATCHED = True
NAMES = sorted(RELEASES)


def untrained(name: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RELEASES[name].build().eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ADVLIB_DATA for the test, with random weights for each network."""
    monkeypatch.setenv("ADVLIB_DATA", str(tmp_path))
    (tmp_path / "models").mkdir()
    for name in NAMES:
        torch.save(untrained(name).state_dict(), tmp_path / "models" / RELEASES[name].files[0])
    return tmp_path / "models"


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_in_the_file_are_the_weights_of_the_network(name: str, folder: Path) -> None:
    model = published(name)
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(x), untrained(name)(x)) and model(x).shape == (3, 10)
    assert not torch.equal(model(x), untrained(name, seed=1)(x))
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_trades_network_is_that_of_the_paper(folder: Path) -> None:
    net = published("trades-mnist")
    w = dict(net.state_dict())
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    h = x
    for i in (1, 2, 3, 4):
        layer = f"feature_extractor.conv{i}"
        h = nn.functional.conv2d(h, w[f"{layer}.weight"], w[f"{layer}.bias"]).clamp_min(0)
        h = nn.functional.max_pool2d(h, 2) if i in (2, 4) else h
    h = h.reshape(2, -1)
    for i in (1, 2, 3):
        h = h @ w[f"classifier.fc{i}.weight"].T + w[f"classifier.fc{i}.bias"]
        h = h.clamp_min(0) if i < 3 else h
    assert torch.allclose(net(x), h, atol=1e-5)


def test_the_file_is_found_under_the_authors_name_and_in_a_folder_of_choice(
    folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    for name in NAMES:
        torch.save(untrained(name, seed=7).state_dict(), other / RELEASES[name].files[1])
        assert published_path(name, other) == other / RELEASES[name].files[1]
        x = torch.full((1, 1, 28, 28), 0.5)
        assert torch.equal(published(name, other)(x), untrained(name, seed=7)(x))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_says_where_its_authors_publish_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVLIB_DATA", str(tmp_path))
    with pytest.raises(DownloadError) as caught:
        published(name)
    for words in (RELEASES[name].address, str(tmp_path / "models"), RELEASES[name].files[0]):
        assert words in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="'trades-mnist', 'wong-mnist'"):
        published("trades")


def test_a_file_of_another_network_is_refused(folder: Path) -> None:
    ours, theirs = (folder / RELEASES[name].files[0] for name in NAMES)
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(WeightsError, match="does not hold the weights of trades-mnist"):
        published("trades-mnist")


@pytest.mark.parametrize("damage", ["cut", "empty", "list", "nan"])
def test_a_damaged_file_is_named_with_the_remedy(damage: str, folder: Path) -> None:
    path = folder / RELEASES["wong-mnist"].files[0]
    whole = path.read_bytes()
    if damage == "list":
        torch.save([torch.zeros(2)], path)
    elif damage == "nan":
        state = torch.load(path, weights_only=True)
        state["0.bias"][3] = torch.nan
        torch.save(state, path)
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    with pytest.raises(WeightsError, match=r"[Ff]etch .*again|fetch it again"):
        published("wong-mnist")


class Bomb:
    """What a pickle from outside could do."""

    def __reduce__(self) -> tuple:
        return (Path("exploded").touch, ())


def test_a_file_that_would_run_code_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"0.weight": Bomb()}, folder / RELEASES["wong-mnist"].files[0])
    with pytest.raises(WeightsError):
        published("wong-mnist")
    assert not Path("exploded").exists()


@pytest.mark.parametrize(("name", "clean"), [("trades-mnist", 9948), ("wong-mnist", 9899)])
def test_the_real_network_has_the_published_accuracy(name: str, clean: int) -> None:
    """Of all 10,000 test images; for TRADES' network its authors state 99.48 %."""
    if "ADVLIB_DATA" not in os.environ:
        pytest.skip("ADVLIB_DATA names no folder with the released networks")
    try:
        model = published(name)
        x, y = classic("mnist")
    except DownloadError as error:
        pytest.skip(f"not at hand: {error}")
    assert abs(advlib.accuracy(model, x, y).count - clean) <= 1
    attacked = advlib.accuracy(model, x[:200], y[:200], lambda m, a, b: advlib.fgsm(m, a, b, 0.3))
    assert attacked.low > 0.85, "a robust network: a standard one has almost none"
