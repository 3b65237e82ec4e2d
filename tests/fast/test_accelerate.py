"""The accelerated copy: the same answers as the model, and nothing of the caller changed."""

import copy
import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import advlib
from advlib.errors import DeviceError, InputError, PixelError
from advlib.fast import accelerate as fast_module
from advlib.fast.accelerate import accelerated
from advlib.fast.folding import folded_batch_norms

RANDOM_STATE_IS_WATCHED = True


def seeded(build, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model


class Residual(nn.Module):
    """A convolution whose result is used twice, and one that is used in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.shared = nn.Conv2d(8, 8, 1)
        self.one, self.two = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        z = self.twice(x)
        x = (self.norm(z) + z).relu()
        x = self.one(self.shared(x)) + self.two(self.shared(x.tanh()))
        return self.head(x.mean((2, 3)))


class Branching(nn.Module):
    """Python decides by the values: it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.conv(x))
        return (z if z.sum() > 0 else -z).mean((2, 3))


class OfTheBatch(nn.Module):
    """Logits that depend on the other images of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mean((2, 3)) - 10 * x.mean((0, 2, 3)))


class Random(nn.Module):
    """A defence that draws anew."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((x + torch.rand_like(x)).mean((2, 3)))


def images(n: int = 9, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def quiet(model: nn.Module, x: Tensor, **settings) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return accelerated(model, x, **settings)


def same(model: nn.Module, fast: nn.Module, x: Tensor) -> None:
    y = torch.arange(len(x)) % 5
    ours, theirs = (advlib.input_gradient(m, x, y) for m in (fast, model))
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)
    scale = theirs.grad.abs().max().clamp_min(1e-30)  # 0 where every unit is dead
    torch.testing.assert_close(ours.grad / scale, theirs.grad / scale, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
@given(seed=st.integers(0, 2**16), n=st.integers(1, 13))
def test_logits_and_gradients_are_those_of_the_model(threads: int, seed: int, n: int) -> None:
    model = seeded(Residual, seed).eval()
    x = images(n, seed)
    fast = quiet(model, x, threads=threads)
    try:
        same(model, fast, x)
    except AssertionError:
        # In one of some thousands of batches rounding puts a unit on the other side of its kink,
        # where the gradient jumps. What is wrong is wrong for the next images as well.
        same(model, fast, images(n, seed + 1))


@pytest.mark.parametrize("name", ["signs-standard", "signs-cnn", "signs-vit", "signs-mlp"])
def test_the_lesson_models_are_accelerated_without_a_word(name: str) -> None:
    model = advlib.models.load(name)
    x, y = advlib.data.signs.render(6, seed=1)
    fast = quiet(model, x, threads=2)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-3, atol=1e-3)
    x_adv = advlib.pgd(fast, x, y, 4 / 255, steps=3)
    assert advlib.threats.norm(x_adv - x).max() <= 4 / 255


def test_batch_norms_are_gone_where_they_can_be_folded() -> None:
    folded = folded_batch_norms(seeded(Residual))
    left = [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(left) == 3  # behind a result used twice, and behind a layer used twice


def test_the_division_has_the_same_answer_under_no_grad_inference_mode_and_autocast() -> None:
    model = seeded(Residual).eval()
    x = images(8)
    whole, parts = accelerated(model, x, threads=1), accelerated(model, x, threads=2)
    with torch.no_grad():
        torch.testing.assert_close(parts(x), whole(x))
        assert not parts(x.clone().requires_grad_()).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(parts(x), whole(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert parts(x).dtype == whole(x).dtype
        torch.testing.assert_close(parts(x), whole(x), rtol=0.05, atol=0.05)


class OwnPrecision(nn.Module):
    """One layer works in float32, whatever is around it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.layer(x.float().mean((2, 3)))


def test_half_precision_leaves_a_layer_alone_that_insists_on_its_own() -> None:
    model, x = seeded(OwnPrecision).eval(), images()
    fast = accelerated(model, x, dtype=torch.bfloat16, threads=1)
    torch.testing.assert_close(fast(x), model(x))


def test_half_precision_only_on_request() -> None:
    model = seeded(Residual).eval()
    x = images(8)
    fast = accelerated(model, x, dtype=torch.bfloat16, threads=2)
    assert fast(x).dtype == x.dtype
    torch.testing.assert_close(fast(x), model(x), rtol=0.1, atol=0.1)
    assert not torch.equal(fast(x), accelerated(model, x, threads=2)(x))


def test_what_cannot_be_traced_is_said_once_and_still_right() -> None:
    model = seeded(Branching).eval()
    x = images()
    with pytest.warns(UserWarning, match="batch norms are not folded into convolutions") as said:
        fast = accelerated(model, x, threads=1)
    assert len(said) == 1
    same(model, fast, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast(x)


class AsksWhatItIsGiven(nn.Module):
    """To be traced it is given no tensor, and takes another way without an error."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) * (2 if isinstance(x, Tensor) else 1)


def test_a_copy_with_other_logits_is_not_used_and_that_is_said() -> None:
    model = seeded(AsksWhatItIsGiven).eval()
    with pytest.warns(UserWarning, match="not folded into convolutions: the copy gives other"):
        fast = accelerated(model, images(), threads=1)
    same(model, fast, images())


class HidesItsGradient(nn.Module):
    """A part of it is computed without a gradient, which a record of its calls does not say."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = 3 * x
        return self.conv(x + hidden).mean((2, 3))


def test_a_copy_with_other_gradients_is_not_used_and_that_is_said() -> None:
    model = seeded(HidesItsGradient).eval()
    with pytest.warns(UserWarning, match="not folded into convolutions: the copy gives other"):
        fast = accelerated(model, images(), threads=1)
    same(model, fast, images())


def test_nan_is_another_answer() -> None:
    wanted = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = torch.tensor([[1.0, 2.0], [torch.nan, 4.0]])
    assert fast_module._different(found, wanted).tolist() == [False, True]


def test_hooks_are_kept_not_traced_away() -> None:
    model = seeded(Residual).eval()
    seen: list[int] = []
    model.one.register_forward_hook(lambda *_: seen.append(1))
    with pytest.warns(UserWarning, match="hooks"):
        fast = accelerated(model, images(), threads=1)
    seen.clear()
    fast(images())
    assert seen


def test_a_batch_that_belongs_together_is_not_divided() -> None:
    model = seeded(OfTheBatch).eval()
    x = images(8)
    with pytest.warns(UserWarning, match="not divided"):
        fast = accelerated(model, x, threads=2)
    same(model, fast, x)


def test_a_random_model_is_left_as_it_is() -> None:
    with pytest.warns(UserWarning, match="random"):
        fast = accelerated(seeded(Random), images(), threads=2)
    assert isinstance(fast, Random)


def test_nothing_of_the_caller_changes_and_no_weight_gets_a_gradient() -> None:
    model = seeded(Residual).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads = torch.get_num_threads()
    x = images(8)
    fast = accelerated(model, x, threads=2)
    advlib.pgd(fast, x, torch.zeros(8, dtype=torch.long), steps=2)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in [*model.parameters(), *fast.parameters()])
    assert not any(p.requires_grad for p in fast.parameters())
    for name, value in model.state_dict().items():
        assert value.equal(before[name])
    assert torch.get_num_threads() == threads


def test_the_caller_s_number_of_threads_stays() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # on one thread a change to one would not be seen
    try:
        accelerated(seeded(Residual).eval(), images(8), threads=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_copy_is_of_this_moment() -> None:
    model = seeded(Residual).eval()
    x = images(8)
    fast = accelerated(model, x)
    logits = fast(x)
    with torch.no_grad():
        model.head.bias.add_(1)
    assert fast(x).equal(logits)


def test_to_make_a_copy_no_symbolic_algebra_is_loaded() -> None:
    """It took two seconds, more than the attack."""
    code = (
        "import sys, torch, advlib.fast.accelerate\n"
        "layers = [torch.nn.Conv2d(3, 8, 7, 2, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]\n"
        "model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(512, 5))\n"
        "x, y = torch.rand(4, 3, 16, 16), torch.zeros(4, dtype=torch.long)\n"
        "fast = advlib.fast.accelerate.accelerated(model, x, threads=2)\n"
        "advlib.fgsm(fast, x, y)\n"
        "print('sympy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("wrong", ["logits", "gradients", "shape"])
def test_a_rewriting_that_evaluated_otherwise_is_not_used(monkeypatch, wrong: str) -> None:
    class Other(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            logits = self.model(x)
            if wrong == "shape":  # it would broadcast, and where all images agree be the same
                return logits[:1]
            # The same values, from a graph with half of the slope.
            return logits + 1 if wrong == "logits" else (logits + logits.detach()) / 2

    monkeypatch.setattr(
        fast_module, "folded_batch_norms", lambda model: Other(fast_module._copy(model))
    )
    model, x = seeded(Residual).eval(), images(8)
    if wrong == "shape":
        x = x[:1].repeat(8, 1, 1, 1)
    with pytest.warns(UserWarning, match="the copy gives other logits or gradients"):
        fast = accelerated(model, x, threads=1)
    same(model, fast, x)


def test_a_unit_at_its_kink_is_no_other_answer(monkeypatch) -> None:
    """Rounding decides on which side of 0 a unit lies, and the gradient is one of two."""

    class Rounded(nn.Module):
        def __init__(self, model: nn.Module, shift: float) -> None:
            super().__init__()
            self.model, self.shift = model, shift

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x) + (x - 0.5 + self.shift).relu().mean(3).flatten(1)[:, :5]

    model, x = Rounded(seeded(Residual).eval(), 0.0), images(8)
    x[3, 0, :5, 4] = 0.5
    monkeypatch.setattr(
        fast_module, "folded_batch_norms", lambda made: Rounded(fast_module._copy(made.model), 1e-7)
    )
    fast = quiet(model, x, threads=1)
    assert [layer.shift for layer in fast.modules() if isinstance(layer, Rounded)] == [1e-7]


def test_second_derivatives_of_the_copy_raise_and_are_not_silently_wrong() -> None:
    fast = accelerated(seeded(Residual).eval(), images(8), threads=2)
    x = images(8).requires_grad_()
    (grad,) = torch.autograd.grad(fast(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(("seconds", "divided"), [(0.5, True), (0.9, False), (2.0, False)])
def test_a_batch_is_divided_unasked_only_where_that_is_clearly_faster(
    monkeypatch, seconds: float, divided: bool
) -> None:
    clock = [0.0]
    answers = fast_module._evaluated

    def timed(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        clock[0] += seconds if isinstance(model, fast_module._Parts) else 1.0
        return answers(model, x)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(fast_module, "_evaluated", timed)
    monkeypatch.setattr(fast_module.time, "perf_counter", lambda: clock[0])
    fast = quiet(seeded(Residual).eval(), images(8))
    assert isinstance(fast, fast_module._Parts) == divided
    assert isinstance(quiet(seeded(Residual).eval(), images(8), threads=2), fast_module._Parts)


def test_an_error_inside_a_thread_arrives() -> None:
    model = seeded(Residual).eval()
    fast = accelerated(model, images(8), threads=2)
    with pytest.raises(RuntimeError):
        fast(torch.rand(8, 4, 12, 12, generator=torch.Generator()))


def test_what_cannot_be_used_is_refused() -> None:
    model = seeded(Residual)
    with pytest.raises(InputError, match="plain function"):
        accelerated(lambda x: x.mean((2, 3)), images())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="bfloat16"):
        accelerated(model, images(), dtype=torch.float64)
    with pytest.raises(PixelError):
        accelerated(model, 2 * images())
    with pytest.raises(advlib.errors.ThreatError):
        accelerated(model, images(), threads=0)
    assert issubclass(DeviceError, advlib.AdvlibError)


def first(made: nn.Module, *_: object) -> nn.Module:
    return made


class Coarse(nn.Module):
    """A model whose single precision is as coarse as a GPU's may be."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.layer, self.shift = nn.Linear(12, 3), shift

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layer(x.flatten(1))
        return logits if x.dtype == torch.float64 else logits + self.shift * torch.arange(3)


def test_where_rounding_is_coarse_double_precision_says_what_is_a_mistake() -> None:
    model, x = seeded(lambda: Coarse(0.0)).eval(), images(4)[:, :, :2, :2]
    rounded, mistaken = copy.deepcopy(model), copy.deepcopy(model)
    rounded.shift = 0.05
    mistaken.layer.bias.data += torch.tensor([0.0, 0.05, 0.0])
    for coarse, other, kept in (
        (True, rounded, True),
        (False, rounded, False),
        (True, mistaken, False),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fast_module._if_equal(partial(first, other), model, x, "no", coarse=coarse)
        assert (found is other) == kept


# -- on a GPU --------------------------------------------------------------------------------


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is False")
    return torch.device("cuda")


def test_a_recording_on_cuda_evaluated_as_the_model_and_each_answer_stays(cuda) -> None:
    model, x = seeded(Residual).to(cuda).eval(), images(16).to(cuda)
    other = x.flip(0).contiguous()
    fast = accelerated(model, x)
    y = torch.arange(16, device=cuda) % 5
    first, wanted = advlib.input_gradient(fast, x, y), advlib.input_gradient(model, x, y)
    kept = first.grad.clone(), first.logits.clone()
    advlib.input_gradient(fast, other, y)  # replays over the same memory
    assert torch.equal(first.grad, kept[0]) and torch.equal(first.logits, kept[1])
    torch.testing.assert_close(first.grad, wanted.grad, rtol=1e-3, atol=1e-4)
    few = advlib.input_gradient(fast, x[:3], y[:3])
    torch.testing.assert_close(few.grad, wanted.grad[:3], rtol=1e-3, atol=1e-4)


def test_on_cuda_an_attack_on_a_recording_finds_what_it_finds_on_the_model(cuda) -> None:
    model, x = seeded(Residual).to(cuda).eval(), images(16).to(cuda)
    y = model(x).argmax(1)
    fast = accelerated(model, x)
    for early_stop in (False, True):
        found = advlib.pgd(fast, x, y, 0.03, steps=5, early_stop=early_stop)
        wanted = advlib.pgd(model, x, y, 0.03, steps=5, early_stop=early_stop)
        assert ((found - wanted).abs() > 1e-4).float().mean() < 0.01


class Recording(torch.autograd.Function):
    """The sum of squares, with the memory of a CUDA graph imitated: one place for everything."""

    x, logits, grad = torch.zeros(4, 3, 1, 1), torch.zeros(4, 2), torch.zeros(4, 3, 1, 1)
    played = 0

    @staticmethod
    def forward(ctx, x):
        Recording.x.copy_(x)
        Recording.played += 1
        return Recording.logits.copy_(squares(Recording.x))

    @staticmethod
    def backward(ctx, grad):
        return Recording.grad.copy_(2 * Recording.x * (grad[:, 0] - grad[:, 1]).view(4, 1, 1, 1))


def squares(x: Tensor) -> Tensor:
    length = x.square().sum((1, 2, 3))
    return torch.stack([length, -length], 1)


@pytest.fixture
def recording() -> nn.Module:
    replayed = fast_module._Replayed.__new__(fast_module._Replayed)
    nn.Module.__init__(replayed)
    replayed.model, replayed.replay, replayed.latest = squares, Recording.apply, lambda: None
    replayed.shape, replayed.dtype = Recording.x.shape, Recording.x.dtype
    Recording.played = 0
    return replayed


def leaf(value: float) -> Tensor:
    return torch.full((4, 3, 1, 1), value, requires_grad=True)


def test_the_evaluated_of_a_recording_are_copies(recording) -> None:
    def answer(x: Tensor) -> tuple[Tensor, Tensor]:
        logits = recording(x)
        return logits.detach(), torch.autograd.grad(logits[:, 0].sum(), x)[0]

    logits, grad = answer(leaf(0.5))
    kept = logits.clone(), grad.clone()
    answer(leaf(0.1))
    assert torch.equal(logits, kept[0]) and torch.equal(grad, kept[1])
    assert Recording.played == 2


def test_two_calls_before_one_gradient_give_the_gradient_of_both(recording) -> None:
    one, other = leaf(0.5), leaf(0.1)
    total = recording(one)[:, 0].sum() + recording(other)[:, 0].sum()
    for x, grad in zip((one, other), torch.autograd.grad(total, (one, other)), strict=True):
        assert torch.equal(grad, 2 * x)
    del total
    recording(other)
    assert Recording.played == 2  # the second of the two was computed, this one played


def test_a_call_whose_gradient_nobody_can_ask_for_does_not_stop_the_recording(recording) -> None:
    for _ in range(3):
        recording(leaf(0.5))
    assert Recording.played == 3


def test_a_gradient_that_a_recording_has_forgotten_is_not_given(recording) -> None:
    one, other = leaf(0.5), leaf(0.1)
    logits = recording(one)
    for _ in range(2):  # nothing was played in between
        (grad,) = torch.autograd.grad(logits[:, 0].sum(), one, retain_graph=True)
        assert torch.equal(grad, 2 * one)
    recording(other)
    with pytest.raises(RuntimeError, match="replayed for other images"):
        torch.autograd.grad(logits[:, 0].sum(), one)


def test_on_cuda_two_calls_before_one_gradient_give_the_gradient_of_both(cuda) -> None:
    model, x = seeded(Residual).to(cuda).eval(), images(16).to(cuda)
    fast = accelerated(model, x)
    pair = [x.clone().requires_grad_(), x.flip(0).clone().requires_grad_()]
    found = torch.autograd.grad(sum(fast(one)[:, 0].sum() for one in pair), pair)
    wanted = torch.autograd.grad(sum(model(one)[:, 0].sum() for one in pair), pair)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_torchscript_is_refused_with_the_way_out() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch itself gives TorchScript up
        traced = torch.jit.trace(nn.Flatten(), torch.zeros(1, 1, 2, 2), check_trace=False)
    with pytest.raises(InputError, match="TorchScript keeps none"):
        accelerated(traced, torch.zeros(1, 1, 2, 2))
