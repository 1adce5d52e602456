"""What every job is: plain data that a command line, a deployment's form and a test can all write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from flows.jobs.data_set import JobError
from infra.settings import Settings, load_settings


def _split(names: object) -> object:
    return [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else names


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Names as a list, or in one text, joined by commas."""


class Asked(BaseModel):
    """What one can ask for. A value that is None was not given: the default stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any] = Field(default_factory=dict, description="settings of infra.settings, over all others")

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def of(cls, **given: Any) -> Self:
        """The job of these fields. Raises JobError naming the first value that cannot be."""
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            raise JobError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first.get('input')!r}") from None

    def load_settings(self) -> Settings:
        """The settings tree with this job's on top. Raises SettingsError."""
        return load_settings(**self.settings)
