"""Conditions of stages: `clipiqa.aligned < 0.3 and musiq.aligned < 17`, read once and asked of a face."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from infra.problems import ForPeople

_COMPARISON = re.compile(r"\s*([\w.]+)\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)\s*$")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class RecipeError(ForPeople):
    """A recipe cannot be used. The message says where, what was expected, what came and what to do."""

    exit_code = 2


@dataclass(frozen=True)
class Condition:
    """Comparisons of metrics with numbers, all of which must hold: `clipiqa.aligned < 0.3 and musiq.aligned < 17`."""

    text: str

    @cached_property
    def comparisons(self) -> tuple[tuple[str, str, float], ...]:
        """(metric, operator, number) in the order written. Raises RecipeError for anything else."""
        found = []
        for part in self.text.split(" and "):
            match = _COMPARISON.match(part)
            if not match:
                raise RecipeError(
                    f"condition {self.text!r}: expected comparisons such as 'quality.aligned < 0.3' "
                    f"joined by ' and ', got {part.strip()!r}"
                )
            found.append((match[1], match[2], float(match[3])))
        return tuple(found)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the condition looks at."""
        return tuple(metric for metric, _, _ in self.comparisons)

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether every comparison is true. A metric that was not measured makes its comparison false."""
        return all(
            name in metrics and _OPERATORS[sign](metrics[name], number) for name, sign, number in self.comparisons
        )
