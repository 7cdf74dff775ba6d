# Everything a newcomer types. Each target installs what it needs and says so.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PACKAGES := build-essential cmake iproute2 nghttp2-client curl strace procps systemd openssl testssl.sh slowhttptest haproxy
PROFILE ?= quick

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

packages: ## install the Debian packages that building and testing need
	@integration/run/packages $(PACKAGES)
	@[ -x /usr/sbin/nginx ] || integration/run/packages nginx-light # Debian has several; any will do

build: packages ## the two programs, optimised, in target/release
	cargo build --release --bin edged --bin edgectl

run: packages ## serve examples/quickstart on loopback, unprivileged
	@integration/run/quickstart

demo: packages ## the same as root, in network namespaces: client, edge, two backends
	@integration/run/demo

test: packages ## format, lints, unit, golden, property and scenario tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo build --workspace --bins
	cargo test --workspace

bench: packages ## Edge beside its peers, into docs/performance.md; ROUNDS=2 is quick
	@integration/bench/run

fuzz: packages ## every fuzz target for SECONDS_EACH seconds (60); the tests run each for a bounded number of inputs
	@integration/run/fuzz

tls-check: packages ## every check of testssl.sh; the tests make those that matter most
	cargo test -p edge-integration --test testssl -- --include-ignored --nocapture

conformance: packages ## the Gateway API's own suite on a real control plane; RUN=regex for some of it
	@integration/run/conformance

kubernetes-demo: packages ## what is promised of Kubernetes, on a real control plane; about an hour, or OUTAGE=1
	@integration/run/kubernetes-demo

soak: packages ## Edge at 60 % load while everything changes; MINUTES=10
	@integration/bench/soak

audit: ## licences, sources, bans and known vulnerabilities of every dependency
	@integration/run/audit

.PHONY: help packages build run demo test bench fuzz tls-check conformance kubernetes-demo soak audit
