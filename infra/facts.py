"""What is written down as JSON, in files and for `--json`: records that later versions of this program still read."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """A part of such a document. What another version knew beside it is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", serialize_by_alias=True)


class Facts(Record):
    """A whole document. A file without a `schema` is one of the first kind."""

    schema_version: Literal[1] = Field(default=1, alias="schema")

    def to_json(self) -> bytes:
        """For a file: indented ASCII, so that no odd name breaks a reader."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=True).encode()
