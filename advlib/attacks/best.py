"""The best point that an attack has visited, for each image."""

import torch
from torch import Tensor

from advlib.threats import per_image


class Best:
    """A point that reaches the goal before one that does not, then the one of the highest score.

    `x_adv` holds the best points, `score` (n,) their scores, -inf before the first, and `fooled`
    (n,) whether they reach the goal.
    """

    def __init__(self, x: Tensor) -> None:
        dtype = torch.promote_types(x.dtype, torch.float32)
        self.x_adv = x.clone()
        self.score = torch.full((len(x),), -torch.inf, device=x.device, dtype=dtype)
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def remaining(self) -> Tensor:
        """The rows of the images for which the goal has not been reached."""
        return (~self.fooled).nonzero().squeeze(1)

    def offer(self, rows: Tensor | slice, x_adv: Tensor, score: Tensor, fooled: Tensor) -> None:
        """Keep those of `x_adv`, points of the images `rows`, that are better than what is kept."""
        before, held = self.score[rows], self.fooled[rows]
        better = (fooled & ~held) | ((fooled == held) & (score > before))
        self.score[rows] = torch.where(better, score.to(before.dtype), before)
        self.fooled[rows] = fooled | held
        # Usually all points are better, and then nothing is copied: no step changes its point in
        # place. Asking makes a GPU wait.
        if better.device.type != "cpu" or not better.all():
            x_adv = torch.where(per_image(better, x_adv), x_adv, self.x_adv[rows])
        if isinstance(rows, slice):
            self.x_adv = x_adv
        else:
            self.x_adv[rows] = x_adv
