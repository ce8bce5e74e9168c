"""Qdrant's Python client with FastEmbed: a query by text (`models.Document`), and the layout `fastembed`."""

from asked import MODEL, Asked, metadata_filter
from qdrant_client import models

asked = Asked()
client = asked.client()


def search(query: str, year: int | None) -> list[dict]:
    found = client.query_points(
        asked.collection,
        query=models.Document(text=query, model=MODEL, options={"specific_model_path": asked.model_directory}),
        using="fast-all-minilm-l6-v2",
        query_filter=metadata_filter(year),
        limit=3,
    )
    return [
        {"id": hit.id, "text": hit.payload["document"], "metadata": hit.payload["metadata"]} for hit in found.points
    ]


asked.answer(search)
