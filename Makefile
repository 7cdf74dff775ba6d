# Everything a newcomer types. Each target installs what it needs and says so.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PACKAGES := build-essential cmake python3-minimal iproute2 nghttp2-client curl strace procps systemd openssl testssl.sh slowhttptest haproxy
LAB_PACKAGES := frr bird2 gobgpd keepalived tcpdump
ACME_PACKAGES := pebble caddy knot knot-dnsutils faketime
DASHBOARD_PACKAGES := chromium fonts-dejavu-core
IMAGE_PACKAGES := jq lowdown gpg gpg-agent man-db libcap2-bin skopeo umoci runc mmdebstrap squashfs-tools cryptsetup-bin \
	fdisk dosfstools mtools e2fsprogs cpio kmod zstd gpgv openssh-client
BOOT_PACKAGES := qemu-system-x86 ovmf
PROFILE ?= quick

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

packages: ## install the Debian packages that building and testing need
	@integration/run/packages $(PACKAGES)
	@[ -x /usr/sbin/nginx ] || integration/run/packages nginx-light # Debian has several; any will do

build: packages ## the two programs, optimised, in target/release
	cargo build --release --bin edged --bin edgectl

deb: build image-packages ## a Debian package, its checksums and the list of what is in it, in target/deb; SIGN=key VERSION=1.2 MAINTAINER=…
	images/deb/build target/release target/deb

oci: deb ## a container image from that package, as a folder (OCI image layout) and a tar, in target/oci; no container engine is needed
	images/oci/build target/deb/edge_*_*.deb target/oci

image: deb ## a bootable disk with two slots, and the update for those that run, in target/image; root; KERNEL=linux-image-amd64 SIGN=key
	images/appliance/build target/deb/edge_*_*.deb target/image

run: packages ## serve examples/quickstart on loopback, unprivileged
	@integration/run/quickstart

demo: packages ## the same as root, in network namespaces: client, edge, two backends
	@integration/run/demo

lab: lab-packages ## a data centre in namespaces to play with: two FRR routers, three edges, keepalived; EDGES=2
	@integration/run/lab

lab-down: ## end it
	@integration/run/lab-down

figures: lab-packages ## how fast VIPs leave and move, measured in that data centre, into docs/vips.md; ROUNDS=10 ONLY=planned,killed
	cargo build --profile $(PROFILE) -p edge -p edge-integration --bin edged --bin edgectl --bin demo-backend --bin figures
	target/$(subst dev,debug,$(PROFILE))/figures --rounds $(or $(ROUNDS),10) $(if $(ONLY),--only $(ONLY)) docs/vips.md

acme-figures: acme-packages ## how fast certificates come and what a thousand cost, into docs/certificates-figures.md; CADDY=program
	cargo build --profile $(PROFILE) -p edge -p edge-integration --bin edged --bin edgectl --bin acme-figures
	target/$(subst dev,debug,$(PROFILE))/acme-figures --rounds $(or $(ROUNDS),30) $(if $(CADDY),--caddy $(CADDY)) docs/certificates-figures.md

probe-figures: packages ## what checks of ten thousand endpoints cost, into docs/policies-figures.md; SECONDS_EACH=60
	cargo build --profile $(PROFILE) -p edge -p edge-integration --bin edged --bin edgectl --bin demo-backend --bin probe-figures
	target/$(subst dev,debug,$(PROFILE))/probe-figures --seconds $(or $(SECONDS_EACH),60) docs/policies-figures.md

acme-demo: lab-packages acme-packages ## certificates from nothing on two edges, a crash, why a name has none, a year of 500; PARTS="flow causes year"
	@integration/run/acme-demo

lab-packages: packages
	@integration/run/packages $(LAB_PACKAGES)

acme-packages: packages
	@integration/run/packages $(ACME_PACKAGES)

dashboard-packages: packages
	@integration/run/packages $(DASHBOARD_PACKAGES)

image-packages: packages
	@integration/run/packages $(IMAGE_PACKAGES)
	@integration/run/promtool --fetch

test: lab-packages acme-packages dashboard-packages image-packages ## format, lints, unit, golden, property and scenario tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo build --workspace --bins
	cargo test --workspace --no-fail-fast

image-test: image-packages ## makes that disk twice and compares, and boots it with firmware and processor emulated: first boot, update, roll-back; 15 minutes
	@integration/run/packages $(BOOT_PACKAGES)
	cargo build --workspace --bins
	cargo test --workspace --test appliance -- --ignored --nocapture --test-threads=1

screenshots: dashboard-packages lab-packages ## the pictures of the dashboard in docs/, light and dark, from a running edged
	cargo build --profile $(PROFILE) -p edge -p edge-integration --bin edged --bin edgectl --bin demo-backend --bin screenshots
	target/$(subst dev,debug,$(PROFILE))/screenshots docs

bench: packages ## Edge beside its peers, into docs/performance.md; ROUNDS=2 is quick
	@integration/bench/run

ordeals: lab-packages ## kill -9 again and again, then hours of faults in a data centre, into docs/ordeals.md; KILLS=500 MINUTES=120 SEED=1
	cargo build --profile $(PROFILE) -p edge -p edge-integration --bin edged --bin edgectl --bin demo-backend --bin ordeals
	target/$(subst dev,debug,$(PROFILE))/ordeals --kills $(or $(KILLS),500) --minutes $(or $(MINUTES),120) --seed $(or $(SEED),1) docs/ordeals.md

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

.PHONY: help packages build deb oci image run demo lab lab-down figures acme-figures probe-figures acme-demo lab-packages acme-packages image-packages test image-test dashboard-packages screenshots bench ordeals fuzz tls-check conformance kubernetes-demo soak audit
