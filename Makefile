# What there is to do in this checkout. `make` alone lists it.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help run cluster demo stop test fuzz bench bench-topics chaos check clean

# Every script of the repository starts with this line.
SCRIPTS = $(shell grep -rlx '\#!/usr/bin/env bash' rabbitmq scripts tests/python .ci)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## one instance on port 8080, without a broker (ARGS="--port 9000" for other options)
	cargo run --release --locked -- serve $(ARGS)

cluster: ## RabbitMQ and two instances, on ports 8080 and 8081, until Ctrl-C
	@scripts/cluster

demo: ## the same with two backends that share what clients send to /app/…, see docs/backends.md
	@scripts/cluster demo

stop: ## stop the cluster of this checkout, from any terminal
	@scripts/cluster stop

test: ## all tests, with a real RabbitMQ and a real browser (ARGS=outage: those with "outage" in their name)
	@scripts/test $(ARGS)

fuzz: ## random input for every parser, 60 s each (ARGS=600 for other seconds; FUZZ_SEED=… repeats a run)
	FUZZ_SECONDS=$(or $(ARGS),60) cargo test --profile fuzz --locked --lib fuzz_ -- --nocapture --test-threads 1

bench: ## the table of docs/benchmarks.md, measured here: Warren beside this machine's floor (about 15 minutes)
	cargo build --release --locked
	@scripts/bench $(ARGS)

bench-topics: ## a million subscriptions on two instances, beside the broadcast (ARGS="--topics 1000" for less; about 3 minutes)
	cargo build --release --locked
	@scripts/bench topics $(ARGS)

chaos: ## break a cluster on purpose and count what is lost (ARGS="--seed 7 --delivery stream"), see docs/chaos.md
	cargo build --release --locked
	target/release/warren chaos $(ARGS)

check: ## format, lints, documentation, scripts: what CI asks before the tests
	cargo fmt --all --check
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked
	@for script in $(SCRIPTS); do echo "bash -n $$script"; bash -n "$$script" || exit 1; done
	@if command -v shellcheck; then shellcheck -x $(SCRIPTS); else echo "shellcheck is not installed, so left out"; fi

clean: stop ## stop the cluster, remove everything that was built or stored under target/
	cargo clean
