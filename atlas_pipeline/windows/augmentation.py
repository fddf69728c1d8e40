"""Windows mixed with others of their batch: mixup, and cutmix along time.

Here is what is drawn and how two windows become one; what is lost on a mixture of two labels is
``training.objective``'s. Chance comes from seed and step alone, not from a running generator: a step that is done
again, on a machine with other memory or after a kill, draws the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlas_pipeline.config import Config

# Apart from every other use of the seed.
_STREAM = 0x6D6978


@dataclass(frozen=True)
class Mixing:
    """How the windows of a batch are mixed.

    Attributes
    ----------
    partner
        Which window of the batch each is mixed with, int64 [n].
    share
        What remains of the window itself, float32 [n], 0 to 1; the rest is its partner's.
    start
        Bar at which the partner's span begins, int64 [n]; None where whole windows are blended.
    """

    partner: Tensor
    share: Tensor
    start: Tensor | None = None

    def part(self, first: int, last: int) -> Mixing:
        """Keep windows ``first`` up to, not including, ``last``; partners keep their numbers in the whole batch."""
        start = None if self.start is None else self.start[first:last]
        return Mixing(self.partner[first:last], self.share[first:last], start)


def draw_mixing(config: Config, step: int, windows: int) -> Mixing | None:
    """Draw how a step's windows are mixed; None where the configuration mixes none.

    Parameters
    ----------
    config
        ``mixup_alpha``, ``cutmix_alpha``, ``seq_length`` and ``seed``. Where both are on, each has half of the steps.
    step
        Number of the optimizer step.
    windows
        Windows in its batch.

    Notes
    -----
    Shares are Beta(alpha, alpha), one a window (Zhang et al., mixup, ICLR 2018, eq. 1). In cutmix the partner's span
    is ``1 - share`` of the bars, rounded, at a place drawn uniformly, and the share becomes what is left exactly
    (Yun et al., CutMix, ICCV 2019, eq. 1 and 2, with one dimension for two and the span whole within the window).
    """
    kinds = [name for name in ("mixup", "cutmix") if getattr(config, f"{name}_alpha") > 0]
    if not kinds:
        return None
    random = np.random.default_rng([_STREAM, config.seed, step])
    kind = kinds[int(random.integers(len(kinds)))]
    partner = torch.from_numpy(random.permutation(windows))
    alpha = getattr(config, f"{kind}_alpha")
    share = random.beta(alpha, alpha, windows)
    if kind == "mixup":
        return Mixing(partner, torch.from_numpy(share.astype(np.float32)))
    span = np.rint((1 - share) * config.seq_length).astype(np.int64)
    start = random.integers(0, config.seq_length - span, endpoint=True)
    left = (1 - span / config.seq_length).astype(np.float32)
    return Mixing(partner, torch.from_numpy(left), torch.from_numpy(start))


def mix(inputs: Tensor, others: Tensor, mixing: Mixing) -> Tensor:
    """Mix windows with their partners.

    Parameters
    ----------
    inputs, others
        The windows and their partners, float32 [n, seq_length, features], on one device with ``mixing``.
    mixing
        Of these n windows.

    Returns
    -------
    float32 [n, seq_length, features]
    """
    share = mixing.share[:, None, None]
    if mixing.start is None:
        return share * inputs + (1 - share) * others
    length = inputs.shape[1]
    bars = torch.arange(length, device=inputs.device)
    start = mixing.start[:, None]
    span = ((1 - mixing.share) * length).round().long()[:, None]
    cut = (bars >= start) & (bars < start + span)
    return torch.where(cut[:, :, None], others, inputs)
