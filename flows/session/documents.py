"""Puts a document beside its numbers, as Markdown and as a page, and shows it in the dashboard."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from flows.session.dashboard import never_fatal
from infra.facts import Facts
from infra.storage import Storage
from tasks.pages.documents import Block, to_html, to_markdown

PAGE = "index.html"


def write_document(output: Storage, name: str, title: str, blocks: Sequence[Block]) -> None:
    """Writes `<name>.md` and `index.html`, and publishes the Markdown under that name."""
    markdown = to_markdown(title, blocks)
    output.write_atomic(f"{name}.md", markdown.encode())
    output.write_atomic(PAGE, to_html(title, blocks).encode())
    _publish(name, markdown, title)


def write_table(output: Storage, name: str, table: pa.Table) -> None:
    """Writes `<name>.parquet`."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    output.write_atomic(f"{name}.parquet", sink.getbuffer())


def write_facts(output: Storage, name: str, facts: Facts) -> None:
    """Writes `<name>.json`, to be called last: its presence says that all is there."""
    output.write_atomic(f"{name}.json", facts.to_json())


@never_fatal
def _publish(name: str, markdown: str, title: str) -> None:
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(key=name, markdown=markdown, description=title)
