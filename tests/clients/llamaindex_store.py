"""LlamaIndex's `QdrantVectorStore`, through an index over it: layout `llamaindex`."""

from asked import Asked
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.vector_stores.qdrant import QdrantVectorStore
from pydantic import PrivateAttr


class Model(BaseEmbedding):
    _model = PrivateAttr()

    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self._model = asked.model()

    def _get_text_embedding(self, text: str) -> list[float]:
        return next(iter(self._model.embed([text]))).tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def equals(name: str, value) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=name, value=value)])


asked = Asked()
store = QdrantVectorStore(collection_name=asked.collection, client=asked.client())
assert store.dense_vector_name == "text-dense", "taken for a collection of former versions"
index = VectorStoreIndex.from_vector_store(store, embed_model=Model(asked))


def search(query: str, year: int | None) -> list[dict]:
    filters = None if year is None else equals("year", year)
    found = [hit.node for hit in index.as_retriever(similarity_top_k=3, filters=filters).retrieve(query)]
    for node in found:
        # Each row is a document of its own.
        assert [other.node_id for other in store.get_nodes(filters=equals("doc_id", node.ref_doc_id))] == [node.node_id]
    return [{"id": node.node_id, "text": node.get_content(), "metadata": node.metadata} for node in found]


asked.answer(search)
