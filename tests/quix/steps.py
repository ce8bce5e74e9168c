"""What the programs of this directory share.

They are what a user of Quix Streams would write at walvec's topics, and are told what to do by the environment, as programs
of that library mostly are: `Quix__Broker__Address`, `input`, `output`, `PG_TABLE`.
"""

import os

from quixstreams import Application


def application(group):
    """An application that begins at the oldest record."""
    return Application(
        consumer_group=group,
        auto_offset_reset="earliest",
        auto_create_topics=True,
        # A test waits for each row.
        commit_interval=0.5,
        consumer_poll_timeout=0.1,
        consumer_extra_config={"topic.metadata.refresh.interval.ms": 1000},
        state_dir=os.environ.get("state", "state"),
    )


def topics(app):
    """The topic that is read, and the one that is written, if there is one; both hold JSON."""
    source = app.topic(os.environ["input"], value_deserializer="json")
    target = os.environ.get("output")
    return source, target and app.topic(target, value_serializer="json")


def embed(text):
    """A vector of 64 numbers of length 1 that depends on the words of a text, instead of a model."""
    vector = [0.0] * 64
    for word in text.lower().split():
        place = sum((index + 1) * ord(letter) for index, letter in enumerate(word))
        vector[place % 64] += 1.0
    length = sum(number * number for number in vector) ** 0.5 or 1.0
    return [number / length for number in vector]
