"""Upserts points with the official Python client over gRPC, in batches, waiting for each, and prints how long that took.

usage: write_points.py HOST GRPC_PORT POINTS DIMENSION BATCH

The points are those of `bench/src/points.rs`: the same vectors' size, the same payload, walvec's own field included.
"""

import json
import random
import sys
import time

from qdrant_client import QdrantClient, models


def point(number: int, dimension: int) -> models.PointStruct:
    source = random.Random(number)
    vector = [source.uniform(-1.0, 1.0) for _ in range(dimension)]
    payload = {"id": number, "name": f"name {number}", "price": number % 1000, "body": "x" * 200}
    payload["_walvec"] = {"v": f"0/1.{number}", "t": "public.bench", "k": [number], "h": "0" * 32, "m": "0" * 32, "g": 1, "c": 0, "n": 1}
    return models.PointStruct(id=number, vector=vector, payload=payload)


def main() -> None:
    host, port, count, dimension, batch = sys.argv[1], *(int(argument) for argument in sys.argv[2:])
    client = QdrantClient(host=host, grpc_port=port, prefer_grpc=True, check_compatibility=False, timeout=60)
    name = "bench_python"
    points = [point(number, dimension) for number in range(count)]
    seconds = 0.0
    for first in range(0, count, batch):
        part = points[first : first + batch]
        began = time.perf_counter()
        result = client.upsert(name, part, wait=True)
        seconds += time.perf_counter() - began
        assert result.status == models.UpdateStatus.COMPLETED, result
    print(json.dumps({"points": count, "seconds": seconds}))


main()
