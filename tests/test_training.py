"""Training: it learns, it is repeatable, and the attack is an argument."""

import io

import pytest
import torch
from torch import nn

from advlib.attacks import fgsm, pgd
from advlib.errors import InputError, LabelError
from advlib.evaluation import accuracy
from advlib.models.architectures import SignNet
from advlib.objectives import cross_entropy
from advlib.training import fast_fgsm, relabelled, schedule, train

EPS = 0.1


@pytest.fixture(scope="module")
def problem():
    """Two classes: one bold pixel tells them apart in nine pictures of ten, and 300 faint ones
    together tell more, but drown in an attack of size EPS.
    """
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(800) % 2
    side = 2.0 * y[:, None] - 1
    flip = torch.where(torch.rand(800, 1, generator=generator) < 0.1, -1.0, 1.0)
    bold = 0.5 + 0.4 * side * flip
    faint = 0.5 + 0.05 * side + 0.1 * torch.randn(800, 300, generator=generator)
    return torch.cat([bold, faint], 1).clamp(0, 1).view(800, 1, 7, 43), y


def linear(device="cpu"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(301, 2)).to(device)


def attack(model, x, y):
    return pgd(model, x, y, EPS, steps=5)


def test_training_lowers_the_loss(problem, device):
    model = linear(device)
    history = train(model, *problem, epochs=4, lr=0.02)
    assert len(history) == 4
    assert history[-1].loss < 0.9 * history[0].loss
    assert history[-1].accuracy > 0.85


def test_adversarial_training_raises_accuracy_under_pgd(problem):
    x, y = problem
    results = {}
    for name, perturb in (("standard", None), ("adversarial", attack)):
        model = linear()
        train(model, x, y, perturb=perturb, epochs=10, lr=0.1)
        results[name] = accuracy(model, x, y).value, accuracy(model, x, y, attack).value
    assert results["standard"][0] > 0.85 and results["standard"][1] < 0.3
    assert results["adversarial"][0] > 0.85 and results["adversarial"][1] > 0.85


def test_same_seed_same_weights_and_the_global_state_is_left_alone(problem):
    before = torch.get_rng_state()
    models = []
    for seed in (1, 1, 2):
        model = linear()
        train(model, *problem, epochs=1, seed=seed, augment=_jitter, perturb=attack)
        models.append(model[1].weight.detach())
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])
    assert torch.equal(before, torch.get_rng_state())


def _jitter(x, generator):
    return (x + 0.01 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def test_perturb_sees_the_model_and_whole_batches(problem):
    seen = []

    def watch(model, x, y):
        seen.append((len(x), len(y)))
        return x

    train(linear(), *problem, perturb=watch, epochs=2, batch_size=300)
    assert seen == [(300, 300)] * 4, "what does not fill a batch is left out"


def test_objective_sees_the_model_in_train_mode_and_the_perturbed_batch(problem):
    seen = []

    def watch(model, x, y):
        seen.append((model.training, x.max().item()))
        return cross_entropy(model, x, y)

    train(linear().eval(), *problem, objective=watch, perturb=lambda m, x, y: 0 * x, epochs=1)
    assert seen == [(True, 0.0)] * 12


def test_what_the_objective_returns_is_descended(problem):
    """An objective with the labels exchanged teaches to be wrong."""
    x, y = problem
    model = linear()
    train(model, x, y, objective=lambda m, x, y: cross_entropy(m, x, 1 - y), epochs=4, lr=0.02)
    assert accuracy(model, x, y).value < 0.2


def test_the_average_of_the_weights_is_kept(problem):
    last, averaged = linear(), linear()
    train(last, *problem, epochs=1, lr=0.5)
    train(averaged, *problem, epochs=1, lr=0.5, average=0.99)
    assert not torch.equal(last[1].weight, averaged[1].weight)
    assert averaged[1].weight.isfinite().all()


def test_average_includes_the_statistics_of_batch_norm():
    x = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    y = torch.arange(64) % 2
    model = SignNet(2, (4,), (1,))
    train(model, x, y, epochs=2, batch_size=16, average=0.9)
    assert (model.norm.running_mean != 0).any() and model.norm.num_batches_tracked == 8


def test_mode_comes_back_and_epochs_are_reported(problem):
    model = linear().eval()
    calls = []
    history = train(model, *problem, epochs=3, on_epoch=lambda i, epoch: calls.append((i, epoch)))
    assert not model.training
    assert calls == list(enumerate(history))


def test_no_bar_unless_it_is_asked_for(problem, capsys, monkeypatch):
    train(linear(), *problem, epochs=1)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    train(linear(), *problem, epochs=1, progress=True)
    assert "step" in screen.getvalue()


def test_schedule_rises_then_falls():
    values = [schedule(i / 100, 0.25) for i in range(101)]
    assert max(values) == values[25] == pytest.approx(1)
    assert values[0] == pytest.approx(0.05) and values[-1] == pytest.approx(0, abs=1e-9)
    assert schedule(0, warmup=0) == 1


@pytest.mark.parametrize(
    "change, error, says",
    [
        (dict(epochs=0), InputError, "one epoch"),
        (dict(batch_size=801), InputError, "batch_size"),
        (dict(batch_size=0), InputError, "batch_size"),
        (dict(warmup=1.0), InputError, "warmup"),
        (dict(average=1.0), InputError, "average"),
    ],
)
def test_bad_settings_say_what_is_wrong(problem, change, error, says):
    with pytest.raises(error, match=says):
        train(linear(), *problem, **change)


def test_bad_labels_and_frozen_models(problem):
    x, y = problem
    with pytest.raises(LabelError, match="one class for each"):
        train(linear(), x, y[:5])
    with pytest.raises(InputError, match="requires_grad_"):
        train(linear().requires_grad_(False), x, y)


def test_an_objective_that_does_not_average_is_told_so(problem):
    def each(model, x, y):
        logits = model(x)
        return logits, -logits.log_softmax(1)[:, 0]

    with pytest.raises(InputError, match=r"loss of shape \(64,\).*mean"):
        train(linear(), *problem, objective=each)


# -- one step from a random start ------------------------------------------------------------------


@pytest.mark.parametrize("start, step, project", [(1.0, 1.25, True), (2.0, 1.0, False)])
def test_fast_fgsm_stays_where_its_paper_lets_it(problem, device, start, step, project):
    x, y = (part[:64].to(device) for part in problem)
    before = x.clone()
    x_adv = fast_fgsm(linear(device), x, y, EPS, start=start, step=step, project=project)
    reach = (x_adv - x).abs().max().item()
    assert torch.equal(x, before) and x_adv.min() >= 0 and x_adv.max() <= 1
    assert reach <= EPS if project else EPS < reach <= 3 * EPS


def test_fast_fgsm_from_the_picture_itself_is_fgsm(problem):
    x, y = problem
    model = linear()
    assert torch.equal(fast_fgsm(model, x, y, EPS, start=0, step=1), fgsm(model, x, y, EPS))


def test_fast_fgsm_hurts_and_its_start_comes_from_its_generator(problem):
    x, y = problem
    model = linear()
    train(model, x, y, epochs=4, lr=0.02)
    before = torch.get_rng_state()
    assert accuracy(model, fast_fgsm(model, x, y, EPS), y).value < 0.3
    made = [
        fast_fgsm(model, x, y, EPS, step=0.5, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("change", [dict(start=-1.0), dict(step=float("nan"))])
def test_fast_fgsm_refuses_negative_lengths(problem, change):
    with pytest.raises(InputError, match="lengths"):
        fast_fgsm(linear(), *problem, EPS, **change)


# -- relabelled pictures ---------------------------------------------------------------------------


def test_relabelled_pictures_are_steered_to_labels_drawn_by_lot(problem, device):
    x, y = (part.to(device) for part in problem)
    model = linear(device)
    before = x.clone()
    x_adv, target = relabelled(model, x, 1.0, classes=2, seed=3)
    assert (x_adv - x).flatten(1).norm(dim=1).max() <= 1.0 and torch.equal(x, before)
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert abs(float((target == y).float().mean()) - 0.5) < 0.08, "the labels know nothing of y"
    assert accuracy(model, x_adv, target).value > accuracy(model, x, target).value + 0.2


def test_control_has_the_same_labels_and_noise_of_the_same_size(problem):
    x, _ = problem
    _, target = relabelled(linear(), x, 1.0, classes=2, seed=3)
    noisy, drawn = relabelled(linear(), x, 1.0, classes=2, seed=3, control=True)
    assert torch.equal(target, drawn)
    length = (noisy - x).flatten(1).norm(dim=1)
    assert length.max() <= 1.0 and length.median() > 0.9


def test_relabelling_is_repeatable_and_does_not_depend_on_the_batch(problem):
    x = problem[0][:40]
    model = linear()
    first = relabelled(model, x, 1.0, classes=2, seed=1)
    again = relabelled(model, x, 1.0, classes=2, seed=1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    parts = relabelled(model, x, 1.0, classes=2, seed=1, batch_size=7)
    assert torch.equal(first[1], parts[1])
    assert not torch.equal(first[1], relabelled(model, x, 1.0, classes=2, seed=2)[1])


def test_relabelling_refuses_one_class_and_takes_no_pictures(problem):
    with pytest.raises(InputError, match="at least two"):
        relabelled(linear(), problem[0], 1.0, classes=1)
    x_adv, target = relabelled(linear(), problem[0][:0], 1.0, classes=2)
    assert len(x_adv) == len(target) == 0
