# Two commands matter: `make demo` and `make test`. Both install what is missing (Debian 12, Ubuntu; Rust
# and root are expected).
SHELL := /bin/bash
TARGET := $(shell rustc -vV | sed -n 's/^host: //p')
RELEASE := target/$(TARGET)/release/yare

.PHONY: build demo test check soak bench dist clean

build:
	cargo build --release --locked --package yare

demo: build
	scripts/demo $(RELEASE)

check:
	cargo fmt --all --check
	cargo xtask check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

test: build
	scripts/setup test
	YARE_REQUIRE_ROOT=1 YARE_BIN=$(CURDIR)/$(RELEASE) cargo test --workspace --locked --no-fail-fast

soak: build
	scripts/setup test
	YARE_REQUIRE_ROOT=1 YARE_SOAK=1 YARE_BIN=$(CURDIR)/$(RELEASE) cargo test --release --locked --package yare-testkit --test e2e -- --ignored --test-threads=1

bench: build
	scripts/setup bench
	bench/run $(RELEASE)

dist:
	cargo build --profile dist --locked --package yare

clean:
	cargo clean
