"""What the tutorial's embedding program does: rows of one table, as wal2json writes them, get a vector."""

import os
import time

from steps import application, embed, topics


def flat(change):
    """The row's columns by name. wal2json has no column names in a delete, and neither has this program an answer to one."""
    row = dict(zip(change["columnnames"], change["columnvalues"]))
    return {"kind": change["kind"], "table": change["table"], **row, "year": str(row["year"])}


app = application("vectorsv1")
source, target = topics(app)
stream = app.dataframe(source)
stream = stream.filter(lambda change: change["table"] == os.environ["PG_TABLE"])
stream = stream.apply(flat)
stream["embeddings"] = stream["description"].apply(embed)
stream["Timestamp"] = stream.apply(lambda row: time.time_ns())
stream.to_topic(target)
app.run()
