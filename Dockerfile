# syntax=docker/dockerfile:1
# An image with the program walvec and the demo's model, for compose.yaml. The base images are the newest known in
# November 2026.

FROM rust:1.95-trixie AS rust
RUN cargo install --locked cargo-chef@0.1.78
WORKDIR /source

# Only the files that decide the dependencies: this layer stays the same while only the program changes.
FROM rust AS recipe
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

# The profile and the features of `make dist`. librdkafka and OpenSSL are compiled in, with the C and C++ compilers, make and
# perl of this image.
FROM rust AS builder
ARG OPTIONS="--locked --profile dist --package walvec --features kafka-tls"
COPY --from=recipe /source/recipe.json .
RUN cargo chef cook $OPTIONS --recipe-path recipe.json
COPY . .
# Cargo 1.95 strips debug information only from a package that has an entry of its own in a profile.
RUN cargo build $OPTIONS && strip -o /usr/local/bin/walvec target/dist/walvec

# This stage needs no model hub, and is not built again when the program changes.
FROM python:3.14-slim-trixie AS model
COPY scripts/fetch-model.sh /
RUN /fetch-model.sh /models

FROM debian:trixie-slim
# The certificate authorities for servers of PostgreSQL, Kafka and Qdrant with public certificates.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --home-dir /var/lib/walvec --create-home walvec
COPY --from=builder /usr/local/bin/walvec /usr/local/bin/
# Owned by the user, so that `walvec model pull` can add to a volume that starts as a copy of this.
COPY --from=model --chown=walvec:walvec /models /var/lib/walvec-models
ENV WALVEC_MODELS=/var/lib/walvec-models
USER walvec
WORKDIR /var/lib/walvec
# Checks whether the walvec of this container serves, at WALVEC_LISTEN or 127.0.0.1:8082, without a configuration or a token.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["walvec", "health", "--live", "--timeout", "2"]
# walvec stops in order on SIGTERM, which it gets as the first process.
ENTRYPOINT ["walvec"]
CMD ["--help"]
