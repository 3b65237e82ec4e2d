"""The checklist of gradient masking: it suspects what hides a gradient and nothing else."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import advlib
from advlib.audit.gradient_masking import SYMPTOMS, Symptoms, masking_symptoms
from advlib.data import signs
from advlib.defences.transforms import Detector, Quantised, Scaled, threshold_for
from advlib.errors import InputError, ModelOutputError, PixelError, ThreatError

RANDOM_STATE_IS_WATCHED = True


def mlp(seed: int, width: int = 32, shape: tuple[int, ...] = (1, 8, 8)) -> nn.Module:
    features = torch.Size(shape).numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 3)
        )
    return model.eval()


def problem(model: nn.Module, shape: tuple[int, ...] = (1, 8, 8), n: int = 24) -> tuple:
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return x, model(x).argmax(1)


class Noisy(nn.Module):
    """Adds noise from the global generator, as dropout at test time does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + 0.05 * torch.randn_like(x))


class Bumpy(nn.Module):
    """A network whose gradient points anywhere: a fast wave added to every pixel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + 1e-4 * torch.sin(1e6 * x))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_honest_networks_are_not_accused(seed: int, norm: str) -> None:
    model = mlp(seed, width=8 * 2**seed)
    eps = {"linf": 0.05, "l2": 0.3, "l1": 2.0}[norm]
    report = masking_symptoms(model, *problem(model), eps, norm=norm)
    assert not report.suspicious, report


def test_its_own_larger_budgets_are_not_told_to_the_reader() -> None:
    model = mlp(0)
    x, y = problem(model, n=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masking_symptoms(model, x, y, 0.4)


def test_a_linear_network_and_rows_of_features_are_not_accused() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(20, 3)
    report = masking_symptoms(model, *problem(model, (20,)), 0.05)
    assert not report.suspicious, report
    assert report.symptoms[SYMPTOMS.index("search")].suspicious is not True


HIDING = {
    "random": Noisy,
    "outputs": lambda model: nn.Sequential(model, nn.Softmax(1)),
    "gradient": lambda model: Quantised(model, 8),
    "slope": Bumpy,
    "loss": lambda model: Scaled(model, 1e5),
    "search": lambda model: Quantised(model, 64),
    "unbounded": lambda model: Scaled(model, 1e6),
}


@pytest.mark.parametrize("symptom", HIDING)
def test_each_way_of_hiding_shows_its_symptom(symptom: str) -> None:
    model = mlp(1)
    report = masking_symptoms(HIDING[symptom](model), *problem(model), 0.1)
    assert report.suspicious and symptom in report.found, report


def test_a_surrogate_gives_a_masked_network_away() -> None:
    model = mlp(1)
    report = masking_symptoms(Quantised(model, 256), *problem(model), 0.1, surrogate=model)
    assert "transfer" in report.found
    honest = masking_symptoms(model, *problem(model), 0.1, surrogate=mlp(2))
    assert "transfer" not in honest.found
    assert honest.symptoms[SYMPTOMS.index("transfer")].suspicious is False


def test_a_detector_is_accused_if_its_refusal_is_named() -> None:
    """Lesson 10 asks the same of the standard and robust sign networks and of each defence."""
    model = advlib.models.load("signs-standard")
    x, y = signs.render(10, seed=101)
    detector = Detector(model, threshold_for(signs.render(64, seed=102)[0]))
    report = masking_symptoms(detector, x, y, 4 / 255, reject=16)
    assert "loss" in report.found, report


def test_the_report_names_every_symptom_in_order_and_prints_as_a_table() -> None:
    model = mlp(0)
    report = masking_symptoms(model, *problem(model), 0.05)
    assert isinstance(report, Symptoms)
    assert tuple(symptom.name for symptom in report.symptoms) == SYMPTOMS
    lines = repr(report).splitlines()
    assert lines[0] == "gradient masking: 0 of 10 symptoms found"
    assert max(map(len, lines)) <= 76 and all(name in repr(report) for name in SYMPTOMS)
    assert report.found == ()


def test_equal_calls_give_equal_reports() -> None:
    model = mlp(3)
    x, y = problem(model)
    assert repr(masking_symptoms(model, x, y, 0.05)) == repr(masking_symptoms(model, x, y, 0.05))


def test_too_few_correctly_classified_images_say_nothing() -> None:
    model = mlp(0)
    x, y = problem(model)
    report = masking_symptoms(model, x, (y + 1) % 3, 0.05)
    assert not report.suspicious
    assert all(symptom.suspicious is None for symptom in report.symptoms[2:])
    assert "0 of 24" in repr(report).replace("\n", " ")
    assert not masking_symptoms(model, x[:0], y[:0], 0.05).suspicious


def test_a_network_out_of_reach_of_gradients_is_accused_and_does_not_stop_the_report() -> None:
    model = mlp(0)
    x, y = problem(model)

    def detached(x: Tensor) -> Tensor:
        return model(x.detach())

    report = masking_symptoms(detached, x, y, 0.05)
    assert "gradient" in report.found
    assert tuple(symptom.name for symptom in report.symptoms) == SYMPTOMS


def test_nothing_is_left_behind() -> None:
    model = mlp(0).train()
    x, y = problem(model)
    before = x.clone(), y.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    masking_symptoms(model, x, y, 0.05)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert x.equal(before[0]) and y.equal(before[1])
    assert all(v.equal(before[2][k]) for k, v in model.state_dict().items())


def test_what_cannot_be_is_named() -> None:
    model = mlp(0)
    x, y = problem(model)
    with pytest.raises(ThreatError, match="eps is 0"):
        masking_symptoms(model, x, y, 0)
    with pytest.raises(ThreatError, match="norm"):
        masking_symptoms(model, x, y, 0.1, norm="l7")
    with pytest.raises(PixelError):
        masking_symptoms(model, 2 * x, y, 0.1)
    with pytest.raises(ModelOutputError):
        masking_symptoms(lambda x: x, x, y, 0.1)
    with pytest.raises(InputError):
        masking_symptoms(model, x, y[:3], 0.1)
