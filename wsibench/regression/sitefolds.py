"""Whole sites handed out to folds of about equal size and equal shares of subtypes."""

import numpy as np

__all__ = ["SHARE_TOLERANCE", "SIZE_TOLERANCE", "hand_out"]

SIZE_TOLERANCE = 0.01
"""Folds may be larger or smaller than an even one by this share, or by as much as sites make them."""
SHARE_TOLERANCE = 0.03
"""A subtype's share of a fold may differ from its share of the cohort by this much, or by one patient."""

RESTARTS = 40
"""Orders in which sites are handed out; some of the best outcomes are taken."""
JITTER = 0.3
"""Share by which a site's size is varied to vary the order."""
SIZE_WEIGHT = 10.0
"""How much more a patient too many in a fold counts than one of a subtype too many: sizes come first."""
SLACK = 2.0
"""Outcomes as good as the best: within the cost of two folds that are a patient too large or small."""

CHAINS = 4
"""Outcomes that are shaken when their shares are not even enough; the best of what becomes of them is taken."""
SHAKES = 200
"""Most shakes of a chain; few sites have few divisions, and get an eighth of their number squared."""
SHAKEN = 5
"""Sites that a shake puts anywhere."""
POWER_OF_TWO = 4
"""Deviations are raised to 2⁴ = 16 before they are added up: so high that almost only the largest counts."""
PARDON = 4.0
"""A shake may cost so many times more, a largest deviation 9 % larger: what is stuck gets elsewhere."""
TOO_FAR = 100.0
"""What a size beyond its tolerance is multiplied by: no share makes up for it."""
PAIRS = 20_000
"""Most swaps that are tried in one round; of more pairs of sites this many are drawn."""


def hand_out(counts: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Give every site one of `n` folds.

    Sites are handed out from about the largest to the smallest, each to the fold that it balances
    best, and then moved and swapped for as long as that helps.  Where a subtype's share of a fold
    is still off, the largest such deviation is brought down: some sites are put elsewhere at
    random, and moves and swaps repair what that spoils, without giving up even sizes.

    Parameters
    ----------
    counts
        (n_sites, 1 + n_subtypes) patients of each site, in all and of each known subtype.
    n
        Number of folds; no fold stays empty.
    rng
        Another state gives other folds of about the same evenness, where the sites allow more than
        one such division.

    Returns
    -------
    ndarray
        int64 (n_sites,), 0 … n − 1.
    """
    even = _even(counts)
    weights = np.r_[SIZE_WEIGHT, np.ones(even.shape[1] - 1)]
    squares = _Squares(even.sum(axis=0) / n, weights)
    outcomes = []
    for _ in range(RESTARTS):
        outcomes.append(_improved(_greedy(even, n, squares, rng), even, n, squares, rng))
        if even.shape[1] == 1 and np.abs(_held(outcomes[-1], even, n) - squares.share).max() < 1:
            return outcomes[-1]  # without subtypes, sizes to a patient are all there is to want
    costs = np.array([squares(_held(folds, even, n)).sum() for folds in outcomes])
    uneven = np.array([np.abs(_held(folds, even, n)[:, 0] - squares.share[0]).max() for folds in outcomes])
    sized = uneven <= max(uneven.min(), SIZE_TOLERANCE * squares.share[0])
    # Any of the good ones: the very best would be the same for every seed, and hide how much the
    # choice of folds matters.
    good = rng.permutation(np.flatnonzero(sized & (costs <= costs[sized].min() + SLACK * SIZE_WEIGHT)))
    largest = _Largest(counts, n, uneven[sized].min())
    chosen = [outcomes[index] for index in good[:CHAINS]]
    if largest.deviations(_held(chosen[0], counts, n)).max() <= 1:
        return chosen[0]
    shaken = [_shaken(folds, counts, n, largest, rng) for folds in chosen]
    return min(shaken, key=lambda folds: largest(_held(folds, counts, n)).sum())


def _even(counts: np.ndarray) -> np.ndarray:
    """Patients of each site, and of each subtype beyond what the cohort's share of it would give."""
    known = counts[:, 1:].sum(axis=1, keepdims=True)
    return np.c_[counts[:, 0], counts[:, 1:] - known * counts[:, 1:].sum(axis=0) / max(1, known.sum())]


def _held(folds: np.ndarray, counts: np.ndarray, n: int) -> np.ndarray:
    """What each fold holds of the columns of `counts`; (n, columns)."""
    held = np.zeros((n, counts.shape[1]))
    np.add.at(held, folds, counts)
    return held


class _Squares:
    """The cost of a fold as a weighted sum of squares: what is even in all is even everywhere."""

    def __init__(self, share: np.ndarray, weights: np.ndarray) -> None:
        self.share, self.weights = share, weights

    def __call__(self, held: np.ndarray) -> np.ndarray:
        return (held - self.share) ** 2 @ self.weights


class _Largest:
    """The cost of a fold as, almost, its largest deviation in units of what is tolerated."""

    def __init__(self, counts: np.ndarray, n: int, uneven: float) -> None:
        self.size = counts[:, 0].sum() / n
        self.cohort = counts[:, 1:].sum(axis=0) / max(1, counts[:, 1:].sum())
        # Sizes that cannot be even may be as uneven as they are, and no more.
        self.tolerated = max(SIZE_TOLERANCE * self.size, uneven)

    def deviations(self, held: np.ndarray) -> np.ndarray:
        """(…, 1 + n_subtypes) of size and shares; 1 is just tolerated."""
        known = held[..., 1:].sum(axis=-1, keepdims=True)
        size = np.abs(held[..., :1] - self.size) / self.tolerated
        shares = np.abs(held[..., 1:] - known * self.cohort) / np.maximum(1, SHARE_TOLERANCE * known)
        return np.concatenate([size, shares], axis=-1)

    def __call__(self, held: np.ndarray) -> np.ndarray:
        deviations = self.deviations(held)
        size = deviations[..., 0]
        deviations[..., 0] = np.where(size > 1 + 1e-9, TOO_FAR * size, size)
        for _ in range(POWER_OF_TWO):
            deviations *= deviations
        return deviations.sum(axis=-1)


_Cost = _Squares | _Largest


def _greedy(counts: np.ndarray, n: int, cost: _Cost, rng: np.random.Generator) -> np.ndarray:
    """Sites handed out about from the largest to the smallest, each where it costs least; (n_sites,)."""
    folds, held = np.full(len(counts), -1), np.zeros((n, counts.shape[1]))
    order = np.argsort(-counts[:, 0] * rng.uniform(1 - JITTER, 1 + JITTER, len(counts)))
    for rank, site in enumerate(order):
        added = cost(held + counts[site]) - cost(held)
        if rank < n:  # no fold stays empty
            added[np.isin(np.arange(n), folds)] = np.inf
        shuffled = rng.permutation(n)  # among equals the first wins
        folds[site] = shuffled[np.argmin(added[shuffled])]
        held[folds[site]] += counts[site]
    return folds


def _improved(folds: np.ndarray, counts: np.ndarray, n: int, cost: _Cost, rng: np.random.Generator) -> np.ndarray:
    """The folds after the best move of a site, or swap of two, again and again until none helps."""
    folds, every = folds.copy(), np.arange(len(counts))
    pairs = np.triu_indices(len(counts), 1)
    while True:
        held = _held(folds, counts, n)
        now = cost(held)
        move = _gain(cost(held[folds] - counts)[:, None] + cost(held + counts[:, None]), now[folds][:, None] + now)
        move[every, folds] = 0
        move[np.bincount(folds, minlength=n)[folds] == 1] = 0  # no fold becomes empty
        drawn = rng.choice(len(pairs[0]), PAIRS, replace=False) if len(pairs[0]) > PAIRS else slice(None)
        one, other = pairs[0][drawn], pairs[1][drawn]
        apart = folds[one] != folds[other]
        one, other = one[apart], other[apart]
        here, there, gained = folds[one], folds[other], counts[other] - counts[one]
        swap = _gain(cost(held[here] + gained) + cost(held[there] - gained), now[here] + now[there])
        if max(move.max(), swap.max(initial=0)) == 0:
            return folds
        if move.max() >= swap.max(initial=0):
            site, fold = np.unravel_index(np.argmax(move), move.shape)
            folds[site] = fold
        else:
            best = np.argmax(swap)
            folds[one[best]], folds[other[best]] = there[best], here[best]


def _gain(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """What two folds cost less than before; 0 for what may be rounding, which could go round in circles."""
    gain = before - after
    return np.where(gain > 1e-9 * (1 + before), gain, 0)


def _shaken(folds: np.ndarray, counts: np.ndarray, n: int, largest: _Largest, rng: np.random.Generator) -> np.ndarray:
    """The best folds met when a few sites are put anywhere, and that is repaired, again and again."""
    folds = best = _improved(folds, counts, n, largest, rng)
    cost = lowest = largest(_held(folds, counts, n)).sum()
    for _ in range(min(SHAKES, len(counts) ** 2 // 8)):
        if largest.deviations(_held(best, counts, n)).max() <= 1:
            break
        tried, sites = folds.copy(), rng.choice(len(folds), min(SHAKEN, len(folds)), replace=False)
        tried[sites] = rng.integers(n, size=len(sites))
        if len(np.unique(tried)) < n:
            continue
        tried = _improved(tried, counts, n, largest, rng)
        found = largest(_held(tried, counts, n)).sum()
        if found <= cost * PARDON:
            folds, cost = tried, found
        if found < lowest:
            best, lowest = tried, found
    return best
