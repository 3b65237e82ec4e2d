"""The faults: each a mistake that somebody has made, or could make without an error message.

A fault replaces one piece of the source by another. Names say what goes wrong, not where.
"""

from typing import NamedTuple


class Fault(NamedTuple):
    """One mistake."""

    module: str
    """File of `advlib` without its suffix."""
    name: str
    old: str
    """A piece that occurs exactly once in the file."""
    new: str


THREATS = [
    ("eps may be negative", "math.isfinite(value) and value >= 0", "math.isfinite(value)"),
    ("eps may be infinite", "math.isfinite(value) and value >= 0", "value >= 0"),
    ("eps may be a truth value", "(str, bool)):  # float()", "str):  # float()"),
    ("a mask of other values is taken as it is", "((mask == 0) | (mask == 1)).all()", "True"),
    ("a mask is turned round", "mask = mask == 1", "mask = mask == 0"),
    ("outside the mask stays what was there", "torch.where(mask, values, 0)", "values"),
    ("l2 is measured as l1", '_ORDER = {"linf": math.inf, "l2": 2', '_ORDER = {"linf": math.inf, "l2": 1'),
    ("the norm is its own dual", '_DUAL = {"linf": "l1"', '_DUAL = {"linf": "linf"'),
    ("the l1 diameter is that of l2", '"l1": float(values)}', '"l1": math.sqrt(values)}'),
    ("project forgets the box", "delta.clamp(-eps, eps).clamp(-x, 1 - x)", "delta.clamp(-eps, eps)"),
    ("project forgets the ball", "delta.clamp(-eps, eps).clamp(-x, 1 - x)", "delta.clamp(-x, 1 - x)"),
    ("the room of l1 is on the wrong side", "room = torch.where(delta > 0, 1 - x, x)\n    shrunk", "room = torch.where(delta > 0, x, 1 - x)\n    shrunk"),
    ("l1 clips after it projects", "_threshold(delta.abs(), room, eps)", "_threshold(delta.abs(), None, eps)"),
    ("short perturbations are stretched", "torch.where(length > eps, delta * (eps / length), delta)", "delta * (eps / length)"),
    ("l1 forgets the sign", "return delta.sign() * (delta.abs() - _threshold(delta.abs(), None, eps))", "return (delta.abs() - _threshold(delta.abs(), None, eps))"),
    ("noise has one sign", "draw.uniform_(-eps, eps, generator=generator), inside", "draw.uniform_(0, eps, generator=generator), inside"),
    ("noise comes from the global state", "draw = keep(draw.normal_(generator=generator), inside)", "draw = keep(draw.normal_(), inside)"),
    ("l2 noise lies on the sphere", "draw.flatten(1).square().sum(1) + 2 * extra", "draw.flatten(1).square().sum(1)"),
    ("l1 noise is too short", "total = draw.flatten(1).sum(1) + extra", "total = draw.flatten(1).sum(1) + 9 * extra"),
    ("l1 noise has one sign", "draw *= sign * per_picture(eps / total, draw)", "draw *= per_picture(eps / total, draw)"),
    ("the steepest step goes down", "delta = eps * grad.sign()", "delta = -eps * grad.sign()"),
    ("the steepest step leaves the box", "return delta if x is None else delta.clamp(-x, 1 - x)", "return delta"),
    ("tiny gradients underflow", "unit = torch.where(largest > 0, grad / largest, 0)", "unit = grad"),
    ("the l2 step is cut, not filled up", "return _scale_into_box(unit, -x, 1 - x, eps)", "return (unit * eps / per_picture(_length(unit, 'l2'), unit)).clamp(-x, 1 - x).nan_to_num()"),
    ("l1 spends on the smallest derivative", "size.argsort(dim=1, descending=True)", "size.argsort(dim=1)"),
    ("l1 spends the budget twice", "left = (eps - (room.cumsum(1) - room)).clamp_min(0)", "left = (2 * eps - (room.cumsum(1) - room)).clamp_min(0)"),
    ("rounding leaves the ball", "    _bits(total).add_(above, alpha=-1).add_(below)\n", ""),
    ("rounding leaves the ball below", "    _bits(low).add_(_positive(spare))\n", ""),
    ("rounding leaves the ball above", "    _bits(high).sub_(_positive(spare))\n", ""),
    ("the bounds leave the box", "return low.clamp_(0, 1), high.clamp_(0, 1)", "return low, high"),
    ("eps is rounded to the nearest number", "if nearest.item() > value:", "if False:"),
    ("norms are not aimed inside", "* (1 - 32 * torch.finfo(wide).eps)", "* (1 + 64 * torch.finfo(wide).eps)"),
    ("nothing is settled", "return _settle(x, x_adv, eps, norm) if settle else x_adv", "return x_adv"),
    ("the sum is measured in its own dtype only", "return outside | (exact > eps * (1 - margin))", "return outside"),
    ("the box is filled once, not until it is full", "for _ in range(8 if flat.is_cuda else 100):", "for _ in range(1):"),
    ("the level of l1 is taken too high", "level = ((weight.gather(1, last) - eps) / pieces).clamp_min(0)", "level = ((weight.gather(1, last) - eps / 2) / pieces).clamp_min(0)"),
    ("what fits is shrunk as well", "torch.where(fits, 0, level)", "level + 1e-3"),
    ("no level is found where full pixels use up the budget", "torch.where(pieces > 0, level, bends.gather(1, last))", "torch.where(pieces > 0, level, 0)"),
]  # fmt: skip

GRADIENTS = [
    ("the margin has the wrong sign", "return others - logits.gather(1, own).squeeze(1)", "return logits.gather(1, own).squeeze(1) - others"),
    ("the margin counts the class itself", "logits.scatter(1, own, -torch.inf).amax(1)", "logits.amax(1)"),
    ("a gradient whose sum overflows is refused", "return (low > -torch.inf) & (high < torch.inf)", "return grad.sum().isfinite()"),
    ("infinite gradients count as finite", "return (low > -torch.inf) & (high < torch.inf)", "return ~low.isnan()"),
    ("softmax is applied twice", "return F.cross_entropy(logits, y, reduction=\"none\")", "return F.cross_entropy(logits.softmax(1), y, reduction=\"none\")"),
    ("a loss may be one number for all", "if value.shape != y.shape:", "if False:"),
    ("train mode is left on", "                module.training = False\n", "                pass\n"),
    ("the mode is not put back", "                module.training = training\n", "                pass\n"),
    ("the walk over the model ends at the top", "waiting += [child for child in module._modules.values() if child is not None]", "pass"),
    ("weights keep their gradients", "            parameter.requires_grad_(False)\n", "            pass\n"),
    ("the model stays frozen", "            parameter.requires_grad_(True)\n", "            pass\n"),
    ("buffers are not put back", "                    buffer.copy_(before)", "                    pass"),
    ("a new buffer stays in the place of the old", "            place.update(held)", "            pass"),
    ("the global random state moves", "chance = torch.random.fork_rng(gpu, device_type=\"cuda\")", "chance = nullcontext()"),
    # Alone, each of the two lines would do inside no_grad: leaving inference mode turns gradients on.
    ("it fails inside no_grad", "with torch.inference_mode(False), torch.enable_grad(), chance", "with chance"),
    ("it fails inside inference mode", "with torch.inference_mode(False), torch", "with torch"),
    ("the gradient is that of the mean", "torch.autograd.grad(value.sum(), x, allow_unused=True)", "torch.autograd.grad(value.mean(), x, allow_unused=True)"),
    ("half precision is not widened", "logits = logits.to(torch.promote_types(logits.dtype, torch.float32))", "logits = logits"),
    ("a missing gradient is silent", "    if grad is None:\n", "    if grad is None:\n        grad = torch.zeros_like(x)\n    if False:\n"),
    ("the caller's pictures are handed on", "return value_and_gradient(model, x.clone(), y.clone(), loss)", "return value_and_gradient(model, x, y, loss)"),
    ("a wrong name is no error", "    if isinstance(loss, str) and loss in LOSSES:\n        return LOSSES[loss]", "    return LOSSES.get(str(loss), cross_entropy)"),
]  # fmt: skip

ATTACKS = [
    ("2/225 in place of 2/255", "    model: Model,\n    x: Tensor,\n    y: Tensor,\n    eps: float = 8 / 255,\n    *,\n    norm: str = \"linf\",\n    targeted: bool = False,", "    model: Model,\n    x: Tensor,\n    y: Tensor,\n    eps: float = 8 / 225,\n    *,\n    norm: str = \"linf\",\n    targeted: bool = False,"),
    ("sign noise is not of full size", "torch.where(delta < 0, -eps, eps).to(x.dtype)", "delta.to(x.dtype)"),
    ("sign noise ignores the mask", "delta = threats.keep(torch.where(delta < 0, -eps, eps).to(x.dtype), mask)", "delta = torch.where(delta < 0, -eps, eps).to(x.dtype)"),
    ("fgsm goes down", "ascent = -grad if targeted else grad", "ascent = grad if targeted else -grad"),
    ("fgsm forgets that it is targeted", "ascent = -grad if targeted else grad", "ascent = grad"),
    ("fgsm ignores the mask", "threats.steepest(ascent, eps, norm, x, mask=mask)", "threats.steepest(ascent, eps, norm, x)"),
    ("fgsm ignores the mask in linf", "_Ball.around(x, eps, norm, eps, mask).step(x, ascent)", "_Ball.around(x, eps, norm, eps, None).step(x, ascent)"),
    ("fgsm uses the wrong norm", "        if norm == \"linf\":  # a step of PGD", "        if True:  # a step of PGD"),
    ("fgsm is silent about a gradient that is not finite", "        if not all_finite(grad):\n            raise ModelOutputError(_NOT_FINITE)\n", ""),
    ("fgsm forgets the room", "threats.steepest(ascent, eps, norm, x, mask=mask)", "threats.steepest(ascent, eps, norm, None, mask=mask)"),
    ("fgsm leaves the box", "            return _Ball.around(x, eps, norm, eps, mask).step(x, ascent)", "            return x + eps * ascent.sign()"),
    ("restarts may be the same", "if restarts > 1 and not random_start:", "if False:"),
    ("the default step is too short", "step_size = 2.5 * eps / steps if step_size is None", "step_size = eps / steps / 4 if step_size is None"),
    ("the step size is ignored", "step_size = 2.5 * eps / steps if step_size is None else min(step_size, 2 * across)", "step_size = 2.5 * eps / steps"),
    ("the seed is drawn anew each time", "generator = generator or torch.Generator(x.device).manual_seed(0)", "generator = generator or torch.Generator(x.device).manual_seed(torch.Generator().seed())"),
    ("the generator is ignored", "generator = generator or torch.Generator(x.device).manual_seed(0)", "generator = torch.Generator(x.device).manual_seed(0)"),
    ("there is no random start", "start = ball.random_point(generator) if random_start else ball.x", "start = ball.x"),
    ("every start is random", "start = ball.random_point(generator) if random_start else ball.x", "start = ball.random_point(generator)"),
    ("only the first restart counts", "for restart in range(restarts):", "for restart in range(1):"),
    ("targeted climbs", "return -value if self.targeted else value", "return value"),
    ("the goal is always to leave the class", "return (logits.argmax(1) == y) == self.targeted", "return logits.argmax(1) != y"),
    ("a step goes down", "moved = torch.add(x_adv, moved, alpha=self.step_size, out=place)", "moved = torch.add(x_adv, moved, alpha=-self.step_size, out=place)"),
    ("a step has the size of the gradient", "moved = ascent.sign()", "moved = ascent.clone()"),
    ("a step leaves the ball", "return moved.clamp_(self.low, self.high)", "return moved.clamp_(0, 1)"),
    ("a step ignores the mask", "ascent = threats.keep(ascent, self.mask)", "pass"),
    ("l1 steps forget the room", "room = x_adv if self.norm == \"l1\" else None", "room = None"),
    ("each step begins at the picture", "moved = (x_adv - self.x) + threats.steepest", "moved = threats.steepest"),
    ("the last point counts, not the best", "better = (success & ~held) | ((success == held) & (score > before))", "better = torch.ones_like(success)"),
    ("the loss counts more than success", "better = (success & ~held) | ((success == held) & (score > before))", "better = score > before"),
    ("the worst is kept", "(score > before))\n", "(score < before))\n"),
    ("NaN passes for a result", "        if not self.finite:\n            raise ModelOutputError(_NOT_FINITE)\n", ""),
    ("one step too few", "    for step in range(steps):\n", "    for step in range(steps - 1):\n"),
    ("the last point is never measured", "        visit.at_the_end(model, x_adv, y, rows, steps)", "        pass"),
    ("the last point is returned unmeasured", "            self._note(x_adv, y, rows, step, self.goal.loss(logits, y), logits)", "            self.best.take(rows, x_adv)"),
    ("keep_best is ignored", "best = _Best.none(ball.x, keep_best)", "best = _Best.none(ball.x, True)"),
    ("never is the best kept", "best = _Best.none(ball.x, keep_best)", "best = _Best.none(ball.x, False)"),
    ("without keep_best the last point is measured all the same", "        if self.only_last:\n            self.best.take", "        if False:\n            self.best.take"),
    ("a step is written over the point before it", "place = moved if moved.stride() == x_adv.stride() else None", "place = x_adv"),
    ("restarts in vain are no error", "if restarts > 1 and not keep_best:", "if False:"),
    ("what is better for one is taken for all", "bool(better.all())", "bool(better.any())"),
    ("early stop takes the fooled for the others", "keep = (~reached).nonzero().squeeze(1)", "keep = reached.nonzero().squeeze(1)"),
    ("early stop mixes up the labels", "x_adv[keep], y[keep], ball.of(keep)", "x_adv[keep], y[: len(keep)], ball.of(keep)"),
    ("early stop begins with the fooled", "rows = (~visit.best.success).nonzero().squeeze(1)", "rows = visit.best.success.nonzero().squeeze(1)"),
    ("nobody hears of the steps", "        if self.on_step is not None:\n            self.on_step(self.restart, step, x_adv.clone(), value)\n", ""),
    ("who listens to the steps can change them", "self.on_step(self.restart, step, x_adv.clone(), value)", "self.on_step(self.restart, step, x_adv, value)"),
    ("the caller's labels are used in place", "        y = y.clone()\n        ball", "        ball"),
]  # fmt: skip

EVALUATION = [
    ("the interval is the textbook's", "share * (1 - share) / total + z**2 / (4 * total**2)", "share * (1 - share) / total"),
    ("the interval is one-sided", "NormalDist().inv_cdf((1 + confidence) / 2)", "NormalDist().inv_cdf(confidence)"),
    ("rounding shifts the ends", "low = 0.0 if count == 0 else centre - half", "low = centre - half"),
    ("counts may exceed the total", "if not 0 <= count <= total:", "if count < 0:"),
    ("labels are shuffled", "right.append(logits.argmax(1) == labels)", "right.append(logits.argmax(1) == labels.flip(0))"),
    ("wrong answers are counted", "right.append(logits.argmax(1) == labels)", "right.append(logits.argmax(1) != labels)"),
    ("the attack is forgotten", "shown = part if attack is None else attack(model, part, labels)", "shown = part"),
    ("the last batch is left out", "for part, labels in _progress(batches, progress):", "for part, labels in _progress(batches[:-1] or batches, progress):"),
    ("labels nobody knows are wrong answers", "        check_logits(logits, part, labels)\n        right", "        right"),
    ("predict leaves train mode on", "with undisturbed(model, x.device), torch.no_grad():", "with torch.no_grad():"),
    ("predict keeps a graph", "with undisturbed(model, x.device), torch.no_grad():", "with undisturbed(model, x.device):"),
    ("predict hands on the caller's pictures", "logits = model(part.clone())  # a model may normalise in place", "logits = model(part)"),
    ("every budget is the last", "def at_eps(model: Any, x: Tensor, y: Tensor, eps: float = eps)", "def at_eps(model: Any, x: Tensor, y: Tensor, eps: float = budgets[-1])"),
    ("the curve is never cumulative", "right if so_far is None or not cumulative else so_far & right", "right"),
    ("the curve is always cumulative", "right if so_far is None or not cumulative else so_far & right", "right if so_far is None else so_far & right"),
    ("budgets may come in any order", "if cumulative and budgets != sorted(budgets):", "if False:"),
]  # fmt: skip

AUTOPGD = [
    ("dlr forgets the scale", "return margin(logits, y) / (top[:, 0] - top[:, 2]).clamp_min(_TINY)", "return margin(logits, y)"),
    ("the first checkpoint is too early", "places, before, now = [0], 0, 22", "places, before, now = [0], 0, 12"),
    ("periods do not shrink", "max(now - before - 3, 6)", "max(now - before, 6)"),
    ("steps are never halved", "halve = due & (few | stuck)", "halve = due & few & stuck & False"),
    ("steps are halved all the time", "few = self.gains < MOMENTUM * checkpoints.since[self.t]", "few = self.gains <= checkpoints.since[self.t]"),
    ("a halved step goes on from the last point", "self.x_adv = torch.where(wide, self.best_x, self.x_adv)\n        self.last", "self.last"),
    ("the first step is twice too short", "step=torch.full_like(value, 2 * eps)", "step=torch.full_like(value, eps / 8)"),
    ("a step goes down", "return torch.addcmul(x_adv, grad.sign(), wide)", "return torch.addcmul(x_adv, grad.sign(), -wide)"),
    ("an l2 step goes down", "return x_adv + wide * threats.steepest(grad, 1.0, norm)", "return x_adv - wide * threats.steepest(grad, 1.0, norm)"),
    ("an l1 step forgets the room", "torch.where(grad > 0, 1 - x_adv, x_adv)", "torch.where(grad > 0, x_adv, 1 - x_adv)"),
    ("a step leaves the ball", "return torch.clamp(moved, self.low, self.high)", "return moved.clamp(0, 1)"),
    ("the box is forgotten on the way", "return threats.confine(self.x, delta, eps, norm, settle=False)", "return moved"),
    ("nothing is settled", "return threats.settle(self.x, self.x_adv, self.eps, self.norm)", "return self.x_adv"),
    ("the last point counts, not the best", "better = (success & ~held) | ((success == held) & (value > before))", "better = torch.ones_like(success)"),
    ("the loss counts more than success", "better = (success & ~held) | ((success == held) & (value > before))", "better = value > before"),
    ("targeted climbs away", "sign = -1.0 if targeted else 1.0", "sign = 1.0"),
    ("the goal is always to leave the class", "(logits.argmax(1) == own) == targeted", "logits.argmax(1) != own"),
    ("only the nearest class is tried", "for target in order.unbind(1):", "for target in order[:, :1].unbind(1):"),
    ("the farthest classes are tried first", "return logits.topk(min(classes, logits.shape[1] - 1), dim=1).indices", "return logits.topk(min(classes, logits.shape[1] - 1), dim=1, largest=False).indices"),
    ("every start is random", "random_start=restart > 0", "random_start=True"),
    ("no start is random", "random_start=restart > 0", "random_start=False"),
    ("the generator is ignored", "generator=generator or torch.Generator(x.device).manual_seed(0)", "generator=torch.Generator(x.device).manual_seed(0)"),
    ("fooled pictures stay in the pool", "leave = ended | success if self.early_stop else ended", "leave = ended"),
    ("the pool is not refilled", "if len(waiting) and len(pool.row) < self.batch_size:", "if len(waiting) and len(pool.row) == 0:"),
    ("one step too few", "ended = pool.t == self.steps", "ended = pool.t == self.steps - 1"),
    ("the classes are those of the first rows", "classes[pool.row], ended)", "classes[: len(pool.row)], ended)"),
    ("NaN passes for a result", "if value.isnan().any() or not all_finite(grad):", "if False:"),
]  # fmt: skip

SQUARE = [
    ("gradients are on", "with undisturbed(model, x.device), torch.no_grad():", "with undisturbed(model, x.device):"),
    ("a worse point is kept", "better = fooled | (value >= state.value)", "better = torch.ones_like(fooled)"),
    ("nothing is ever better", "better = fooled | (value >= state.value)", "better = fooled"),
    ("targeted leaves the class", "fooled = (logits.argmax(1) == state.y) == plan.targeted", "fooled = logits.argmax(1) != state.y"),
    ("the value has the wrong sign", "return -cross_entropy(logits, y) if self.targeted else margin(logits, y)", "return cross_entropy(logits, y) if self.targeted else -margin(logits, y)"),
    ("one query too many", "for query in range(1, plan.queries + 1):", "for query in range(1, plan.queries + 2):"),
    ("one query too few", "for query in range(1, plan.queries + 1):", "for query in range(1, max(plan.queries, 2)):"),
    ("fooled pictures are asked about again", "            state = state.keep(~fooled)\n", ""),
    ("queries are not counted", "        found.queries[state.rows] = query\n", ""),
    ("the fooled are not written down", "found.x_adv[done], found.fooled[done] = state.best[fooled], True", "found.x_adv[done] = state.best[fooled]"),
    ("the best of the others is lost", "    found.x_adv[state.rows] = state.best\n", ""),
    ("seeds belong to places, not to pictures", "seeds = [seed for seed, stays in zip(self.seeds, which.tolist(), strict=True) if stays]", "seeds = self.seeds[: int(which.sum())]"),
    ("the seed is drawn anew each time", "generator = generator or torch.Generator().manual_seed(0)\n    seeds", "generator = generator or torch.Generator().manual_seed(torch.Generator().seed())\n    seeds"),
    ("the generator is ignored", "generator = generator or torch.Generator().manual_seed(0)\n    seeds", "generator = torch.Generator().manual_seed(0)\n    seeds"),
    ("squares never shrink", "return p_init / 2 ** sum(now > mark for mark in _HALVED_AFTER)", "return p_init"),
    ("the schedule is not scaled", "now = 10_000 * query / max(queries, _SHORTEST)", "now = query"),
    ("p_init is ignored", "p_init = P_INIT if p_init is None else _check_share(p_init)", "p_init = P_INIT"),
    ("corners are half as far", "low, high = threats.bounds(x, eps)", "low, high = threats.bounds(x, eps / 2)"),
    ("nothing is settled", "found._replace(x_adv=threats.settle(x, found.x_adv, eps, norm))", "found"),
    ("known answers are asked for", "if not idle.any():", "if True:"),
    ("windows go to one corner", "corner = torch.minimum((chance * room).long(), room - 1)", "corner = torch.minimum((0 * chance * room).long(), room - 1)"),
    ("windows are too small", "wanted = max(1.0, part * height * width)", "wanted = max(1.0, part * height)"),
    ("the budget of the windows is lost", "budget = (at_hand**power + unspent) ** (1 / power)", "budget = (at_hand**power) ** (1 / power)"),
    ("the caller's pictures are handed on", "logits = model(proposal.clone())  # a model may normalise in place", "logits = model(proposal)"),
]  # fmt: skip
FOLDING = [
    ("hooks are traced away", "if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):", "if False:"),
    ("a shared convolution is folded", " or _calls(traced, str(before.target)) > 1", ""),
    ("the statistics of a batch are folded", "if norm.running_mean is None:", "if False:"),
    ("a result used twice is joined", "and len(node.args) == len(node.users) == 1", "and len(node.args) == 1"),
    ("a sum used twice is joined", "if not two or node.kwargs or len(node.users) != 1:", "if not two or node.kwargs:"),
    ("a sum in the place of what is used again is joined", "return len(node.args[0].users) == 1", "return True"),
    ("the shortcut is forgotten", "F.relu(y if other is None else y + other)", "F.relu(y)"),
]  # fmt: skip
WINOGRAD = [
    ("the bias is that of the first row alone", "self.bias[1] = bias", "self.bias[0] = bias"),
    ("the bias is forgotten", "if bias is not None:  #", "if False:  #"),
    ("there is no padding above", "padded[:, 1 : height + 1] = x", "padded[:, :height] = x"),
    ("a point has the wrong sign", "torch.sub(even, odd, out=at[2])", "torch.sub(odd, even, out=at[2])"),
    ("infinity is forgotten", "into(3, odd.add_(m[5]), 8, far_odd)", "into(3, odd, 8, far_odd)"),
    ("all pictures are held at once", "x.chunk(max(parts, 1))", "x.chunk(1)"),
]  # fmt: skip
PACKING = [
    ("half precision takes half the multiplications", "        and conv.weight.dtype == torch.float32\n", ""),
    ("few outputs take half the multiplications", "min(conv.in_channels, conv.out_channels) >= MANY_CHANNELS", "conv.in_channels >= MANY_CHANNELS"),
    ("small pictures take half the multiplications", "        and min(shape[2:]) >= LEAST_SIZE\n", ""),
    ("groups are mixed", "        and conv.groups == 1\n        and min(", "        and min("),
    ("hooks are lost", "        and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)\n", ""),
    ("every padding is zeros", '        and module.padding_mode == "zeros"\n', ""),
    ("a ReLU has the derivative 1", "grad = torch.ops.aten.threshold_backward(grad, y, 0)", "pass"),
    ("the shortcut has no gradient", "grad if ctx.two else None", "None"),
    ("a shortcut of another shape is added as it is", "if relu and at_once:", "if relu:"),
    ("the padding is not cut off", "ends += [-before[i], shape[2 + i] + before[i] - pixels.shape[2 + i]]", "ends += [0, shape[2 + i] - pixels.shape[2 + i]]"),
    ("the window does not turn round", "weight.flip(2, 3).transpose(0, 1)", "weight.transpose(0, 1)"),
    ("a shared layer changes under one name", "list(parent._modules.items()):  #", "list(parent.named_children()):  #"),
]  # fmt: skip
FAST = [
    ("the model itself is changed", "return copy.deepcopy(model).eval().requires_grad_(False)", "return model.eval().requires_grad_(False)"),
    ("a random model is rewritten", "if _differs(again, wanted):", "if False:"),
    ("a batch that belongs together is divided", "if _differs(parts(x.clone()), whole):", "if False:"),
    ("NaN counts as equal", "return ~((found - wanted).flatten(1).abs().amax(1) <= tolerance * spread)  # NaN differs", "return (found - wanted).flatten(1).abs().amax(1) > tolerance * spread"),
    ("a unit at its kink stops a rewriting", "if wrong.any():\n            chance", "if False:\n            chance"),
    ("other answers are not noticed", "if not wrong.any():", "if True:"),
    ("threads forget half precision", 'cast = torch.autocast("cpu", kind) if half else nullcontext()', "cast = nullcontext()"),
    ("a slower division stays", "threads is None and not _quicker(divided, fast, x)", "False"),
    ("a division that was asked for is timed", "threads is None and not _quicker(divided, fast, x)", "not _quicker(divided, fast, x)"),
]  # fmt: skip

FAULTS = [
    Fault(module, *fault)
    for module, faults in {
        "threats": THREATS,
        "gradients": GRADIENTS,
        "attacks": ATTACKS,
        "evaluation": EVALUATION,
        "autopgd": AUTOPGD,
        "square": SQUARE,
        "folding": FOLDING,
        "winograd": WINOGRAD,
        "packing": PACKING,
        "fast": FAST,
    }.items()
    for fault in faults
]
"""All of them; each is put in alone."""
