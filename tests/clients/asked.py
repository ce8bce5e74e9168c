"""What the programs of this directory share: what they are asked, and the model that walvec has embedded with.

Each of them lets the vector-store class of one library search a collection that walvec fills. The questions come as a JSON
list of objects with "query" and "year" (null, or a value that the field `year` must have); for each of them the program
answers what the class returned: a list, best first, of objects with "id", "text" and "metadata".
"""

import argparse
import json
import sys
from urllib.parse import urlsplit

from fastembed import TextEmbedding
from qdrant_client import AsyncQdrantClient, QdrantClient, models

MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Asked:
    """The command line."""

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        server = parser.add_mutually_exclusive_group(required=True)
        server.add_argument("--rest", help="URL of the server's HTTP interface, which the libraries use by themselves")
        server.add_argument("--grpc", help="URL of its gRPC interface, for a server that has no other")
        parser.add_argument("--collection", required=True)
        parser.add_argument("--model", required=True, help="directory of the model's files")
        parser.add_argument("questions", type=json.loads)
        arguments = parser.parse_args()
        self.rest, self.grpc = arguments.rest, arguments.grpc
        self.collection, self.model_directory = arguments.collection, arguments.model
        self.questions = arguments.questions

    def _connection(self) -> dict:
        if self.rest:
            return {"url": self.rest}
        server = urlsplit(self.grpc)
        # The client's check of the server's version needs HTTP.
        return {
            "host": server.hostname,
            "grpc_port": server.port,
            "prefer_grpc": True,
            "check_compatibility": False,
        }

    def client(self) -> QdrantClient:
        return QdrantClient(**self._connection())

    def async_client(self) -> AsyncQdrantClient:
        return AsyncQdrantClient(**self._connection())

    def model(self) -> TextEmbedding:
        """FastEmbed's own runtime, with the files of walvec's model."""
        return TextEmbedding(MODEL, specific_model_path=self.model_directory)

    def answer(self, search) -> None:
        """Prints what `search(query, year)` finds for each question."""
        json.dump([search(question["query"], question["year"]) for question in self.questions], sys.stdout)


def metadata_filter(year: int | None) -> models.Filter | None:
    """As the documentation of LangChain and of the MCP server filters by a field."""
    if year is None:
        return None
    return models.Filter(must=[models.FieldCondition(key="metadata.year", match=models.MatchValue(value=year))])
