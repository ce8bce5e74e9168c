"""Between capture and index: books since 1901 only, with their decade; with --pass-on nearly everything as it is.

A record of a row that does not belong (any more) to the output becomes a tombstone, so that whoever reads the output removes
it. Deletes and tombstones go through as they are; records that are about no row do not.
"""

import sys

from steps import application, topics


def is_about_a_row(value):
    return value is None or value["op"] in ("r", "c", "u", "d")


def belongs(row):
    return row["year"] is not None and row["year"] > 1900


def step(value):
    if value is None or value["op"] == "d":
        return value
    row = value["after"]
    return {**value, "after": {**row, "decade": row["year"] // 10 * 10}} if belongs(row) else None


app = application(sys.argv[1])
source, target = topics(app)
stream = app.dataframe(source)
if "--pass-on" in sys.argv:
    # Records that do not belong to a row are passed on too. A row of the snapshot is left out, so that offsets differ
    # in the output.
    stream = stream.filter(lambda value: value is None or value["op"] != "r" or value["after"]["id"] != 1)
else:
    stream = stream.filter(is_about_a_row)
    stream = stream.apply(step)
stream.to_topic(target)
app.run()
