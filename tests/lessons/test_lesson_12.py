"""Checks of lesson 12: a stub fails, the solution passes, each mistake is named."""

import pytest
import torch
import torch.nn.functional as F

from advlib.gradients import margin
from advlib.lessons import lesson_12


def each(model, x, y, draw, k):
    return torch.stack([F.cross_entropy(model(draw(x)), y, reduction="none") for _ in range(k)])


def solution(model, x, y, draw, k):
    return each(model, x, y, draw, k).mean(0)


def repeated(model, x, y, draw, k):
    seen = draw(x)
    losses = [F.cross_entropy(model(seen), y, reduction="none") for _ in range(k)]
    return sum(losses) / k


def of_mean_image(model, x, y, draw, k):
    seen = torch.stack([draw(x) for _ in range(k)]).mean(0)
    return F.cross_entropy(model(seen), y, reduction="none")


def of_mean_logits(model, x, y, draw, k):
    logits = torch.stack([model(draw(x)) for _ in range(k)]).mean(0)
    return F.cross_entropy(logits, y, reduction="none")


def of_mean_probabilities(model, x, y, draw, k):
    p = torch.stack([model(draw(x)).softmax(1) for _ in range(k)]).mean(0)
    return F.nll_loss(p.log(), y, reduction="none")


def nested(model, x, y, draw, k):
    total, seen = 0, x
    for _ in range(k):
        seen = draw(seen)
        total = total + F.cross_entropy(model(seen), y, reduction="none")
    return total / k


def in_place(model, x, y, draw, k):
    loss = solution(model, x, y, draw, k)
    x.data.mul_(0.5)
    return loss


EOT_MISTAKES = {
    "returns nothing": lambda *a: ...,
    "one number for the whole batch": lambda *a: solution(*a).mean(),
    "losses of": lambda *a: solution(*a)[:2],
    "changes x itself": in_place,
    "never called": lambda m, x, y, d, k: F.cross_entropy(m(x), y, reduction="none"),
    "called once": repeated,
    "called 5 times": lambda m, x, y, d, k: solution(m, x, y, d, k + 1),
    "something else than x": nested,
    "summed": lambda *a: each(*a).sum(0),
    "mean image": of_mean_image,
    "mean logits": of_mean_logits,
    "mean probabilities": of_mean_probabilities,
    "only the last view counts. Add": lambda *a: each(*a)[-1],
    "divided by k": lambda *a: each(*a)[-1] / a[-1],
    "sign is reversed": lambda *a: -solution(*a),
    "no gradient": lambda *a: solution(*a).detach(),
    "for the first image": lambda *a: solution(*a) + 1,
}


def step(best, value, proposal, new_value):
    better = new_value >= value
    return torch.where(better[:, None, None, None], proposal, best), torch.where(
        better, new_value, value
    )


def chosen(rule):
    def answer(best, value, proposal, new_value):
        better = rule(value, new_value)
        return torch.where(better[:, None, None, None], proposal, best), torch.where(
            better, new_value, value
        )

    return answer


def overwrites(best, value, proposal, new_value):
    better = new_value >= value
    best[better], value[better] = proposal[better], new_value[better]
    return best, value


ACCEPT_MISTAKES = {
    "returns nothing": lambda *a: ...,
    "two are expected": lambda *a: step(*a)[0],
    "images of": lambda *a: (step(*a)[0][:2], step(*a)[1]),
    "losses of": lambda *a: (step(*a)[0], step(*a)[1][:2]),
    "changes its arguments": overwrites,
    "neither the old one nor": lambda b, v, p, n: ((b + p) / 2, step(b, v, p, n)[1]),
    "same loss is rejected": chosen(lambda v, n: n > v),
    "worse proposals": chosen(lambda v, n: n < v),
    "wants a high loss": chosen(lambda v, n: n <= v),
    "every proposal": lambda b, v, p, n: (p, n),
    "no proposal": lambda b, v, p, n: (b, v),
    "does not follow": chosen(lambda v, n: torch.tensor([True, False, False, False])),
    "are the old ones": lambda b, v, p, n: (step(b, v, p, n)[0], v),
    "are correct": lambda b, v, p, n: (step(b, v, p, n)[0], n),
}


@pytest.mark.parametrize(
    ("function", "answer"), [(lesson_12.eot_loss, solution), (lesson_12.accept, step)]
)
def test_the_solutions_are_correct(function, answer) -> None:
    verdict = function(answer)
    assert verdict.ok, verdict


@pytest.mark.parametrize("sentence", EOT_MISTAKES)
def test_mistakes_in_the_eot_loss_are_named(sentence: str) -> None:
    verdict = lesson_12.eot_loss(EOT_MISTAKES[sentence])
    assert not verdict.ok and sentence in verdict.message


@pytest.mark.parametrize("sentence", ACCEPT_MISTAKES)
def test_mistakes_in_the_acceptance_are_named(sentence: str) -> None:
    verdict = lesson_12.accept(ACCEPT_MISTAKES[sentence])
    assert not verdict.ok and sentence in verdict.message


# -- exercise 12.3 ---------------------------------------------------------------------------


def cast_then_flips(ask, x, y, eps):
    """One colour cast, then blocks of it are flipped, one query each."""
    changed = torch.tensor((1.0, -1.0, 1.0)).view(1, 3, 1, 1).expand_as(x).clone()
    generator = torch.Generator().manual_seed(0)
    best = margin(ask((x + eps * changed).clamp(0, 1)), y)
    for side in (16, 8):
        across = 64 // side
        for k in torch.randperm(3 * across**2, generator=generator).tolist():
            colour, row, column = k % 3, side * (k // 3 // across), side * (k // 3 % across)
            flipped = changed.clone()
            flipped[:, colour, row : row + side, column : column + side] *= -1
            value = margin(ask((x + eps * flipped).clamp(0, 1)), y)
            if value >= best:
                changed, best = flipped, value
    return x


def asks(change):
    """Ask one changed image and give up."""

    def answer(ask, x, y, eps):
        ask(change(x, eps))
        return x

    return answer


QUERY_MISTAKES = {
    "returns nothing": lambda *a: ...,
    "leave [0, 1]": asks(lambda x, eps: x + 2),
    "by more than eps": asks(lambda x, eps: 1 - x),
    "images of": asks(lambda x, eps: x[..., :32]),
    "10 % fewer": asks(lambda x, eps: x),
}


@pytest.mark.parametrize("sentence", QUERY_MISTAKES)
def test_mistakes_in_the_query_attack_are_named(sentence: str) -> None:
    verdict = lesson_12.fewer_queries(QUERY_MISTAKES[sentence])
    assert not verdict.ok and sentence in verdict.message


def test_flipped_blocks_need_fewer_queries_than_square_attack() -> None:
    verdict = lesson_12.fewer_queries(cast_then_flips)
    assert verdict.ok, verdict


def test_queries_are_counted_image_by_image_and_end_with_the_first_that_fools() -> None:
    model, x, y, rival = lesson_12._twenty()
    assert len(x) == 20 and int(rival.max()) == lesson_12._QUERIES > int(rival.min())
    ask = lesson_12._counted(model, x[:1], y[:1])
    for _ in range(3):
        assert ask(x[:1].expand(33, -1, -1, -1)).argmax(1).eq(y[0]).all()
    with pytest.raises(lesson_12._Enough) as enough:
        ask(x[:1].expand(33, -1, -1, -1))
    assert enough.value.args == (lesson_12._QUERIES,)
    # The network with the sign's own label called wrong: the first image fools it.
    with pytest.raises(lesson_12._Enough) as enough:
        lesson_12._counted(model, x[:1], (y[:1] + 1) % 16)(x[:1].expand(5, -1, -1, -1))
    assert enough.value.args == (1,)


def test_an_error_in_the_answer_is_part_of_the_verdict() -> None:
    assert "ZeroDivisionError" in lesson_12.accept(lambda *a: 1 / 0).message
