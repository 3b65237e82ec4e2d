"""Training: it learns, it is repeatable, and the attack is an argument."""

import io

import cases
import pytest
import torch

from advlib.attacks import pgd
from advlib.errors import InputError, LabelError
from advlib.evaluation import accuracy
from advlib.models.architectures import SignNet
from advlib.training import schedule, standard, train

EPS = 0.1


@pytest.fixture(scope="module")
def problem():
    return cases.bold_and_faint()


def attack(model, x, y):
    return pgd(model, x, y, EPS, steps=5)


def test_training_lowers_the_loss(problem, device):
    model = cases.linear(device)
    history = train(model, *problem, epochs=4, lr=0.02)
    assert len(history) == 4
    assert history[-1].loss < 0.9 * history[0].loss
    assert history[-1].accuracy > 0.85


def test_adversarial_training_raises_accuracy_under_pgd(problem):
    x, y = problem
    results = {}
    for name, perturb in (("standard", None), ("adversarial", attack)):
        model = cases.linear()
        train(model, x, y, perturb=perturb, epochs=10, lr=0.1)
        results[name] = accuracy(model, x, y).value, accuracy(model, x, y, attack).value
    assert results["standard"][0] > 0.85 and results["standard"][1] < 0.3
    assert results["adversarial"][0] > 0.85 and results["adversarial"][1] > 0.85


def test_same_seed_same_weights_and_the_global_state_is_left_alone(problem):
    before = torch.get_rng_state()
    models = []
    for seed in (1, 1, 2):
        model = cases.linear()
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

    train(cases.linear(), *problem, perturb=watch, epochs=2, batch_size=300)
    assert seen == [(300, 300)] * 4, "what does not fill a batch is left out"


def test_objective_sees_the_model_in_train_mode_and_the_perturbed_batch(problem):
    seen = []

    def watch(model, x, y):
        seen.append((model.training, x.max().item()))
        return standard(model, x, y)

    train(cases.linear().eval(), *problem, objective=watch, perturb=lambda m, x, y: 0 * x, epochs=1)
    assert seen == [(True, 0.0)] * 12


def test_what_the_objective_returns_is_descended(problem):
    """An objective with the labels exchanged teaches to be wrong."""
    x, y = problem
    model = cases.linear()
    train(model, x, y, objective=lambda m, x, y: standard(m, x, 1 - y), epochs=4, lr=0.02)
    assert accuracy(model, x, y).value < 0.2


def test_the_average_of_the_weights_is_kept(problem):
    last, averaged = cases.linear(), cases.linear()
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
    model = cases.linear().eval()
    calls = []
    history = train(model, *problem, epochs=3, on_epoch=lambda i, epoch: calls.append((i, epoch)))
    assert not model.training
    assert calls == list(enumerate(history))


def test_no_bar_unless_it_is_asked_for(problem, capsys, monkeypatch):
    train(cases.linear(), *problem, epochs=1)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    train(cases.linear(), *problem, epochs=1, progress=True)
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
        train(cases.linear(), *problem, **change)


def test_bad_labels_and_frozen_models(problem):
    x, y = problem
    with pytest.raises(LabelError, match="one class for each"):
        train(cases.linear(), x, y[:5])
    with pytest.raises(InputError, match="requires_grad_"):
        train(cases.linear().requires_grad_(False), x, y)


def test_an_objective_that_does_not_average_is_told_so(problem):
    def each(model, x, y):
        logits = model(x)
        return logits, -logits.log_softmax(1)[:, 0]

    with pytest.raises(InputError, match=r"loss of shape \(64,\).*mean"):
        train(cases.linear(), *problem, objective=each)
