# syntax=docker/dockerfile:1
# The program walvec, and the model of the demo, for compose.yaml. The images are the newest known in November 2026.

FROM rust:1.95-trixie AS builder
WORKDIR /source
COPY . .
# What is built stays in the build cache: the vector engine is compiled once. librdkafka and OpenSSL are compiled in, with
# the C and C++ compilers, make and perl of this image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target \
    CARGO_TARGET_DIR=/target cargo build --locked --release && cp /target/release/walvec /usr/local/bin/walvec

# Needs no model hub; not built again when the program changes.
FROM python:3.14-slim-trixie AS model
COPY scripts/fetch-model.sh /
RUN /fetch-model.sh /models

FROM debian:trixie-slim
# The authorities that servers of PostgreSQL, Kafka and Qdrant with public certificates need.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --home-dir /var/lib/walvec --create-home walvec
COPY --from=builder /usr/local/bin/walvec /usr/local/bin/
# Owned by the user, so that `walvec model pull` can add to a volume that starts as a copy of this.
COPY --from=model --chown=walvec:walvec /models /var/lib/walvec-models
ENV WALVEC_MODELS=/var/lib/walvec-models
USER walvec
WORKDIR /var/lib/walvec
# walvec stops in order on SIGTERM, which it gets as the first process.
ENTRYPOINT ["walvec"]
CMD ["--help"]
