r"""The same attack in less time: a copy of the model with the same gradients.

An attack spends nearly all its time inside the model, forward and backward. `accelerated` makes a
copy that gives the same logits and input gradients up to float32 rounding, and that every attack
takes in place of the model:

- *batch norm folded*: in eval mode a batch norm is a fixed scale and shift, so the convolution
  before it can do its work (`advlib.fast.folding`);
- *channels last*: the channels of a pixel lie side by side in memory, as fast convolutions want;
- *one part of the batch for each core*, where that proves faster: two halves on one core each need
  not wait for the slower core at every layer;
- *replay*: a GPU finishes the layers of a small batch faster than Python asks for them, so they are
  recorded once as a CUDA graph and then run together.

What cannot be rewritten is left as it is, with a warning.
"""

import copy
import math
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from threading import Barrier
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from advlib.contracts import check_device, check_images, check_logits, check_steps, undisturbed
from advlib.errors import InputError
from advlib.fast.folding import folded_batch_norms

TOLERANCE = 1e-3
"""Largest difference of logits, in parts of their spread, that counts as rounding."""
KINK_TOLERANCE = 0.02
"""Largest change of an input gradient, in parts of its length, that units at their kink explain."""
CLEARLY_FASTER = 0.8
"""Largest share of the undivided batch's time that counts as clearly faster."""


def accelerated(
    model: nn.Module,
    x: Tensor,
    *,
    threads: int | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """A copy of `model` that computes the same logits and input gradients in less time.

    The copy holds the weights of this moment, frozen, in eval mode. Attack it, and measure the
    result on `model` itself if an image on the edge of a decision matters.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes).
    x
        A few images, shape (n, c, h, w), on which the copy is compared with `model`. On CUDA a
        whole batch: batches of this shape are replayed from a recording, others computed as usual.
    threads
        CPU only: into how many parts a batch is divided, each on one core. None: as many as torch
        uses now, if `x` proves that faster (small networks wait for Python, which runs on one core
        at a time). 1: the batch stays whole.
    dtype
        ``torch.bfloat16`` or ``torch.float16``: convolutions and matrix products in this dtype.
        It is faster where the processor knows it, and changes the result: about three digits
        remain. None: the model's own. Whether CUDA rounds convolutions to TF32 is decided by
        torch's own switch, for the copy as for the model.

    Returns
    -------
    nn.Module
        To be used in place of `model` in any attack.

    Raises
    ------
    PixelError, DeviceError, ModelOutputError, ThreatError
        An argument, or what the model makes of it, cannot be used.
    InputError
        `model` is not a module or is TorchScript, or `dtype` is no half precision.

    Warns
    -----
    UserWarning
        Something could not be rewritten: why, and what the copy does instead.

    References
    ----------
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 3.2 (folding batch norm).
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model is a {type(model).__name__}; a torch module is expected, whose layers can be "
            "rewritten. Attack a plain function as it is."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"model is a {type(model).__name__}; a module of Python code is expected, because "
            "TorchScript keeps none that could be rewritten. Accelerate the model that it was "
            "made from."
        )
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise InputError(f"dtype is {dtype}; torch.bfloat16, torch.float16 or None is expected.")
    parts = check_steps("threads", torch.get_num_threads() if threads is None else threads)
    x = check_images(x)
    check_device(model, x)
    with undisturbed(model, x.device), torch.no_grad():
        wanted = model(x.clone())
        check_logits(wanted, x)
        again = model(x.clone())
        if _differs(again, wanted):
            warnings.warn(
                "the model is random: two calls differ. Its copy is left as it is.", stacklevel=2
            )
            return _copy(model)
        fast = _rewritten(model, x)
        if dtype is not None:
            fast = _half(fast, x, dtype)
        if x.device.type == "cpu" and len(x) > 0 and parts > 1:
            divided = _in_parts(fast, x, parts)
            fast = fast if threads is None and not _quicker(divided, fast, x) else divided
        if x.is_cuda and len(x) > 0:
            fast = _if_equal(_Replayed, fast, x, "no CUDA graph is used")
    return fast


def _if_equal(
    make: Callable[[nn.Module, Tensor], nn.Module],
    model: nn.Module,
    x: Tensor,
    otherwise: str,
    coarse: bool = False,
) -> nn.Module:
    """What `make` makes of `model`, if logits and gradients are the same; else `model`, warned.

    Where a unit is at its kink, rounding decides which of two gradients it has. So an image that
    seems to differ is compared once more at a point nearby. Where rounding may be `coarse`
    both are then compared in double precision, in which only mistakes are left.
    """
    try:
        made = make(model, x)
        wrong = _wrong(made, model, x)
        if wrong.any():
            generator = torch.Generator().manual_seed(0)
            nearby = torch.rand(x.shape, generator=generator).to(x).lerp(x, 0.99)
            wrong &= _wrong(made, model, nearby)
        if wrong.any() and coarse:
            wrong = _wrong(_double(made), _double(model), x.double())
        if not wrong.any():
            return made
        why = "the copy gives other logits or gradients"
    except Exception as error:  # noqa: BLE001  what cannot be rewritten raises many kinds
        why = str(error).split("\n")[0][:120]
    warnings.warn(f"{otherwise}: {why}.", stacklevel=3)
    return model


def _wrong(made: nn.Module, model: nn.Module, x: Tensor) -> Tensor:
    """For which of the images the logits, or the input gradient, are not those of `model`."""
    with torch.enable_grad():
        (found, grad), (wanted, exact) = _evaluated(made, x), _evaluated(model, x)
    change, length = (g.flatten(1).norm(dim=1) for g in (grad - exact, exact))
    allowed = KINK_TOLERANCE * length.amax()
    return _different(found, wanted) | ~(change <= allowed)  # NaN differs


def _evaluated(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the input gradient of their first column."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    return logits.detach(), torch.autograd.grad(logits[:, 0].sum(), leaf)[0]


def _double(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


def _copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).eval().requires_grad_(False)


def _differs(logits: Tensor, wanted: Tensor) -> bool:
    return bool(_different(logits, wanted).any())


def _different(found: Tensor, wanted: Tensor) -> Tensor:
    """Which rows differ by more than rounding, compared with the spread of all values."""
    if found.shape != wanted.shape or wanted.numel() == 0:
        return torch.full((len(wanted),), found.shape != wanted.shape, device=wanted.device)
    spread = (wanted.amax() - wanted.amin()).clamp_min(torch.finfo(wanted.dtype).tiny)
    return ~((found - wanted).flatten(1).abs().amax(1) <= TOLERANCE * spread)  # NaN differs


def _rewritten(model: nn.Module, x: Tensor) -> nn.Module:
    """Channels last, with batch norms folded into convolutions if the results stay the same."""

    def last(model: nn.Module) -> nn.Module:
        return _ChannelsLast(model) if x.ndim == 4 else model

    fast = model
    if len(x) > 0 and any(isinstance(module, nn.Conv2d) for module in model.modules()):
        # A record of calls leaves out what is no call, such as `with torch.no_grad()`.
        fast = _if_equal(
            lambda *_: last(folded_batch_norms(model)),
            model,
            x,
            "batch norms are not folded into convolutions",
            # A GPU rounds what it convolves to 11 bits (TF32), unless torch is told otherwise.
            coarse=x.is_cuda,
        )
    return last(_copy(model)) if fast is model else fast


class _ChannelsLast(nn.Module):
    """The model with weights and images in the order that fast convolutions want."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return self.model(x)


def _half(model: nn.Module, x: Tensor, dtype: torch.dtype) -> nn.Module:
    """The model under autocast, with the large weights converted once and not at every call."""
    converted = _copy(model)
    for module in converted.modules():
        if type(module) in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear):
            module.to(dtype)
    converted = _Half(converted, dtype)
    try:
        converted(x.clone())
    except RuntimeError:  # some layer insists on its own dtype
        return _Half(model, dtype)
    return converted


class _Half(nn.Module):
    """The model under autocast; logits come back in the dtype of the images."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, self.dtype):
            return self.model(x).to(x.dtype)


# -- one part of the batch for each core -----------------------------------------------------------


def _in_parts(model: nn.Module, x: Tensor, threads: int) -> nn.Module:
    """`model` over several threads, if an image's logits do not depend on the others."""
    whole, parts = model(x.clone()), _Parts(model, threads)
    # Half precision is compared with itself: only the division is in question.
    if _differs(parts(x.clone()), whole):
        warnings.warn(
            "the batch is not divided: the logits of an image depend on the others.", stacklevel=3
        )
        return model
    return parts


def _quicker(one: nn.Module, other: nn.Module, x: Tensor) -> bool:
    """Whether `one` takes clearly less time than `other` for `x`, forward and backward."""
    seconds: dict[nn.Module, list[float]] = {one: [], other: []}
    for model in (one, other) * 2:  # alternately; the shorter time of two is the undisturbed one
        start = time.perf_counter()
        with torch.enable_grad():
            _evaluated(model, x)
        seconds[model].append(time.perf_counter() - start)
    return min(seconds[one]) < CLEARLY_FASTER * min(seconds[other])


class _Parts(nn.Module):
    """The batch in equal parts, each on a core of its own, forward and backward."""

    def __init__(self, model: nn.Module, threads: int) -> None:
        super().__init__()
        self.model, self.threads = model, threads
        self._pool = _single_core_pool(threads)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 2 * self.threads:
            return self.model(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return torch.cat(self.each(self.model, self.split(x)))
        return _Divided.apply(x, self)

    def split(self, x: Tensor) -> list[Tensor]:
        return list(x.split(math.ceil(len(x) / self.threads)))

    def each(self, function: Callable[..., Any], *lists: list[Any]) -> list[Any]:
        """Call `function` on each part at the same time, in the caller's modes."""
        grad, half = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        kind = torch.get_autocast_dtype("cpu")

        def work(*parts: Any) -> Any:
            cast = torch.autocast("cpu", kind) if half else nullcontext()
            with torch.inference_mode(False), torch.set_grad_enabled(grad), cast:
                return function(*parts)

        return list(self._pool.map(work, *lists))


class _Divided(torch.autograd.Function):
    """Forward and backward of each part on its own thread; the parts meet in between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: _Parts) -> Tensor:
        def run(part: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                return leaf, parts.model(leaf)

        ctx.done, ctx.parts = parts.each(run, parts.split(x)), parts
        return torch.cat([logits.detach() for _, logits in ctx.done])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        def run(done: tuple[Tensor, Tensor], upper: Tensor) -> Tensor:
            leaf, logits = done
            # With `upper` as an argument of its own torch loads symbolic algebra, for two seconds.
            with torch.enable_grad():
                total = (logits * upper).sum()
            return torch.autograd.grad(total, leaf)[0]

        sizes = [len(leaf) for leaf, _ in ctx.done]
        return torch.cat(ctx.parts.each(run, ctx.done, list(grad.split(sizes)))), None


def _single_core_pool(threads: int) -> ThreadPoolExecutor:
    """Threads whose own operations use one core; the caller's setting stays as it is."""
    before = torch.get_num_threads()
    ready = Barrier(threads)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    list(pool.map(lambda _: ready.wait(), range(threads)))  # each thread has begun
    torch.set_num_threads(before)
    return pool


# -- recorded once, replayed at every step ---------------------------------------------------------


class _Replayed(nn.Module):
    """Forward and backward pass of one shape of batch, recorded; everything else as it was."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model, self.shape, self.dtype = model, x.shape, x.dtype
        self.latest: Callable[[], _Replay | None] = lambda: None
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            self.replay: Any = torch.cuda.make_graphed_callables(lambda x: model(x), (leaf,))

    def forward(self, x: Tensor) -> Tensor:
        asks_gradient = torch.is_grad_enabled() and x.requires_grad
        before = self.latest()
        # Every replay writes to the same memory. What a backward pass may still need stays.
        needed = before is not None and not before.asked
        if x.shape != self.shape or x.dtype != self.dtype or not asks_gradient or needed:
            return self.model(x)
        play = _Replay()
        self.latest = weakref.ref(play)
        return _Logits.apply(self.replay(_Pixels.apply(x)), play, self)


class _Replay:
    """One replay of a recording; lives as long as somebody can ask for its gradient."""

    asked = False


class _Logits(torch.autograd.Function):
    """A copy of the logits of one replay, whose gradient is in memory until the next."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, play: _Replay, recording: _Replayed) -> Tensor:
        ctx.play, ctx.recording = play, recording
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.recording.latest() is not ctx.play:
            raise RuntimeError(
                "a gradient is asked for a second time, after the CUDA graph was replayed for "
                "other images. Call the model again for these, or attack the model itself."
            )
        ctx.play.asked = True
        return grad, None, None


class _Pixels(torch.autograd.Function):
    """The same images; in the backward pass a copy of their gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clone()
