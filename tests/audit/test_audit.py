"""The audit: what it counts, what it notices, and what it keeps when it is interrupted."""

import copy
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from PIL import Image
from torch import Tensor, nn

import advlib
from advlib import threats
from advlib.attacks.autopgd import apgd, apgd_over_classes
from advlib.attacks.square import square
from advlib.audit import (
    LEVELS,
    Attack,
    Audit,
    AuditInterrupted,
    Budget,
    Stream,
    robust_accuracy,
    run,
    sanity,
)
from advlib.audit.engine import Counted, seed_of
from advlib.audit.plan import plan
from advlib.errors import InputError, LabelError, ModelOutputError, PixelError, ThreatError

RANDOM_STATE_IS_WATCHED = True

EPS = 0.05
LEVEL: dict[str, Any] = {"masking": False, "level": "quick", "batch_size": 32}


def small(classes: int = 5, seed: int = 0) -> nn.Module:
    return reference.mlp(75, classes, seed, scale=2.0).float()


def data(n: int = 40, model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Images of which `model` classifies all but the first two correctly."""
    x = reference.images(n, 3, 5, 5, seed=1, ends=0.1).float()
    with torch.no_grad():
        y = (small() if model is None else model)(x).argmax(1)
    y[:2] = (y[:2] + 1) % 5
    return x, y


def names(audit: Audit) -> set[str]:
    return {finding.name for finding in audit.findings}


def counts(audit: Audit) -> list[int]:
    assert audit.fooled_by is not None
    return audit.fooled_by.tolist()


def nudge(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return advlib.fgsm(model, x, y, EPS)


def drawn(model: Any, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
    """A random corner of the ball."""
    return advlib.noise(x, budget.eps, distribution="sign", generator=budget.generator)


CHEAP = (
    Attack("drawn", "nothing", drawn),
    Attack("fgsm", "gradients", lambda m, x, y, budget: advlib.fgsm(m, x, y, budget.eps)),
)
QUIET: dict[str, Any] = {"masking": False, "attacks": CHEAP, "batch_size": 8}


class Wrapped(nn.Module):
    """A model with something done to its answer; it writes down how many images it is shown."""

    def __init__(self, then: Any = lambda logits: logits) -> None:
        super().__init__()
        self.model, self.then = small(), then
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Any:
        self.rows.append(len(x))
        return self.then(self.model(x))


# -- what is counted ----------------------------------------------------------------------------


def test_the_counts_add_up_and_are_those_of_the_attacks() -> None:
    model = small()
    x, y = data()
    result = advlib.audit(model, x, y, EPS, **LEVEL)
    assert result.clean.count == 38 and result.clean.total == 40
    fooled = [row.fooled for row in result.rows]
    assert result.robust.count == 38 - sum(fooled) < 38
    assert [row.name for row in result.rows][:2] == ["noise", "fgsm"]
    remaining = 38
    for row in result.rows:
        assert row.attacked == remaining
        remaining -= row.fooled
        assert row.accuracy.count == remaining
    fgsm = advlib.evaluation.accuracy(model, x, y, nudge)
    assert result.rows[1].accuracy.count <= fgsm.count
    assert counts(result).count(-2) == 2 and counts(result).count(-1) == remaining


def test_it_finds_at_least_what_the_attacks_find_alone() -> None:
    model = small()
    x, y = data()

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return advlib.pgd(model, x, y, EPS, steps=20)

    result = advlib.audit(model, x, y, EPS, masking=False, batch_size=64)
    assert result.robust.count <= advlib.evaluation.accuracy(model, x, y, attack).count


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_tries_robust_accuracy_before_auto_pgd(level: str) -> None:
    members = [member.name for member in plan(level, classes=5)]
    later = members[members.index("robust_accuracy") + 1 :]
    assert all(name in later for name in members if name.startswith("apgd"))


@pytest.mark.parametrize("norm, eps", [("linf", 0.1), ("l2", 0.6), ("l1", 4.0)])
def test_the_thorough_level_fools_a_model_that_tells_its_decisions_alone(
    norm: str, eps: float
) -> None:
    network = small()
    x, y = data(16)
    member = plan("thorough", classes=5)[-1]
    assert member.knows == "decisions"

    def decisions(x: Tensor) -> Tensor:
        return 9 * nn.functional.one_hot(network(x).argmax(1), 5).float()

    options = {"norm": norm, "masking": False}
    result = advlib.audit(decisions, x, y, eps, attacks=(member,), **options)
    assert result.robust.count < result.clean.count
    assert result.attacker == "may only ask for its decisions"
    # Whoever sees the logits as well fools at least as many.
    best = advlib.audit(network, x, y, eps, level="standard", **options)
    assert result.robust.count >= best.robust.count


def test_robust_accuracy_finds_in_an_audit_what_it_finds_alone() -> None:
    """Whatever the batch size: what is drawn for an image depends on its index."""
    model = small()
    x, y = data()
    (member,) = [member for member in plan("quick", classes=5) if member.name == "robust_accuracy"]
    options = {"masking": False, "attacks": (member,), "piece_size": 40}
    found = [advlib.audit(model, x, y, EPS, batch_size=size, **options) for size in (7, 40)]
    assert counts(found[0]) == counts(found[1])
    generator = torch.Generator().manual_seed(seed_of(0, 0, "robust_accuracy"))
    settings = member.settings
    alone = robust_accuracy(model, x[2:], y[2:], EPS, generator=generator, **settings)
    assert 0 < alone.accuracy.count < 38
    assert counts(found[0])[2:] == torch.where(alone.robust, -1, 0).tolist()


def test_tensors_a_data_set_and_a_stream_give_the_same_counts() -> None:
    x, y = data()
    model = small()
    stream = Stream(lambda start, stop: (x[start:stop], y[start:stop]), len(x))
    pairs = torch.utils.data.TensorDataset(x, y)
    results = [
        advlib.audit(model, x, y, EPS, **QUIET),
        advlib.audit(model, pairs, eps=EPS, **QUIET),
        advlib.audit(model, stream, eps=EPS, **QUIET),
    ]
    assert counts(results[0]) == counts(results[1]) == counts(results[2])


def test_only_a_piece_is_read_at_a_time_and_only_a_batch_is_shown() -> None:
    x, y = data()
    model = Wrapped()
    asked = []

    def read(start: int, stop: int) -> tuple[Tensor, Tensor]:
        asked.append((start, stop))
        return x[start:stop], y[start:stop]

    options = {**LEVEL, "batch_size": 8, "piece_size": 12}
    advlib.audit(model, Stream(read, 40), eps=EPS, **options)
    # The first look takes up to 128, at either end of the data; the last is for the nearest images.
    assert asked == [(0, 40), (0, 40), (0, 12), (12, 24), (24, 36), (36, 40), (0, 32)]
    assert set(model.rows[:3]) == {40} and max(model.rows[3:]) == 8


def test_the_pieces_do_not_hang_together() -> None:
    """The second half alone, in its place, gives what it gives in the whole."""
    x, y = data()
    model = small()
    whole = advlib.audit(model, x, y, EPS, piece_size=20, **QUIET)
    y[:20] = (y[:20] + 1) % 5  # other results in the first piece
    again = advlib.audit(model, x, y, EPS, piece_size=20, **QUIET)
    assert counts(whole)[20:] == counts(again)[20:]
    assert counts(whole)[:20] != counts(again)[:20]


def test_an_own_attack_is_counted_and_looked_at() -> None:
    model = small()
    x, y = data()
    result = advlib.audit(model, x, y, EPS, **{**QUIET, "attacks": {"mine": nudge}})
    assert [row.name for row in result.rows] == ["mine"] and result.level == "own attacks"
    expected = advlib.evaluation.accuracy(model, x, y, nudge)
    assert result.robust == expected


@pytest.mark.parametrize("norm", threats.NORMS)
def test_an_attack_that_leaves_the_ball_is_caught(norm: str) -> None:
    x, y = data()
    for wrong in (lambda m, x, y: (x - 0.3).abs(), lambda m, x, y: x + 0.01):
        with pytest.raises(InputError, match="'mine' left the threat model"):
            advlib.audit(small(), x, y, 1e-3, norm=norm, **{**QUIET, "attacks": {"mine": wrong}})


def test_attacks_have_names_of_their_own() -> None:
    x, y = data()

    def run(model: Any, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
        return advlib.noise(x, budget.eps, generator=budget.generator)

    twice = [Attack("a", "nothing", run), Attack("a", "nothing", run)]
    with pytest.raises(InputError, match="share a name"):
        advlib.audit(small(), x, y, EPS, attacks=twice)
    with pytest.raises(InputError, match="at least one"):
        advlib.audit(small(), x, y, EPS, attacks=[])
    with pytest.raises(InputError, match="standard"):
        advlib.audit(small(), x, y, EPS, level="extreme")


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("classes", [2, 3])
def test_other_norms_and_few_classes(norm: str, classes: int) -> None:
    model = small(classes)
    x, y = data(12)
    y = model(x).argmax(1)
    result = advlib.audit(model, x, y, 2.0, norm=norm, **LEVEL)
    assert result.norm == norm and result.robust.count < 12


# -- how strong ---------------------------------------------------------------------------------


def saturating(seed: int, eps: float = 0.4) -> tuple[nn.Module, Tensor, Tensor]:
    """A small network under FGSM training, as MNIST's are, on ten black and white patterns."""
    chance = torch.Generator().manual_seed(seed)
    wide = nn.functional.interpolate(torch.randn(10, 1, 5, 5, generator=chance), size=(14, 14))
    patterns = (wide > 0.1).float()

    def draw(n: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(10, (n,), generator=chance)
        flipped = torch.rand(n, 1, 14, 14, generator=chance) < 0.08
        return torch.where(flipped, 1 - patterns[y], patterns[y]), y

    model = reference.without_seed(
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(256, 10)),
        )
    )
    reference.fill(model, seed, 1.0)
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(300):
        x, y = draw(64)
        x_adv = advlib.attacks.fast_fgsm(model, x, y, eps, generator=chance)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x_adv), y).backward()
        optimiser.step()
    return model.eval().requires_grad_(False), *draw(60)


def by_autoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """What AutoAttack's members leave: Auto-PGD twice, a minimal perturbation, Square Attack."""
    left = model(x).argmax(1) == y
    for attack in (
        lambda *given: apgd(*given, steps=100),
        lambda *given: apgd_over_classes(*given, steps=100),
        lambda *given: square(*given, queries=2500),
    ):
        rows = left.nonzero().squeeze(1)
        left[rows] = model(attack(model, x[rows], y[rows], eps)).argmax(1) == y[rows]
    return left


@pytest.mark.parametrize("seed", [1, 2])
def test_the_standard_level_finds_what_the_members_of_autoattack_find_in_half_the_passes(
    seed: int,
) -> None:
    model, x, y = saturating(seed)
    counted = Counted(model)
    left = int(by_autoattack(counted, x, y, 0.4).sum())
    passes = counted.forward + 2 * counted.backward
    assert 3 < left < 50
    counted = Counted(model)
    found = advlib.audit(counted, x, y, 0.4, masking=False)
    assert found.robust.count <= left + 1
    assert counted.forward + 2 * counted.backward < passes / 1.5
    # Without what was added for such networks it finds fewer.
    known = [one for one in plan("standard", 10) if not one.name.startswith(("corners", "apgd"))]
    weaker = advlib.audit(model, x, y, 0.4, attacks=known, masking=False)
    assert weaker.robust.count > found.robust.count


# -- what is noticed ------------------------------------------------------------------------------


BAD_OUTPUTS = {
    "two outputs": (lambda z: (z, z), "tuple"),
    "probabilities": (lambda z: z.softmax(1), "probabilities.*softmax.*log"),
    "decisions": (
        lambda z: nn.functional.one_hot(z.argmax(1), 5).float(),
        "All are 0 or 1: these are decisions.*before the argmax.*hop_skip_jump",
    ),
    "constant": (lambda z: z * 0 + torch.arange(5.0), "same logits for every image"),
    "classes": (lambda z: z.argmax(1), "logits"),
    "nan": (lambda z: z * float("nan"), "NaN"),
}


@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_a_model_that_cannot_be_audited(case: str) -> None:
    then, words = BAD_OUTPUTS[case]
    with pytest.raises(ModelOutputError, match=f"(?s){words}"):
        advlib.audit(Wrapped(then), *data(), EPS, **QUIET)


def test_probabilities_undone_as_the_message_says_can_be_audited() -> None:
    model = Wrapped(lambda z: z.softmax(1))
    result = advlib.audit(lambda x: model(x).clamp_min(1e-30).log(), *data(), EPS, **QUIET)
    assert result.clean.count == 38


def test_labels_and_images_that_do_not_fit() -> None:
    model = small()
    x, y = data()
    with pytest.raises(LabelError, match="data set"):
        advlib.audit(model, x, y + 5, EPS)
    with pytest.raises(LabelError, match="missing"):
        advlib.audit(model, x, eps=EPS)
    with pytest.raises(PixelError, match="normalised"):
        advlib.audit(model, (x - 0.5) / 0.2, y, EPS)
    with pytest.raises(ThreatError):
        advlib.audit(model, x, y, -1)
    with pytest.raises(ThreatError, match="batch_size"):
        advlib.audit(model, x, y, EPS, batch_size=0)
    with pytest.raises(InputError, match="no images"):
        advlib.audit(model, x[:0], y[:0], EPS)
    with pytest.raises(InputError, match="brings its own classes"):
        advlib.audit(model, torch.utils.data.TensorDataset(x, y), y, EPS)
    with pytest.raises(InputError, match="no folder 'images'"):
        advlib.audit(model, "images", eps=EPS)
    with pytest.raises(InputError, match="Stream"):
        advlib.audit(model, 5, eps=EPS)
    with pytest.raises(InputError, match="brings its own classes"):
        advlib.audit(model, "images", y, eps=EPS)
    with pytest.raises(InputError, match="returned 3 images"):
        advlib.audit(model, Stream(lambda start, stop: (x[:3], y[:3]), 9), eps=EPS)


def test_a_label_that_does_not_fit_in_a_later_piece() -> None:
    x, y = data(300)
    y[200] = 7
    with pytest.raises(LabelError, match="7"):
        advlib.audit(small(), x, y, EPS, attacks={"mine": nudge}, batch_size=50)


def test_a_data_set_that_gives_no_tensors() -> None:
    with pytest.raises(PixelError, match="ToTensor"):
        advlib.audit(small(), [("an image", 1), ("another", 2)], eps=EPS)
    unequal = [(torch.zeros(3, 5, 5), 1), (torch.zeros(3, 6, 5), 2)]
    with pytest.raises(PixelError, match="different shapes"):
        advlib.audit(small(), unequal, eps=EPS)


def test_labels_in_another_order_are_noticed() -> None:
    x, y = data()
    result = advlib.audit(small(), x, (y + 1) % 5, EPS, **QUIET)
    assert "chance" in names(result) and result.warnings
    assert "chance" not in names(advlib.audit(small(), x, y, EPS, **QUIET))


def test_few_images_are_audited_and_noticed() -> None:
    x, y = data(5)
    result = advlib.audit(small(), x, y, EPS, **{**QUIET, "batch_size": 64})
    assert {"small-data", "few-images"} <= names(result)
    assert result.clean.total == 5


def test_budgets_that_prove_nothing_are_noticed() -> None:
    x, y = data(6)
    for eps, name in ((0.0, "no-budget"), (0.6, "large-budget"), (8.0, "whole-box")):
        assert name in names(advlib.audit(small(), x, y, eps, **QUIET))


class Noisy(nn.Module):
    """Random at test time, by the global random state, as a dropout left on would be."""

    def __init__(self, size: float = 0.3) -> None:
        super().__init__()
        self.model, self.size = small(), size

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + self.size * torch.randn_like(x))


def test_a_random_model_is_noticed_and_yet_gives_equal_counts() -> None:
    x, y = data()
    first, second = (advlib.audit(Noisy(), x, y, EPS, **QUIET) for _ in range(2))
    assert "random-model" in names(first)
    assert counts(first) == counts(second)


def test_a_random_model_is_attacked_through_a_mean_and_judged_by_a_majority() -> None:
    (x, y), model = data(), Noisy(0.05)
    seen: list[Tensor] = []

    def look(model: Any, x: Tensor, y: Tensor) -> Tensor:
        seen.extend((model(x).detach(), x.clone(), advlib.fgsm(model, x, y, EPS)))
        return seen[-1]

    result = advlib.audit(model, x, y, EPS, attacks={"look": look}, masking=False)
    row, (logits, shown, x_adv) = result.rows[0], seen
    # Two looks through the mean, one of them with a gradient, and the votes.
    assert row.forward == row.attacked * (2 * sanity.DRAWS + sanity.VOTES)
    assert row.backward == row.attacked * sanity.DRAWS
    # A mean of four is half as far from the centre as one draw is.
    with torch.no_grad(), torch.random.fork_rng([]):
        centre, one = torch.stack([model(shown) for _ in range(400)]).mean(0), model(shown)
        own = y[result.fooled_by != -2]
        often = torch.stack([model(x_adv).argmax(1) != own for _ in range(400)]).float().mean(0)
    assert float((logits - centre).std()) < 0.7 * float((one - centre).std())
    # Where nearly all of many draws agree, nine agree too.
    fooled = result.fooled_by[result.fooled_by != -2] == 0
    assert bool(fooled[often > 0.9].all()) and not bool(fooled[often < 0.1].any())
    assert int((often > 0.9).sum()) > 3 and int((often < 0.1).sum()) > 3
    assert f"mean logits of {sanity.DRAWS} draws" in str(result)


def test_rounding_in_another_order_is_no_randomness() -> None:
    model = small()
    chance = torch.Generator().manual_seed(0)

    def rounded(x: Tensor) -> Tensor:
        return model(x) * (1 + 1e-6 * torch.rand(1, generator=chance))

    result = advlib.audit(rounded, *data(), EPS, **QUIET)
    assert "random-model" not in names(result)


class Photographed(nn.Module):
    """It knows what reaches it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.model = channels, reference.mlp(256 * channels, 4, scale=2.0).float()
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach().clone())
        return self.model(x)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_that_is_sent_jpeg_files_is_attacked_through_them(channels: int) -> None:
    model = Photographed(channels).eval()
    x = 0.35 + 0.3 * reference.images(24, channels, 16, 16).float()
    files = []
    for image in x:
        to = io.BytesIO()
        levels = (255 * image).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(levels[..., 0] if channels == 1 else levels).save(to, "JPEG", quality=80)
        files.append(np.array(Image.open(to)).reshape(16, 16, channels))
    wanted = torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        y = model.model(wanted).argmax(1)
    result = advlib.audit(model, x, y, 0.1, jpeg=80, masking=False, level="quick")
    # What reaches the model is what a file holds; and gradients lead through it.
    assert torch.equal(model.shown[0], wanted)
    shown = torch.cat(model.shown) * 255
    assert torch.allclose(shown, shown.round(), atol=1e-4)
    assert result.clean.count == 24 and "zero-gradient" not in names(result)
    assert result.robust.count < 24 and "training-mode" not in names(result)
    for told in (result.markdown(), result.html(), str(result)):
        assert "images seen as JPEG of quality 80" in told
    assert "jpeg=80" in result.repeat() and result.name == "Photographed"
    others = [advlib.audit(model, x, y, 0.1, jpeg=q, **QUIET).model for q in (80, 81, None)]
    assert len({other["digest"] for other in others}) == 3 and others[0] == result.model


def test_a_quality_or_images_that_no_jpeg_has_are_refused() -> None:
    x, y = data()
    with pytest.raises(InputError, match="jpeg is 101"):
        advlib.audit(small(), x, y, EPS, jpeg=101)
    with pytest.raises(InputError, match="jpeg: images .* are expected"):
        advlib.audit(small(), x.flatten(1), y, EPS, jpeg=80)


def test_training_mode_is_noticed_and_put_back() -> None:
    model = small().train()
    before = copy.deepcopy(model.state_dict())
    x, y = data()
    kept = x.clone()
    result = advlib.audit(model, x, y, EPS, **QUIET)
    assert "training-mode" in names(result)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(x, kept)


def test_a_model_without_gradients_is_attacked_by_queries_alone() -> None:
    model = Wrapped()
    result = advlib.audit(lambda x: model((8 * x).round() / 8), *data(), 0.2, **QUIET)
    # The derivative of rounding is 0 everywhere.
    assert "zero-gradient" in names(result)
    result = advlib.audit(lambda x: model(x).detach(), *data(), 0.2, **LEVEL)
    assert "no-gradient" in names(result)
    assert {row.knows for row in result.rows} == {"nothing", "logits"}
    assert result.robust.count < result.clean.count


def test_masked_gradients_are_noticed() -> None:
    """Logits so large that the cross-entropy is exactly 0 wherever the model is correct."""
    loud = Wrapped(lambda z: 1e4 * z)
    x, y = data(60)
    result = advlib.audit(loud, x, y, 0.1, level="quick")
    assert any(name.startswith(("masking", "zero-gradient")) for name in names(result))


def test_large_logits_hide_little_from_the_ensemble() -> None:
    """With the cross-entropy alone an attack is blind on nearly all of these images."""
    x, y = data(60)
    plain, loud = Wrapped(), Wrapped(lambda z: 1e4 * z)
    options = {"masking": False, "batch_size": 64}
    honest, hidden = (advlib.audit(model, x, y, 0.03, **options) for model in (plain, loud))
    assert abs(honest.robust.count - hidden.robust.count) <= 1
    blind = advlib.evaluation.accuracy(loud, x, y, lambda m, x, y: advlib.pgd(m, x, y, 0.03))
    assert hidden.robust.count < blind.count - 5


def test_a_black_box_that_finds_more_is_noticed() -> None:
    found = sanity.check_order([("gradients", 10), ("logits", 20)], robust=60)
    assert [finding.name for finding in found] == ["black-box-beats-white-box"]
    assert not sanity.check_order([("gradients", 10), ("logits", 2)], robust=60)
    assert not sanity.check_order([("logits", 20)], robust=60)


# -- what is kept ----------------------------------------------------------------------------


@pytest.mark.parametrize("argument", ["report", "resume"])
def test_an_unwritable_folder_is_found_before_the_work(argument: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    attacked = []

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attacked.append(len(x))
        return x

    with pytest.raises(InputError, match="nothing can be written"):
        folder = {argument: tmp_path / "file" / "deeper"}
        advlib.audit(small(), *data(), EPS, **folder, **{**QUIET, "attacks": {"mine": attack}})
    assert not attacked


class Stopping:
    """FGSM that presses Ctrl-C, or fails, at its n-th call."""

    def __init__(self, at: int | None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.at, self.error, self.calls = at, error, 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *_: Any, **__: Any) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return nudge(model, x, y)


def interruptible(attack: Stopping, folder: Path | None, **more: Any) -> Audit:
    options = {**QUIET, "piece_size": 8, "resume": folder, **more}
    options["attacks"] = {"a": attack}
    return advlib.audit(small(), *data(), options.pop("eps", EPS), **options)


def test_after_ctrl_c_the_same_call_goes_on(tmp_path: Path) -> None:
    whole = interruptible(Stopping(None), None)
    with pytest.raises(AuditInterrupted, match="16 of 40 images") as caught:
        interruptible(Stopping(3), tmp_path)
    assert isinstance(caught.value, KeyboardInterrupt)
    partial = caught.value.partial
    assert not partial.complete and partial.clean.total == 16
    assert counts(partial)[:16] == counts(whole)[:16]
    assert "Interrupted" in partial.markdown()
    again = Stopping(None)
    resumed = interruptible(again, tmp_path)
    assert again.calls == 3 and resumed.complete
    assert counts(resumed) == counts(whole)
    assert [(row.fooled, row.attacked) for row in resumed.rows] == [
        (row.fooled, row.attacked) for row in whole.rows
    ]
    once_more = Stopping(None)
    interruptible(once_more, tmp_path)
    assert once_more.calls == 0


def test_without_a_folder_ctrl_c_hands_over_what_was_done() -> None:
    with pytest.raises(AuditInterrupted, match="resume=") as caught:
        interruptible(Stopping(4), None)
    assert caught.value.partial.clean.total == 24


def test_interrupted_at_once_there_is_a_card_all_the_same() -> None:
    with pytest.raises(AuditInterrupted, match="0 of 40") as caught:
        interruptible(Stopping(1), None)
    partial = caught.value.partial
    assert "nothing measured" in partial.markdown()
    held = json.loads(partial.to_json(), parse_constant=lambda word: pytest.fail(word))
    assert held["complete"] is False and held["clean"]["value"] is None


@pytest.mark.parametrize("part", ["masking_symptoms", "fmn"])
def test_ctrl_c_after_the_last_attack_loses_no_image(
    part: str, tmp_path: Path, monkeypatch: Any
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(run, part, Stopping(1))
        with pytest.raises(AuditInterrupted, match="40 of 40") as caught:
            interruptible(Stopping(None), tmp_path, masking=True)
    assert caught.value.partial.robust.total == 40
    again = Stopping(None)
    assert interruptible(again, tmp_path).complete and again.calls == 0


def test_an_error_in_the_middle_keeps_what_was_done(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        interruptible(Stopping(4, ZeroDivisionError), tmp_path)
    again = Stopping(None)
    interruptible(again, tmp_path)
    assert again.calls == 2


def test_damaged_and_half_written_pieces_are_done_again(tmp_path: Path) -> None:
    whole = interruptible(Stopping(None), tmp_path)
    pieces = sorted(tmp_path.glob("piece-*.json"))
    assert len(pieces) == 5
    pieces[0].write_text(pieces[0].read_text()[:40])
    pieces[1].write_text('{"start": 8}')
    held = json.loads(pieces[2].read_text())
    pieces[2].write_text(json.dumps({**held, "fooled_by": held["fooled_by"][:3]}))
    (tmp_path / "piece-00000003.jsonx.part").write_text("left by a killed process")
    again = Stopping(None)
    assert counts(interruptible(again, tmp_path)) == counts(whole)
    assert again.calls == 3


def test_other_settings_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    interruptible(Stopping(None), tmp_path)
    with pytest.raises(InputError, match="differs in: eps, seed"):
        interruptible(Stopping(None), tmp_path, eps=0.1, seed=3)
    x, y = data()
    x[20, 0, 0, 0] = 0.123
    with pytest.raises(InputError, match="differs in: data"):
        options = {**QUIET, "piece_size": 8, "resume": tmp_path, "attacks": {"a": nudge}}
        advlib.audit(small(), x, y, EPS, **options)


def test_what_is_written_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the power cut at the worst moment there is the old file, or none, and no rest."""
    from advlib.audit.store import write_whole

    write_whole(tmp_path / "a", "old")

    def cut(*_: object) -> None:
        raise OSError("no power")

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(OSError, match="power"):
        write_whole(tmp_path / "a", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


# -- the card --------------------------------------------------------------------------------


def test_the_card(tmp_path: Path) -> None:
    result = advlib.audit(small(), *data(), EPS, name="toy", report=tmp_path / "card", **QUIET)
    folder = tmp_path / "card"
    assert {path.name for path in folder.iterdir()} == {
        "card.html",
        "card.md",
        "card.json",
        "card.png",
        "pieces",
    }
    text = (folder / "card.md").read_text()
    for words in (
        "# Robustness card: toy",
        "upper bound",
        "95 %",
        "seed",
        "![",
        str(result.robust),
    ):
        assert words in text
    assert str(tmp_path) not in text
    held = json.loads((folder / "card.json").read_text())
    assert held["schema"] == "advlib.audit/1"
    assert held["robust"]["count"] == result.robust.count
    assert set(held["rows"][0]) == {
        "accuracy",
        "attacked",
        "backward",
        "fooled",
        "forward",
        "knows",
        "name",
        "seconds",
        "settings",
    }
    assert set(held) == {
        *("schema", "name", "eps", "norm", "level", "complete", "clean", "robust", "rows"),
        *("findings", "settings", "model", "data", "versions", "cost", "limits"),
        "by_class",
    }
    assert Audit.from_json(result.to_json()) == result
    with pytest.raises(ValueError, match="schema"):
        Audit.from_json('{"schema": "other"}')
    assert "toy" in str(result)


def test_the_figure_shows_every_attack() -> None:
    result = advlib.audit(small(), *data(), EPS, **QUIET)
    (axes,) = result.figure().axes
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == ["no attacker", *(f"+ {row.name}" for row in result.rows)]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx(
        [100 * s.value for s in (result.clean, *(row.accuracy for row in result.rows))]
    )


def test_the_bar_goes_to_standard_error(capsys: pytest.CaptureFixture) -> None:
    advlib.audit(small(), *data(), EPS, progress=True, **QUIET)
    written = capsys.readouterr()
    assert "40/40" in written.err and not written.out
    advlib.audit(small(), *data(), EPS, **QUIET)  # no terminal
    assert capsys.readouterr() == ("", "")


# -- rare answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("returned", [lambda x: None, lambda x: x[:1], lambda x: x.numpy()])
def test_an_attack_that_returns_no_images_is_named(returned: Any) -> None:
    x, y = data(8)
    wrong = Attack("lost", "nothing", lambda model, x, y, budget: returned(x))
    with pytest.raises(InputError, match="'lost' did not return images of the shape of x"):
        advlib.audit(small(), x, y, EPS, masking=False, attacks=(wrong,))


@pytest.mark.parametrize("x", [None, 3, iter(())])
def test_images_that_are_none_are_refused(x: Any) -> None:
    with pytest.raises(InputError, match="a tensor .with y., a data set"):
        advlib.audit(small(), x, eps=EPS)


def test_a_card_without_findings_says_so() -> None:
    result = replace(advlib.audit(small(), *data(), EPS, **QUIET), findings=())
    assert "None: no symptom of a broken measurement was found." in result.markdown()
    assert not result.warnings


class NoDerivative(torch.autograd.Function):
    """Forward only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1.0


def test_a_model_with_an_operation_without_a_derivative_is_attacked_by_queries() -> None:
    x, y = data()
    result = advlib.audit(Wrapped(NoDerivative.apply), x, y, EPS, level="quick", batch_size=32)
    assert [row.name for row in result.rows] == ["noise", "square"]
    assert result.robust.count < result.clean.count
    assert not any(name.startswith("masking") for name in names(result))


def test_a_model_without_weights_is_audited_where_the_images_are() -> None:
    x, _ = data()
    result = advlib.audit(nn.Flatten(), x, x.flatten(1).argmax(1), 0.01, **QUIET)
    assert result.clean.count == 40 > result.robust.count


class Remembers(nn.Module):
    """A module whose saved state is not only tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def get_extra_state(self) -> dict[str, int]:
        return {"epochs": 3}


def test_state_that_is_no_tensor_does_no_harm() -> None:
    x, y = data()
    result = advlib.audit(Remembers(), x, y, EPS, **QUIET)
    assert counts(result) == counts(advlib.audit(small(), x, y, EPS, **QUIET))


def test_with_no_budget_there_are_no_symptoms_to_look_for() -> None:
    result = advlib.audit(small(), *data(), 0.0, attacks=CHEAP)
    assert result.robust == result.clean
    assert not any(name.startswith("masking") for name in names(result))


def test_too_few_images_to_look_for_symptoms_are_no_all_clear() -> None:
    result = advlib.audit(small(), *data(5), EPS, attacks=CHEAP)
    (finding,) = [one for one in result.findings if one.name == "masking-not-run"]
    assert finding.severity == "note" and "8 are needed" in finding.message
    assert repr(result) == str(result) and finding.message in str(result)


def test_symptoms_that_cannot_be_looked_for_cost_no_result(monkeypatch: Any) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise ModelOutputError("out of cheese")

    monkeypatch.setattr(run, "masking_symptoms", refuse)
    result = advlib.audit(small(), *data(), EPS, attacks=CHEAP)
    (finding,) = [one for one in result.findings if one.name == "masking-not-run"]
    assert finding.severity == "note" and "out of cheese" in finding.message
    assert result.complete
