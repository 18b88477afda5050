# Two commands matter: `make demo` and `make test`. Both install what is missing (Debian 12, Ubuntu; Rust
# and root are expected).
SHELL := /bin/bash
TARGET := $(shell rustc -vV | sed -n 's/^host: //p')
RELEASE := target/$(TARGET)/release/yare
DEBUG := target/$(TARGET)/debug/yare
PLUGINS := $(CURDIR)/target/docker-plugins
S3 := $(CURDIR)/target/s3-server
# Python with the clients of registries that the tests speak through.
CLIENTS := $(CURDIR)/target/registry-clients
CLIENTS_ENV := scripts/python-env $(CLIENTS) oras==0.2.43 docker==7.2.0
AZURITE := $(CURDIR)/target/azurite
# The tests of several registries over one store, which YARE_TEST_STORE names. The whole workspace, since one package
# alone would have its dependencies compiled again, with fewer features.
STORE_TESTS := cargo test --workspace --locked --test it -- replicas:: replication::of_several cached_buckets::

.PHONY: build demo check test soak fuzz bench compare-builds dist clean vm-v2

build:
	scripts/setup build
	cargo build --release --locked --package yare

demo: build
	scripts/demo $(RELEASE)

check:
	cargo fmt --all --check
	cargo xtask check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

# Most tests wait for something, so there are more threads than processors.
test:
	scripts/setup test
	scripts/docker-plugins $(PLUGINS)
	scripts/python-env $(S3) 'moto[server]==5.*'
	$(CLIENTS_ENV)
	cargo build --locked --package yare
	YARE_REQUIRE_ROOT=1 YARE_TEST_DOCKER_PLUGINS=$(PLUGINS) YARE_TEST_S3_PYTHON=$(S3)/bin/python YARE_TEST_CLIENTS_PYTHON=$(CLIENTS)/bin/python YARE_BIN=$(CURDIR)/$(DEBUG) RUST_TEST_THREADS=4 cargo test --workspace --locked --no-fail-fast
	YARE_TEST_STORE=gcs YARE_TEST_S3_PYTHON=$(S3)/bin/python $(STORE_TESTS)

soak: build
	scripts/setup test
	$(CLIENTS_ENV)
	YARE_REQUIRE_ROOT=1 YARE_SOAK=1 YARE_TEST_CLIENTS_PYTHON=$(CLIENTS)/bin/python YARE_BIN=$(CURDIR)/$(RELEASE) cargo test --locked --package yare-testkit --no-fail-fast -- --include-ignored
	YARE_SOAK=1 cargo test --locked --package yare-registry --test it -- crash:: a_killed
	scripts/azurite $(AZURITE)
	YARE_TEST_STORE=azure YARE_TEST_AZURITE=$(AZURITE)/node_modules/.bin/azurite-blob $(STORE_TESTS)

# Each target for so long. A crash ends it; its input is in fuzz/artifacts.
FUZZ_SECONDS := 60
fuzz:
	scripts/setup build
	command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	set -e; cd fuzz; for target in $$(cargo fuzz list); do \
	  TMPDIR=/dev/shm RUSTC_BOOTSTRAP=1 cargo fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS); \
	done

bench: build
	scripts/setup bench
	bench/run $(RELEASE)
	bench/build $(RELEASE)
	bench/registry $(RELEASE)
	bench/transfer $(RELEASE)

# The Dockerfiles of the tests, built by Yare and by others: buildah, and the BuildKit in a dockerd of 23 or later
# (YARE_REFERENCE_DOCKERD) that is asked with buildx (YARE_TEST_DOCKER_PLUGINS: its folder).
compare-builds:
	scripts/setup test
	cargo build --locked --package yare
	YARE_REQUIRE_ROOT=1 YARE_COMPARE_ROWS=all YARE_BIN=$(CURDIR)/$(DEBUG) cargo test --locked --package yare-testkit --test e2e -- builds_the_same

# The tests under pure cgroup v2 and an older kernel, in a virtual machine without acceleration.
vm-v2: build
	scripts/setup vm
	scripts/vm-v2 $(RELEASE)

dist:
	cargo build --profile dist --locked --package yare

clean:
	cargo clean
