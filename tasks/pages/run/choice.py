"""Which images a report shows: the extremes, and a gallery drawn evenly from outcomes and from ends of every scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from tasks.archive import FileOutcome
from tasks.pages.run.records import EVERYTHING, Choice
from tasks.pages.run.scores import Scores
from tasks.pages.shared.distributions import Floats

GALLERY = 160
"""Pictures shown, whatever the archive."""
RANKED = 10
"""Entries in each list of extremes."""
_PICTURED: tuple[FileOutcome, ...] = ("restored", "fallback", "rejected_identity", "left_alone")

_RANKED_FOR = {"most_changed": "a large change", "lost_most": "a large loss", "least_alike": "a low similarity"}
"""Rankings whose foremost are shown with pictures, and why."""

Places = NDArray[np.intp]


def choose(images: Sequence[str], outcomes: Sequence[FileOutcome], scores: Scores) -> Choice:
    """Chooses among the images of `scores`, whose ids and outcomes are given in the same order."""
    measure = scores.leading()
    sign = -1.0 if measure and not measure.higher_is_better else 1.0
    before, after = (scores.means(name) for name in ((measure.before, measure.after) if measure else (None, None)))
    change = scores.means(scores.change)
    scales = _Scales(sign * (after - before), sign * after, scores.identity, change)
    everything = np.arange(len(images))
    orders = {
        "slowest": _order(everything, -scores.seconds),
        "lost_most": _order(everything[scales.gain < 0], scales.gain),
        "least_alike": _order(everything, scales.identity),
        "most_changed": _order(everything, -change),
    }
    foremost = {place: _RANKED_FOR[name] for name in _RANKED_FOR for place in orders[name][:RANKED]}
    chosen = _gallery(np.array(outcomes, dtype=object), scales, foremost)
    return Choice(
        {images[place]: why for place, why in chosen.items()},
        {name: tuple(images[place] for place in order[:RANKED]) for name, order in orders.items()},
    )


@dataclass(frozen=True, slots=True)
class _Scales:
    """Per image: how much better it became, how good it is, how alike, how changed; nan where not measured."""

    gain: Floats
    worth: Floats
    identity: Floats
    change: Floats

    def orders(self, images: Places) -> Iterator[tuple[str, list[int]]]:
        yield "drawn by chance", np.random.default_rng(0).permutation(images).tolist()
        yield "a large change", _order(images, -self.change)
        yield "a large gain", _order(images, -self.gain)
        yield "a large loss", _order(images[self.gain[images] < 0], self.gain)
        yield "a low similarity", _order(images, self.identity)
        yield "a low score", _order(images, self.worth)
        yield "a high score", _order(images, -self.worth)


def _gallery(outcomes: NDArray[np.object_], scales: _Scales, foremost: Mapping[int, str]) -> dict[int, str]:
    """Image → why it is shown: those that are foremost anywhere, then in turns from every order of every outcome."""
    queues = [
        [(image, why) for image in order[:GALLERY]]
        for outcome in _PICTURED
        for why, order in scales.orders(np.flatnonzero(outcomes == outcome))
    ]
    chosen = {place: why for place, why in foremost.items() if outcomes[place] in _PICTURED}
    for image, why in (pick for picks in zip_longest(*queues) for pick in picks if pick):
        if len(chosen) == GALLERY:
            return chosen
        chosen.setdefault(image, why)
    return dict.fromkeys(chosen, EVERYTHING)


def _order(images: Places, key: Floats) -> list[int]:
    """The images by rising key, without those whose key is nan."""
    measured = images[~np.isnan(key[images])]
    ordered: list[int] = measured[np.argsort(key[measured], kind="stable")].tolist()
    return ordered
