"""Learning rate over the steps of a fit; how a step is taken with it is ``loop``'s."""

from __future__ import annotations

import math

from atlas_pipeline.config import Config

# The rate at the last step, as a share of the peak.
FINAL_SHARE = 0.01
# One-cycle begins at this share of the peak and ends at that share of its beginning: torch's ``OneCycleLR``, whose
# figures these are; Smith and Topin give none but "several orders of magnitude".
ONE_CYCLE_START = 1 / 25.0
ONE_CYCLE_END = 1e-4
# The batch that a learning rate is meant for where it is scaled: that of the documents of origin.
REFERENCE_BATCH = 64


def peak_learning_rate(config: Config) -> float:
    """Return the schedule's highest rate: ``learning_rate``, scaled with the batch where the configuration says so.

    With the square root of effective over reference batch, which keeps the variance of the weights' change in a step
    (Krizhevsky, One weird trick, 2014, arXiv:1404.5997, sec. 5).
    """
    if not config.scale_learning_rate:
        return config.learning_rate
    return config.learning_rate * math.sqrt(config.effective_batch_size / REFERENCE_BATCH)


def rate_share(config: Config, step: int, total: int) -> float:
    """Share of the peak learning rate at a step of ``config.schedule``.

    Parameters
    ----------
    config
        ``schedule``, ``cycles``, and ``warmup_fraction``, the share of the steps in which the rate rises.
    step
        Optimizer steps done, from 0.
    total
        Steps of the whole fit.
    """
    if config.schedule == "one_cycle":
        return one_cycle(step, total, config.warmup_fraction)
    if config.schedule == "constant":
        return _warmup(step, total, config.warmup_fraction) or 1.0
    return cosine_with_warmup(step, total, config.warmup_fraction, config.cycles)


def cosine_with_warmup(step: int, total: int, warmup_fraction: float, cycles: int = 1) -> float:
    """Linear to 1, then half cosines to 1%, each after the first a restart at 1.

    Loshchilov and Hutter, SGDR, ICLR 2017, eq. 5, with cycles of equal length (T_mult = 1); warm-up as in Goyal et al.,
    2017, sec. 2.2. Arguments as of ``rate_share``.
    """
    rising = _warmup(step, total, warmup_fraction)
    if rising is not None:
        return rising
    warmup = _warmup_steps(total, warmup_fraction)
    progress = min(1.0, (step - warmup) / max(1, total - warmup)) * cycles
    within = progress - min(math.floor(progress), cycles - 1)
    return FINAL_SHARE + (1 - FINAL_SHARE) * _half_cosine(within)


def one_cycle(step: int, total: int, rising_fraction: float) -> float:
    """One rise and one longer, deeper fall, both half cosines.

    Smith and Topin, Super-Convergence, 2018, arXiv:1708.07120, sec. 3; anneal and end points as of torch's
    ``OneCycleLR``. The momentum is not cycled against it: that is the paper's for SGD, and AdamW's first moment is
    bias-corrected by a fixed beta. Arguments as of ``rate_share``.
    """
    top, end = rising_fraction * total - 1, total - 1
    if step <= top:
        done = step / top if top else 1.0
        return 1.0 + (ONE_CYCLE_START - 1.0) * _half_cosine(done)
    last = ONE_CYCLE_START * ONE_CYCLE_END
    return last + (1.0 - last) * _half_cosine((step - top) / (end - top))


def _warmup(step: int, total: int, fraction: float) -> float | None:
    warmup = _warmup_steps(total, fraction)
    return (step + 1) / warmup if step < warmup else None


def _warmup_steps(total: int, fraction: float) -> int:
    return max(1, round(total * fraction))


def _half_cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))
