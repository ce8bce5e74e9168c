"""What the tutorial's ingesting program does: each row with its vector becomes a point. The points go to standard output, one
line of JSON each, instead of into Qdrant."""

import json

from steps import application, topics


def ingest(row):
    payload = {name: row[name] for name in ("name", "description", "author", "year")}
    print(json.dumps({"id": row["id"], "vector": row["embeddings"], "payload": payload}), flush=True)


app = application("ingesterV1")
source, _ = topics(app)
app.dataframe(source).update(ingest)
app.run()
