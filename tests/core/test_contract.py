"""What every attack owes its caller: it works on whatever is legal, says what is wrong with
whatever is not, and leaves nothing behind either way."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import reference
import torch
from torch import Tensor, nn

import advlib
from advlib import errors
from advlib.attacks.autopgd import apgd, apgd_over_classes
from advlib.attacks.fmn import fmn
from advlib.attacks.hop_skip_jump import hop_skip_jump
from advlib.attacks.momentum import momentum
from advlib.attacks.square import square
from advlib.audit.robustness import robust_accuracy
from advlib.contracts import best_device
from advlib.errors import DeviceError, LabelError, ModelOutputError, PixelError, ThreatError
from advlib.evaluation import accuracy, predict

RANDOM_STATE_IS_WATCHED = True

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def _attack(function: Callable, **options) -> Attack:
    return lambda model, x, y: function(model, x, y, **options)


ATTACKS: dict[str, Attack] = {
    "fgsm linf": _attack(advlib.fgsm, eps=0.1),
    "fgsm l2": _attack(advlib.fgsm, eps=0.5, norm="l2"),
    "fgsm l1": _attack(advlib.fgsm, eps=2.0, norm="l1", targeted=True),
    "pgd linf": _attack(advlib.pgd, eps=0.1, steps=3),
    "pgd l2": _attack(advlib.pgd, eps=0.5, norm="l2", steps=2, restarts=2),
    "pgd l1": _attack(advlib.pgd, eps=2.0, norm="l1", steps=2, random_start=False, targeted=True),
    "pgd early": _attack(advlib.pgd, eps=0.1, steps=3, early_stop=True, loss="margin"),
    "apgd linf": _attack(apgd, eps=0.1, steps=3),
    "apgd l2": _attack(apgd, eps=0.5, norm="l2", steps=2, restarts=2),
    "apgd l1": _attack(apgd, eps=2.0, norm="l1", steps=2, targeted=True, early_stop=False),
    "apgd classes": _attack(apgd_over_classes, eps=0.1, steps=3, loss="margin"),
    "momentum linf": _attack(momentum, eps=0.1, steps=3),
    "fmn linf": lambda model, x, y: fmn(model, x, y, steps=20).x_adv,
    "fmn l2": lambda model, x, y: fmn(model, x, y, norm="l2", steps=20, targeted=True).x_adv,
    "fmn l1": lambda model, x, y: fmn(model, x, y, norm="l1", steps=20).x_adv,
    "hop_skip_jump l2": lambda model, x, y: hop_skip_jump(model, x, y, queries=40).x_adv,
    "hop_skip_jump linf": lambda m, x, y: hop_skip_jump(m, x, y, norm="linf", queries=40).x_adv,
    "square linf": _attack(square, eps=0.1, queries=4),
    "square l2": _attack(square, eps=0.5, norm="l2", queries=4),
    "square l1": _attack(square, eps=2.0, norm="l1", targeted=True, queries=4),
}
CHOOSE_EPS = {"fmn", "hop_skip_jump"}
"""Attacks that are given no budget: they look for the smallest."""
MEASURES: dict[str, Attack] = {
    "input_gradient": lambda model, x, y: advlib.input_gradient(model, x, y).grad,
    "predict": lambda model, x, y: predict(model, x),
    "accuracy": lambda model, x, y: torch.tensor(accuracy(model, x, y, batch_size=4).count),
    "robust_accuracy": lambda model, x, y: robust_accuracy(model, x, y, 0.1, gradients=4).robust,
}
EVERYTHING = ATTACKS | MEASURES
with_attack = pytest.mark.parametrize("name", ATTACKS)
with_everything = pytest.mark.parametrize("name", EVERYTHING)


class Net(nn.Module):
    """BatchNorm, Dropout, a frozen layer, parameters with a gradient, modes in a mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU(), nn.Dropout(0.5)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def net(mode: str = "mixed") -> Net:
    model = reference.without_seed(Net)
    reference.fill(model, 3, 2.0)
    model.body[1].running_mean.copy_(torch.linspace(-1, 1, 6))
    model.body[1].running_var.copy_(torch.linspace(0.5, 2, 6))
    model.train(mode != "eval")
    if mode == "mixed":
        model.body[1].eval()
        model.head.eval()
    model.body[0].weight.requires_grad_(False)
    model.head[2].weight.grad = torch.full_like(model.head[2].weight, 7.0)
    return model


def data(n: int = 7, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    x = reference.images(n, 3, 6, 6, ends=0.1).float().to(device)
    return x, reference.classes(n).to(device)


@contextmanager
def nothing_changes(model: nn.Module | None, *tensors: Tensor) -> Iterator[None]:
    """Modes, buffers, parameters, gradients, flags, random state, tensors: as they were."""

    def state() -> dict:
        modules = dict(model.named_modules()) if model is not None else {}
        parameters = dict(model.named_parameters()) if model is not None else {}
        buffers = dict(model.named_buffers()) if model is not None else {}
        return {
            "modes": {name: module.training for name, module in modules.items()},
            "frozen": {name: p.requires_grad for name, p in parameters.items()},
            "parameters": {name: (id(p), p.tolist()) for name, p in parameters.items()},
            "gradients": {
                name: None if p.grad is None else (id(p.grad), p.grad.tolist())
                for name, p in parameters.items()
            },
            "buffers": {name: (id(b), b.tolist()) for name, b in buffers.items()},
            "hooks": {
                name: (len(m._forward_hooks), len(m._backward_hooks), len(m._forward_pre_hooks))
                for name, m in modules.items()
            },
            "torch": torch.get_rng_state().tolist(),
            "numpy": np.random.get_state()[1].tolist(),
            "python": random.getstate(),
            "gradients on": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            "tensors": [
                (t.tolist(), t.dtype, t.stride(), t.requires_grad, t.grad) for t in tensors
            ],
        }

    before = state()
    try:
        yield
    finally:
        after = state()
        for key in before:
            assert after[key] == before[key], f"{key} changed"


# -- nothing is left behind ------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
@with_everything
def test_model_and_tensors_are_as_before_and_the_model_was_in_eval_mode(
    name: str, mode: str, device: torch.device
) -> None:
    x, y = data(device=device)
    model = net(mode).to(device)
    model.head[2].weight.grad = torch.full_like(model.head[2].weight, 7.0)
    with nothing_changes(model, x, y):
        got = EVERYTHING[name](model, x, y)
    expected = EVERYTHING[name](net("eval").to(device), x, y)
    np.testing.assert_allclose(got.cpu(), expected.cpu(), rtol=1e-5, atol=1e-6)


@with_everything
def test_for_the_while_the_whole_model_is_frozen_and_in_eval_mode(name: str) -> None:
    """No time is spent on gradients of weights that nobody wants."""
    x, y = data()
    model = net()
    seen = []

    def look(module: nn.Module, arguments: tuple) -> None:
        seen.append(any(p.requires_grad for p in model.parameters()))
        seen.append(any(m.training for m in model.modules()))

    model.register_forward_pre_hook(look)
    EVERYTHING[name](model, x, y)
    assert seen and not any(seen)


@with_everything
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_model_that_raises_in_the_middle_leaves_everything_as_it_was(name: str, at: int) -> None:
    x, y = data()
    model = net()
    calls = [0]

    def fail(module: nn.Module, arguments: tuple) -> None:
        calls[0] += 1
        if calls[0] == at:
            torch.rand(3)
            raise RuntimeError("out of cheese")

    model.head.register_forward_pre_hook(fail)
    only_one = name.startswith("fgsm") or name in ("input_gradient", "predict")
    if at > (1 if only_one else 2):  # not called so often, so there is nothing to raise
        at = calls[0] = 99
    raises = pytest.raises(RuntimeError, match="out of cheese") if at != 99 else nullcontext()
    with nothing_changes(model, x, y), raises:
        EVERYTHING[name](model, x, y)


class Restless(Net):
    """Counts its calls in buffers, in eval mode too: in place, by a new tensor, and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("in_place", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("steady", torch.ones(2))
        self.register_buffer("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        self.in_place += 1
        self.replaced = self.replaced + 1
        noise = torch.rand(1, device=x.device)
        return super().forward(x) * self.steady[0] + 0 * noise


@with_everything
@pytest.mark.parametrize("fail", [False, True])
def test_buffers_that_change_in_eval_mode_and_random_numbers_drawn_are_put_back(
    name: str, fail: bool
) -> None:
    x, y = data()
    model = reference.without_seed(Restless)
    raises = pytest.raises(LabelError) if fail and name not in ("predict",) else nullcontext()
    with nothing_changes(model, x, y), raises:
        EVERYTHING[name](model, x, y + 5 if fail else y)
    with torch.random.fork_rng([]):
        model(x)
    assert model.replaced.tolist() == [1.0, 1.0]  # the model does count, when called alone


def test_a_graph_that_needs_the_buffers_still_works_after_an_attack() -> None:
    """Restoring writes nothing where nothing changed, so that autograd finds what it saved."""
    x, y = data()
    model = net("eval")
    loss = model(x).sum()
    advlib.pgd(model, x, y, steps=2)
    loss.backward()
    assert model.body[1].weight.grad is not None


@with_attack
def test_inputs_that_want_a_gradient_get_none_from_the_attack(name: str) -> None:
    x, y = data()
    expected = ATTACKS[name](net(), x, y)
    leaf = x.clone().requires_grad_()
    with nothing_changes(None, leaf, y):
        got = ATTACKS[name](net(), leaf, y)
    assert leaf.grad is None and leaf.requires_grad
    assert not got.requires_grad and got.grad_fn is None
    assert torch.equal(got, expected)
    # And inputs in the middle of a graph.
    assert torch.equal(ATTACKS[name](net(), leaf * 1.0, y), expected)


@with_everything
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_inside_no_grad_and_inference_mode(name: str, mode: Callable) -> None:
    x, y = data()
    expected = EVERYTHING[name](net(), x, y)
    model = net()
    with mode():
        inside, labels = x.clone(), y.clone()
        with nothing_changes(model, labels):
            got = EVERYTHING[name](model, inside, labels)
        assert torch.is_grad_enabled() is False
    assert torch.equal(got, expected)
    assert torch.equal(inside, x)


def test_the_result_never_shares_memory_with_the_input() -> None:
    x, y = data()
    for attack in ATTACKS.values():
        for eps_zero in (False, True):
            model = net()
            got = advlib.pgd(model, x, y, 0.0) if eps_zero else attack(model, x, y)
            got.fill_(0.25)
            assert not bool((x == 0.25).all())
    noisy = advlib.noise(x, 0.0)
    noisy.fill_(0.25)
    assert float(x.std()) > 0.1
    gradient = advlib.input_gradient(nn.Flatten(), x, y)  # the logits are the input itself
    gradient.logits.fill_(0.25)
    assert float(x.std()) > 0.1


def test_callbacks_that_change_what_they_are_shown_reach_no_tensor_of_the_caller() -> None:
    x, y = data()
    before = x.clone()
    for random_start in (False, True):
        options = {"eps": 0.1, "steps": 2, "random_start": random_start}
        shown = advlib.pgd(
            net(), x, y, on_step=lambda restart, step, x_adv, loss: x_adv.zero_(), **options
        )
        assert torch.equal(shown, advlib.pgd(net(), x, y, **options))
    assert torch.equal(x, before)


# -- what is legal works ---------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every other image": lambda x: x.repeat_interleave(2, 0)[::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "a corner of larger images": lambda x: nn.functional.pad(x, (1, 2, 2, 1))[..., 2:-1, 1:-2],
    "channels at the end": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "double precision seen as float": lambda x: x.double().float(),
}


@with_everything
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_in_memory_does_not_matter(name: str, layout: str, device: torch.device) -> None:
    x, y = data(device=device)
    model = net().to(device)
    expected = EVERYTHING[name](model, x, y)
    laid_out = LAYOUTS[layout](x)
    assert torch.equal(laid_out, x)
    labels = y.repeat_interleave(3)[::3]
    with nothing_changes(model, laid_out, labels):
        got = EVERYTHING[name](model, laid_out, labels)
    np.testing.assert_allclose(got.cpu(), expected.cpu(), atol=2e-5)


@with_attack
def test_the_result_has_the_memory_format_of_the_input(name: str) -> None:
    x, y = data()
    like = x.contiguous(memory_format=torch.channels_last)
    got = ATTACKS[name](net().to(memory_format=torch.channels_last), like, y)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert ATTACKS[name](net(), x, y).is_contiguous()
    assert advlib.noise(like, 0.1).is_contiguous(memory_format=torch.channels_last)


@with_attack
def test_one_image_expanded_to_a_batch_is_attacked_as_a_batch(name: str) -> None:
    x, _ = data(1)
    x, y = x.expand(5, -1, -1, -1), torch.tensor(1).expand(5)
    expected = ATTACKS[name](net(), x.clone(), y.clone())
    with nothing_changes(None, x, y):
        got = ATTACKS[name](net(), x, y)
    assert torch.equal(got, expected)
    assert got.stride()[0] != 0


@with_everything
@pytest.mark.parametrize("n", [0, 1, 7])
def test_any_batch_size_works_and_an_empty_batch_returns_empty(name: str, n: int) -> None:
    x, y = data(n)
    model = net()
    with nothing_changes(model, x, y):
        got = EVERYTHING[name](model, x, y)
    if name in MEASURES:
        assert got.shape[:1] in ((n,), ())
    else:
        assert got.shape == x.shape and got.dtype == x.dtype
        assert advlib.noise(x, 0.1).shape == x.shape
        if n == 0:
            assert got.data_ptr() != x.data_ptr() or got is not x


@with_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_has_dtype_and_device_of_the_input(name, dtype, device: torch.device) -> None:
    x, y = data(device=device)
    got = ATTACKS[name](net().to(device, dtype), x.to(dtype), y)
    assert got.dtype == dtype and got.device == x.device
    # No budget makes this network leave the class that it gives to all these images.
    assert torch.equal(got, x.to(dtype)) == (name.split()[0] in CHOOSE_EPS)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name.split()[0] not in CHOOSE_EPS])
def test_it_works_under_bfloat16_autocast(name: str, device: torch.device) -> None:
    x, y = data(device=device)
    model = net("eval").to(device)
    word = name.split()[1]
    norm = word if word in advlib.threats.NORMS else "linf"
    eps = {"l2": 0.5, "l1": 2.0}.get(norm, 0.1)
    with nothing_changes(model, x, y), torch.autocast(device.type, torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        got = ATTACKS[name](model, x, y)
    assert got.dtype == torch.float32
    length = advlib.threats.norm(got - x, norm).double()
    assert float(length.max()) <= eps
    assert float(length.max()) > 0.5 * eps  # it did attack


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_may_be_any_integers(kind: torch.dtype) -> None:
    x, y = data()
    for attack in ATTACKS.values():
        assert torch.equal(attack(net(), x, y.to(kind)), attack(net(), x, y))


def test_rows_of_features_and_plain_functions_are_attacked_as_well() -> None:
    linear = reference.linear(12)
    x, y = reference.images(4, 12).float(), reference.classes(4)
    for attack in EVERYTHING.values():
        got = attack(linear, x, y)
        assert torch.equal(attack(lambda x: linear(x), x, y), got)
        assert all(p.grad is None and p.requires_grad for p in linear.parameters())


def test_an_overshoot_of_rounding_is_set_to_0_or_1() -> None:
    x, y = data()
    over = x.clone()
    over[over == 1] += 5e-7
    over[over == 0] -= 5e-7
    assert not torch.equal(over, x)
    kept = over.clone()
    for attack in ATTACKS.values():
        assert torch.equal(attack(net(), over, y), attack(net(), x, y))
    assert torch.equal(advlib.noise(over, 0.0), x)
    assert torch.equal(over, kept)
    with pytest.raises(PixelError):
        advlib.noise(x + 3e-6, 0.1)
    with pytest.raises(PixelError):
        advlib.noise(x - 3e-6, 0.1)


def test_a_model_without_parameters_and_one_on_several_devices_pass_the_device_check() -> None:
    x, y = data()
    flat = nn.Flatten()
    assert advlib.fgsm(flat, x, y).shape == x.shape

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.away = nn.Parameter(torch.zeros(2, device="meta"))
            self.here = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] * self.here

    assert advlib.fgsm(Split(), x, y % 2).shape == x.shape


# -- bad input: typed, says what to do, changes nothing --------------------------------------


def refused(
    kind: type[Exception],
    words: tuple[str, ...],
    x: object,
    y: object,
    names: tuple[str, ...] = tuple(EVERYTHING),
    model: object = None,
) -> None:
    """All of `names` raise `kind`, with all of `words` in the message, and change nothing."""
    model = net() if model is None else model
    tensors = [t for t in (x, y) if isinstance(t, Tensor) and t.device.type != "meta"]
    watched = model if isinstance(model, nn.Module) and not _is_meta(model) else None

    def sums() -> list[float]:
        # NaN is not equal to itself, so tensors that may hold one are compared by their sums.
        reals = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
        return [t.double().sum().nan_to_num().item() for t in reals]

    before = sums()
    for name in names:
        with nothing_changes(watched), pytest.raises(kind) as caught:
            EVERYTHING[name](model, x, y)
        assert isinstance(caught.value, errors.AdvlibError)
        for word in words:
            assert word in str(caught.value), (name, word, str(caught.value))
    assert sums() == before


def _is_meta(model: nn.Module) -> bool:
    return any(p.device.type == "meta" for p in model.parameters())


NEEDS_LABELS = tuple(name for name in EVERYTHING if name != "predict")


@pytest.mark.parametrize("shift", [-0.5, 0.5, 254.0, -1e-5, 1e-5])
def test_pixels_outside_0_to_1_are_refused_and_normalisation_is_named(shift: float) -> None:
    x, y = data()
    x = x * 255 if shift == 254 else x + shift
    low, high = f"{float(x.min()):.4g}", f"{float(x.max()):.4g}"
    words = ("normalis", "[0, 1]", "into the model", "divide by 255", f"from {low} to {high}")
    refused(PixelError, words, x, y)
    with pytest.raises(PixelError, match="normalis"):
        advlib.noise(x)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_pixels_that_are_not_finite_are_refused_with_a_way_to_find_them(value: float) -> None:
    x, y = data()
    x[2, 1, 3, 3] = value
    refused(PixelError, ("NaN or infinite", "isfinite"), x, y)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_integer_images_are_refused_with_the_conversion(dtype: torch.dtype) -> None:
    x, y = data()
    refused(PixelError, (str(dtype), "x.float() / 255"), (x > 0.5).to(dtype), y)


def test_a_single_image_is_refused_with_the_batch_dimension() -> None:
    x, y = data(1)
    refused(PixelError, ("(3, 6, 6)", "x[None]", "(n, c, h, w)"), x[0], y[0])
    refused(PixelError, ("x[None]",), x[0, 0, 0], y)
    refused(PixelError, ("x[None]",), x[0, 0, 0, 0], y)
    refused(PixelError, ("x[None]",), x[0], y)


def test_images_that_are_no_tensor_are_refused_with_the_conversion() -> None:
    x, y = data()
    refused(PixelError, ("ndarray", "torch.from_numpy"), x.numpy(), y)
    refused(PixelError, ("list", "torch.from_numpy"), x.tolist(), y)
    refused(PixelError, ("NoneType",), None, y)


def test_labels_of_the_wrong_kind_are_refused_with_the_conversion() -> None:
    x, y = data()
    onehot = torch.eye(3)[y]
    refused(LabelError, ("torch.float32", ".long()"), x, y.float(), NEEDS_LABELS)
    refused(LabelError, ("torch.float32", "argmax(1)"), x, onehot, NEEDS_LABELS)
    refused(LabelError, ("torch.bool", "integer"), x, y > 0, NEEDS_LABELS)
    refused(LabelError, ("torch.complex64", "integer"), x, y.to(torch.complex64), NEEDS_LABELS)
    refused(LabelError, ("list", "torch.tensor"), x, y.tolist(), NEEDS_LABELS)
    refused(LabelError, ("int", "torch.tensor"), x, 3, NEEDS_LABELS)


def test_labels_of_the_wrong_number_are_refused_with_both_shapes() -> None:
    x, y = data()
    refused(LabelError, ("(6,)", "(7, 3, 6, 6)", "shape (7,)"), x, y[:-1], NEEDS_LABELS)
    refused(LabelError, ("(7, 1)", "shape (7,)"), x, y[:, None], NEEDS_LABELS)
    refused(LabelError, ("(7, 3)",), x, torch.eye(3)[y].long(), NEEDS_LABELS)
    refused(LabelError, ("()", "y[None]"), x[:1], y[0], NEEDS_LABELS)


def test_labels_out_of_range_are_refused_on_both_sides() -> None:
    x, y = data()
    y = y.clone()
    y[3] = 3
    words = ("contains 3", "classes 0 to 2", "same data set")
    refused(LabelError, words, x, y, NEEDS_LABELS)
    y[3] = -1
    refused(LabelError, ("contains -1", "count from 0"), x, y, NEEDS_LABELS)


def test_model_images_and_labels_on_different_devices_are_refused() -> None:
    x, y = data()
    words = ("model is on meta", "x on cpu", 'x.to("meta")')
    refused(DeviceError, words, x, y, tuple(ATTACKS) + ("input_gradient",), net().to("meta"))
    refused(DeviceError, words, x, y, ("accuracy", "predict"), net().to("meta"))
    words = ("x is on cpu", "y on meta", 'y.to("cpu")')
    refused(DeviceError, words, x, y.to("meta"), NEEDS_LABELS)


def test_cpu_images_for_a_cuda_model_are_refused() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is False")
    x, y = data()
    refused(DeviceError, ("model is on cuda:0", "x on cpu"), x, y, model=net().cuda())


OUTPUTS: dict[str, tuple[Callable[[Tensor], object], tuple[str, ...]]] = {
    "a tuple": (lambda z: (z, z), ("tuple", "model(x)[0]", "(7, classes)")),
    "a dictionary": (lambda z: {"logits": z}, ("dict", ".logits")),
    "one dimension": (lambda z: z[:, 0], ("(7,)", "(7, classes)")),
    "four dimensions": (lambda z: z[:, :, None, None], ("(7, 3, 1, 1)", "pool")),
    "too few rows": (lambda z: z[1:], ("(6, 3)", "(7, classes)")),
    "a mean row": (lambda z: z.mean(0, keepdim=True), ("(1, 3)",)),
    "one column": (lambda z: z[:, :1], ("1 logit", "torch.cat([-z, z], 1)")),
    "no column": (lambda z: z[:, :0], ("0 logit",)),
    "integers": (lambda z: (100 * z).long(), ("torch.int64", "scores")),
    "classes": (lambda z: z.argmax(1), ("(7,)",)),
    "NaN": (lambda z: z * torch.nan, ("NaN", "weights or normalisation")),
    "NaN in one": (
        lambda z: torch.where(torch.arange(len(z))[:, None] == 3, torch.nan, z),
        ("NaN",),
    ),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_a_model_that_returns_no_logits_is_refused_with_what_it_returned(case: str) -> None:
    change, words = OUTPUTS[case]
    x, y = data()
    y = y * 0

    class Wrong(Net):
        def forward(self, x: Tensor) -> Tensor:
            return change(super().forward(x))

    model = reference.without_seed(Wrong).train()
    names = tuple(name for name in EVERYTHING if name != "accuracy")
    refused(ModelOutputError, words, x, y, names, model)
    refused(ModelOutputError, (), x, y, ("accuracy",), model)


BAD_EPS = [-0.1, float("nan"), float("inf"), "0.1", None, True, [0.1], (0.1, 0.2), 10**400]


@pytest.mark.parametrize("eps", BAD_EPS, ids=lambda eps: repr(eps)[:12])
def test_an_eps_that_is_no_single_number_from_0_up_is_refused(eps: object) -> None:
    x, y = data()
    for n in (0, 7):
        for norm in ("linf", "l2", "l1"):
            for attack in (advlib.fgsm, advlib.pgd):
                model = net()
                with nothing_changes(model, x, y), pytest.raises(ThreatError, match="eps is"):
                    attack(model, x[:n], y[:n], eps, norm=norm)
            with pytest.raises(ThreatError, match="eps is"):
                advlib.noise(x[:n], eps, norm=norm)


@pytest.mark.parametrize("value", [0, -1, 2.5, 3.0, "3", None, True, float("nan")], ids=repr)
@pytest.mark.parametrize("setting", ["steps", "restarts"])
def test_steps_and_restarts_are_whole_numbers_from_1_up(setting: str, value: object) -> None:
    x, y = data()
    model = net()
    message = rf"{setting} is .*whole number >= 1"
    with nothing_changes(model, x, y), pytest.raises(ThreatError, match=message):
        advlib.pgd(model, x, y, **{setting: value})
    assert advlib.pgd(model, x, y, **{setting: np.int64(1)}).shape == x.shape


BAD_STEP = [0, -0.1, float("nan"), float("inf"), "0.1", True, [0.1, 0.2], 10**400, 1j]


@pytest.mark.parametrize("size", BAD_STEP, ids=lambda size: repr(size)[:12])
def test_a_step_size_that_is_no_single_number_above_0_is_refused(size: object) -> None:
    x, y = data()
    model = net()
    with nothing_changes(model, x, y), pytest.raises(ThreatError, match="step_size is .*2.5"):
        advlib.pgd(model, x, y, step_size=size)


def test_unknown_norms_and_restarts_without_random_start_are_refused() -> None:
    x, y = data()
    model = net()
    for norm in ("Linf", "l0", None, 2):
        with nothing_changes(model, x, y):
            for attack in (advlib.fgsm, advlib.pgd):
                with pytest.raises(ThreatError, match="advlib knows"):
                    attack(model, x, y, norm=norm)
            with pytest.raises(ThreatError, match="advlib knows"):
                advlib.noise(x, norm=norm)
    with pytest.raises(ThreatError, match="restarts is 2 with random_start=False.*same"):
        advlib.pgd(model, x, y, restarts=2, random_start=False)


def test_every_error_is_an_advlib_error_and_what_python_would_raise() -> None:
    for kind in (PixelError, LabelError, ThreatError, DeviceError, ModelOutputError):
        assert issubclass(kind, errors.InputError)
        assert issubclass(kind, ValueError)
    assert issubclass(errors.InputError, errors.AdvlibError)
    assert issubclass(errors.WeightsError, RuntimeError)
    assert issubclass(errors.DownloadError, OSError)


# -- the best device -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cuda", "mps", "best"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_is_cuda_then_mps_then_the_cpu(monkeypatch, cuda, mps, best) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == torch.device(best)


def test_models_are_copied_by_nobody() -> None:
    """The model that was given is the one that is asked."""
    x, y = data()
    model = net()
    seen = []
    model.register_forward_pre_hook(lambda module, arguments: seen.append(module is model))
    for attack in EVERYTHING.values():
        attack(model, x, y)
    assert seen and all(seen)
    assert copy.deepcopy(model).training is True
