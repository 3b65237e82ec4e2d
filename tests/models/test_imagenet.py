"""ImageNet networks: wrapped for pixels in [0, 1], with clear errors about bad weights."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import get_model_weights

import advlib
from advlib.data import photograph
from advlib.errors import DownloadError, InputError, WeightsError
from advlib.evaluation import predict
from advlib.models import Normalised, imagenet
from advlib.models.imagenet import cache_folder

CATS = {"tabby", "tiger cat", "Egyptian cat"}
FILE = "squeezenet1_1-b8a52dc0.pth"
PANDA = Path("../shared/testdata/photos/giant_panda_lightmatter.jpg")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for the test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    assert cache_folder() == folder
    return folder


def _untrained_weights(path: Path, name: str = "squeezenet1_1") -> None:
    from torchvision.models import get_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(get_model(name, weights=None).state_dict(), path)


def test_normalisation_lives_inside_the_model() -> None:
    net = nn.Flatten()
    model = Normalised(net, mean=[0.5, 0.1], std=[0.5, 0.2], categories=["a", "b"])
    x = torch.tensor([[[[1.0]], [[0.3]]]])
    assert torch.allclose(model(x), torch.tensor([[1.0, 1.0]]))
    assert model.categories == ("a", "b")
    assert list(model.state_dict()) == []


def test_weights_at_hand_are_used_and_give_a_network_in_eval_mode(empty_cache: Path) -> None:
    _untrained_weights(empty_cache / FILE)
    state = torch.get_rng_state()
    model = imagenet("squeezenet1_1")
    assert torch.equal(torch.get_rng_state(), state), "building drew from the global random state"
    assert not model.training and len(model.categories) == 1000
    stored = torch.load(empty_cache / FILE, weights_only=True)
    assert torch.equal(model.net.features[0].weight, stored["features.0.weight"])
    x = photograph("cat")
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(model(x), model.net((x - mean) / std), atol=1e-5)


def test_networks_with_special_settings_load_too(empty_cache: Path) -> None:
    from torchvision.models import GoogLeNet_Weights, googlenet

    with torch.random.fork_rng(devices=[]):
        net = googlenet(weights=None, aux_logits=True, init_weights=False)
    file = GoogLeNet_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    torch.save(net.state_dict(), empty_cache / file)
    model = imagenet("googlenet")
    assert model.net.transform_input
    assert predict(model, torch.rand(1, 3, 224, 224)).shape == (1, 1000)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "zeros in the middle"])
def test_a_damaged_weights_file_is_named_with_the_remedy(empty_cache: Path, damage: str) -> None:
    path = empty_cache / FILE
    _untrained_weights(path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"<html>404</html>",
            "zeros in the middle": whole[:200] + bytes(2000) + whole[2200:],
        }[damage]
    )
    if damage == "zeros in the middle":
        # Zeros over the archive's first entry break its unpickling.
        with pytest.raises(WeightsError, match="delete the file"):
            imagenet("squeezenet1_1")
        return
    with pytest.raises(WeightsError, match=rf"{FILE} cannot be read.*delete the file"):
        imagenet("squeezenet1_1")


def test_weights_of_another_network_are_refused(empty_cache: Path) -> None:
    _untrained_weights(empty_cache / FILE, "squeezenet1_0")
    with pytest.raises(WeightsError, match="does not hold the weights of squeezenet1_1"):
        imagenet("squeezenet1_1")
    torch.save([torch.zeros(2)], empty_cache / FILE)
    with pytest.raises(WeightsError, match="does not hold the weights of squeezenet1_1.*list"):
        imagenet("squeezenet1_1")


class Bomb:
    """What a pickle from outside could do."""

    def __reduce__(self) -> tuple:
        return (Path("exploded").touch, ())


def test_a_file_that_would_run_code_is_refused(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Bomb()}, empty_cache / FILE)
    with pytest.raises(WeightsError):
        imagenet("squeezenet1_1")
    assert not Path("exploded").exists()


def test_no_weights_and_no_connection_is_one_sentence(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.error import URLError

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no network here")

    monkeypatch.setattr("urllib.request.OpenerDirector.open", unreachable)
    with pytest.raises(DownloadError, match=r"could not be reached \(no network here\)"):
        imagenet("squeezenet1_1")


def test_unknown_networks_and_weights_list_the_known_ones() -> None:
    with pytest.raises(InputError, match="list_models"):
        imagenet("panda_net")
    with pytest.raises(InputError, match="IMAGENET1K_V1"):
        imagenet("resnet50", weights="BEST")


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2"])
def test_a_downloaded_network_sees_the_coffee_until_the_gradient_changes_it(name: str) -> None:
    file = get_model_weights(name).IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    if not (cache_folder() / file).is_file():
        pytest.skip(f"no pretrained weights at hand: {file} is not in torch's cache (TORCH_HOME)")
    model, x = imagenet(name), photograph("coffee")
    label = predict(model, x).argmax(1)
    assert model.categories[label] == "espresso"
    assert predict(model, advlib.pgd(model, x, label, eps=2 / 255, steps=5)).argmax() != label


@pytest.fixture(scope="module")
def network() -> Normalised:
    """The one that is installed."""
    return imagenet()


SEEN = {
    "cat": CATS,
    "coffee": {"espresso"},
    "camera": {"tripod"},
    "rocket": {"missile"},
    str(PANDA): {"giant panda"},
}


@pytest.mark.parametrize("source", SEEN, ids=lambda source: Path(source).stem)
def test_on_a_real_photograph_noise_fails_and_the_gradient_succeeds(
    source: str, network: Normalised
) -> None:
    if source == str(PANDA) and not PANDA.is_file():
        pytest.skip("no photograph of a panda at hand")
    x = photograph(source)
    assert network.categories[predict(network, x).argmax()] in SEEN[source]
    generator = torch.Generator().manual_seed(0)
    noisy = advlib.noise(x.repeat(10, 1, 1, 1), 0.01, generator=generator)
    assert {network.categories[i] for i in predict(network, noisy).argmax(1)} <= SEEN[source]
    gibbon = torch.tensor([network.categories.index("gibbon")])
    x_adv = advlib.pgd(network, x, gibbon, eps=2 / 255, steps=12, targeted=True)
    assert predict(network, x_adv).softmax(1)[0, gibbon] >= 0.7
    assert advlib.threats.norm(x_adv - x) <= 2 / 255


@pytest.mark.parametrize("source", ["coffee", "camera", "rocket"])
def test_one_gradient_step_of_2_levels_changes_the_prediction(
    source: str, network: Normalised
) -> None:
    x = photograph(source)
    label = predict(network, x).argmax(1)
    assert predict(network, advlib.fgsm(network, x, label, eps=2 / 255)).argmax() != label


def test_the_cache_of_weights_is_not_copied(empty_cache: Path) -> None:
    _untrained_weights(empty_cache / FILE)
    imagenet("squeezenet1_1")
    assert [path.name for path in empty_cache.iterdir()] == [FILE]
    shutil.rmtree(empty_cache)
