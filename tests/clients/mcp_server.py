"""The part of Qdrant's MCP server that searches: layout `fastembed`."""

import asyncio

from asked import MODEL, Asked, metadata_filter
from mcp_server_qdrant.embeddings.fastembed import FastEmbedProvider
from mcp_server_qdrant.qdrant import QdrantConnector


class Local(FastEmbedProvider):
    """As the server's own, but with the model's files from a directory."""

    def __init__(self, asked: Asked) -> None:
        self.model_name = MODEL
        self.embedding_model = asked.model()


asked = Asked()
connector = QdrantConnector(asked.rest, None, asked.collection, Local(asked), None if asked.rest else ":memory:")
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
if asked.grpc:
    # The MCP server supports only HTTP, which the test's server does not speak. Only the transport is replaced.
    connector._client = asked.async_client()


def search(query: str, year: int | None) -> list[dict]:
    found = loop.run_until_complete(connector.search(query, limit=3, query_filter=metadata_filter(year)))
    return [{"id": entry.metadata["id"], "text": entry.content, "metadata": entry.metadata} for entry in found]


asked.answer(search)
