"""LangChain's `QdrantVectorStore`: layout `langchain`."""

from asked import Asked, metadata_filter
from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore


class Model(Embeddings):
    def __init__(self, asked: Asked) -> None:
        self.model = asked.model()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [vector.tolist() for vector in self.model.embed(texts)]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


asked = Asked()
# The constructor refuses a collection whose vectors do not fit.
store = QdrantVectorStore(client=asked.client(), collection_name=asked.collection, embedding=Model(asked))


def search(query: str, year: int | None) -> list[dict]:
    found = store.similarity_search(query, k=3, filter=metadata_filter(year))
    assert store.get_by_ids([hit.metadata["_id"] for hit in found[:1]])[0].page_content == found[0].page_content
    return [{"id": hit.metadata["_id"], "text": hit.page_content, "metadata": hit.metadata} for hit in found]


asked.answer(search)
