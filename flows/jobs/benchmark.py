"""What one asks of a benchmark: faces, recipes, the part of the grid."""

from __future__ import annotations

from pydantic import Field

from flows.jobs.asked import Asked, Names
from flows.jobs.comparison import insist_on_known
from flows.jobs.data_set import JobError
from flows.jobs.restoration import Job, job_for, recipe_label
from tasks.archive import Degradation
from tasks.comparing import ARCHIVE, CELLS

RECIPES = "recipes"
"""The folder, below the output, with one workspace per recipe."""


class BenchmarkJob(Asked):
    """One benchmark: which faces, which recipes, where to."""

    output: str = Field(description="folder or URL for archive, workspaces and answer")
    faces: str | None = Field(default=None, description="folder or URL of clean aligned faces; none = the default face")
    recipes: tuple[str, ...] = Field(default=("compact",), min_length=1, description="names or .toml files")
    limit: int | None = Field(default=None, ge=1, description="use only so many faces, the first by name")
    degradations: tuple[str, ...] = Field(default=tuple(CELLS), min_length=1, description="which of the grid")
    metrics: Names = Field(default=(), description="names of metrics; none = all that can be computed")
    price_per_gpu_hour: float | None = Field(default=None, ge=0, description="what an hour of a worker costs")

    def place(self, *parts: str) -> str:
        """Something below the output."""
        return "/".join([self.output.rstrip("/"), *parts])

    def cells(self) -> dict[str, Degradation]:
        """The chosen part of the grid, in its order. Raises JobError for what it does not hold."""
        if unknown := set(self.degradations) - set(CELLS):
            raise JobError(f"expected degradations of {', '.join(CELLS)}; got {', '.join(sorted(unknown))}")
        return {name: CELLS[name] for name in CELLS if name in self.degradations}

    def runs(self) -> dict[str, Job]:
        """name → the run of each recipe.

        Raises JobError where two have one name or a metric does not exist, RecipeError for a broken recipe.
        """
        insist_on_known(self.metrics)
        runs: dict[str, Job] = {}
        for recipe in self.recipes:
            name = recipe_label(recipe)
            if name in runs:
                raise JobError(f"two recipes are called {name!r}; give their files different names")
            runs[name] = job_for(
                source=self.place(ARCHIVE),
                workspace=self.place(RECIPES, name),
                recipe=recipe,
                aligned=True,
                settings=self.settings,
            )
            runs[name].load_recipe()
        return runs
