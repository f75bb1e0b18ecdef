# make demo: one container in its own microVM, beside the host it runs on.
# make test: everything, unit tests and behaviour tests in both modes.
# Both do all their own set-up on a fresh Debian 12 machine, as root. `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

TRIPLE := $(shell rustc -vV | sed -n 's/^host: //p')
RELEASE := $(or $(CARGO_TARGET_DIR),target)/$(TRIPLE)/release
# Before cargo: what it runs, it runs in the testbed.
IN_TESTBED := CARGO_TARGET_$(shell echo $(TRIPLE) | tr a-z- A-Z_)_RUNNER='$(CURDIR)/tests/testbed/run --'
step = @printf '\n\033[1m== %s\033[0m\n' "$(1)" >&2

# What each package is for: building nacre (C libraries of its crates), building the guest
# kernel, the testbed (a machine with KVM, emulated), and the tests' root file systems.
PACKAGES := build-essential libcap-ng-dev libseccomp-dev \
	bc bison flex libelf-dev xz-utils cpio \
	qemu-system-x86 busybox-static linux-image-amd64 \
	debootstrap

# What calls nacre in the tests, and what it is measured beside.
PEERS := podman catatonit netavark aardvark-dns containernetworking-plugins uidmap containerd docker.io crun runc \
	criu systemd dbus

.PHONY: help build kernel demo test check unit-test process-test vm-test bench install setup \
	peers clean

help:
	@sed -n '1,3s/^# //p' Makefile
	@echo 'make build         nacre, its agent and the guest kernel'
	@echo 'make install       install them below $$(DESTDIR)$$(PREFIX), /usr by default'
	@echo 'make check         formatting and lints'
	@echo 'make unit-test     tests beside the code, without VMs'
	@echo 'make process-test  behaviour tests on this kernel, with Podman, containerd and Docker'
	@echo 'make vm-test       behaviour tests in microVMs: emulated here first, then on KVM'
	@echo 'make bench         measurements, beside crun, runc and QEMU'

define install-missing
	@missing=$$(for p in $(1); do \
		dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || printf '%s ' $$p; done); \
	if [ -z "$$missing" ]; then echo "all here" >&2; \
	elif [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "missing: $$missing" >&2; \
		echo "install them (on Debian, as root: apt-get install $$missing) and try again" >&2; exit 1; \
	else \
		echo "installing $$missing" >&2; \
		apt-get update -q >&2; \
		DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing >&2; \
	fi
endef

setup:
	$(call step,set-up: Debian packages)
	$(call install-missing,$(PACKAGES))

peers: setup
	$(call step,set-up: container programs)
	$(call install-missing,$(PEERS))

kernel: setup
	$(call step,the guest kernel (built once, then cached))
	@guest-kernel-config/build >/dev/null

build: kernel
	$(call step,nacre and its agent)
	cargo build --release --locked -p nacre -p nacre-agent

PREFIX ?= /usr
install: build
	install -D -m 755 $(RELEASE)/nacre $(DESTDIR)$(PREFIX)/bin/nacre
	ln -sf nacre $(DESTDIR)$(PREFIX)/bin/nacre-process
	ln -sf nacre $(DESTDIR)$(PREFIX)/bin/nacre-vm
	install -D -m 755 $(RELEASE)/nacre-agent $(DESTDIR)$(PREFIX)/lib/nacre/nacre-agent
	install -D -m 644 "$$(guest-kernel-config/build 2>/dev/null)" $(DESTDIR)$(PREFIX)/lib/nacre/vmlinux

demo: build
	$(call step,demo)
	@NACRE_BIN_DIR=$(abspath $(RELEASE)) tests/demo/run

check: setup
	$(call step,formatting and lints)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

unit-test: setup
	$(call step,unit tests)
	guest-kernel-config/test
	cargo test --workspace --exclude nacre-tests --locked

process-test: build peers
	$(call step,the tests' Debian root file system (made once, then cached))
	@tests/fixtures/debian-rootfs >/dev/null
	$(call step,behaviour tests on this kernel)
	NACRE_BIN_DIR=$(abspath $(RELEASE)) cargo test --locked -p nacre-tests --no-fail-fast \
		--test host --test process --test clients
	@if ! grep -qsw memory /sys/fs/cgroup/cgroup.controllers; then \
		printf '\n== limits in the testbed, since this host has no cgroup v2 controllers\n' >&2; \
		for tests in cgroups:: update:: events:: pause:: systemd:: descriptors::; do \
			NACRE_BIN_DIR=$(abspath $(RELEASE)) $(IN_TESTBED) \
				cargo test --locked -p nacre-tests --test process -- $$tests; \
		done; \
		NACRE_BIN_DIR=$(abspath $(RELEASE)) $(IN_TESTBED) \
			cargo test --locked -p nacre-tests --test clients -- podman::few::under_systemd; \
	fi

vm-test: build peers
	$(call step,the tests' Debian root file system (made once, then cached))
	@tests/fixtures/debian-rootfs >/dev/null
	$(call step,behaviour tests in microVMs)
	NACRE_BIN_DIR=$(abspath $(RELEASE)) cargo test --locked -p nacre-tests --no-fail-fast \
		--test emulated --test vm
	@# Without these controllers the engine's tests of limits have skipped themselves above.
	@if ! grep -qsw memory /sys/fs/cgroup/cgroup.controllers; then \
		printf '\n== engine tests in the testbed, since this host has no cgroup v2 controllers\n' >&2; \
		$(IN_TESTBED) cargo test --locked -p nacre-agent --test engine; \
	fi

test: check unit-test process-test vm-test

bench: build peers
	$(call step,measurements)
	cargo build --release --locked -p nacre-benches
	@NACRE_BIN_DIR=$(abspath $(RELEASE)) benches/run

clean:
	cargo clean
