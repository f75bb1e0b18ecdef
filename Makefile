# make demo: one container in its own microVM, beside the host it runs on.
# make test: everything, unit tests and behaviour tests in both modes.
# Both do all their own set-up on a fresh Debian 12 or 13 machine with Rust, as root. `make help`
# lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
RELEASE := $(TARGET)/$(TRIPLE)/release
MANUAL := $(TARGET)/manual
PACKAGED := $(TARGET)/packages
# Before cargo: what it runs, it runs in the testbed.
IN_TESTBED := CARGO_TARGET_$(shell echo $(TRIPLE) | tr a-z- A-Z_)_RUNNER='$(CURDIR)/tests/testbed/run --again --'
BEHAVIOUR_TEST := NACRE_BIN_DIR=$(RELEASE) tests/lane
# A release has nothing of the directories that it was built in.
CARGO_HOME_PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)
BUILD_RELEASE := cargo build --release --locked --config "target.'cfg(target_env = \"gnu\")'.rustflags = [ \
	'--remap-path-prefix=$(CARGO_HOME_PATH)=/cargo', '--remap-path-prefix=$(CURDIR)=/nacre', \
	'--remap-path-prefix=$(TARGET)=/target']"
# The date of what is made from this source, so that it is the same whenever it is made.
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),$(shell stat -c %Y CHANGELOG.md))
manual deb dist: export SOURCE_DATE_EPOCH := $(SOURCE_DATE_EPOCH)
# The engine's tests in which it deals with cgroups, or with mounts of them.
ENGINE_WITH_CGROUP2 := cgroup:: exec:: lifecycle:: cve:: hostile:: looked_at:: mounts:: mount_options:: \
	namespaces:: user_namespaces:: owners:: rootless:: scheduling::
step = @printf '\n\033[1m== %s\033[0m\n' "$(1)" >&2

# The tests in these files of tests/, each a lane of its own; all run, even if one fails.
define behaviour-tests
	@status=0; for lane in $(1); do \
		$(BEHAVIOUR_TEST) "$$lane" cargo test --locked -p nacre-tests --test "$$lane" || status=$$?; \
	done; exit $$status
endef

# What each package is for: building nacre (C libraries of its crates), and the guest kernel.
PACKAGES := build-essential libcap-ng-dev libseccomp-dev \
	bc bison flex libelf-dev xz-utils

# The testbed (a machine with KVM, emulated), and the tests' root file systems.
MACHINES := qemu-system-x86 busybox-static cpio kmod linux-image-amd64 \
	debootstrap e2fsprogs

# What reads the man pages and completions in the tests.
READERS := mandoc zsh fish

# What calls nacre in the tests, and what it is measured beside.
PEERS := podman catatonit netavark aardvark-dns containernetworking-plugins uidmap slirp4netns containerd docker.io crun runc \
	criu systemd dbus

# What shows a page in the tests.
BROWSER := chromium

.PHONY: help build kernel manual demo test check deny unit-test process-test vm-test package-test timed-build \
	fuzz hostile bench install deb dist tree rust setup machines readers peers browser clean

help:
	@sed -n '1,4s/^# //p' Makefile
	@echo 'make build         nacre, its agent and the guest kernel'
	@echo 'make install       install them below $$(DESTDIR)$$(PREFIX), /usr by default'
	@echo 'make deb           a Debian package of them, in target/packages'
	@echo 'make dist          a tarball of them, the same'
	@echo 'make check         formatting, lints, the order of layers, and the crates that nacre is made of'
	@echo 'make unit-test     tests beside the code, without VMs'
	@echo 'make process-test  behaviour tests on this kernel, with Podman, containerd and Docker'
	@echo 'make vm-test       behaviour tests in microVMs: emulated here first, then on KVM'
	@echo 'make fuzz          fuzzing of what takes hostile bytes, a minute long (FUZZ_SECONDS=60)'
	@echo 'make hostile       guests that do everything wrong, five minutes long (HOSTILE_SECONDS=300)'
	@echo 'make package-test  the packages, on fresh Debian systems'
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
		DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -qy --no-install-recommends $$missing >&2; \
	fi
endef

# First of all, since what comes then takes minutes.
rust:
	@needed=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml); \
	found=$$(rustc --version 2>/dev/null | cut -d' ' -f2 || true); \
	if ! printf '%s\n' "$$needed" "$${found:-0}" | sort --version-sort --check=silent; then \
		echo "nacre needs Rust $$needed or later, and here is $${found:-none}: get it by rustup" \
			"(on Debian 13: apt-get install rustup && rustup default stable)" >&2; exit 1; \
	fi

setup: rust
	$(call step,set-up: Debian packages)
	$(call install-missing,$(PACKAGES))

machines: setup
	$(call step,set-up: Debian packages for machines and root file systems)
	$(call install-missing,$(MACHINES))

readers: setup
	$(call step,set-up: Debian packages that read the manual)
	$(call install-missing,$(READERS))

peers: machines
	$(call step,set-up: container programs)
	$(call install-missing,$(PEERS))

browser: setup
	$(call step,set-up: a browser)
	$(call install-missing,$(BROWSER))

kernel: setup
	$(call step,the guest kernel (built once, then cached))
	@guest-kernel-config/build >/dev/null

build: kernel
	$(call step,nacre and its agent)
	$(BUILD_RELEASE) -p nacre -p nacre-agent

# A build without optimization, since it runs once.
manual: setup
	$(call step,man pages and completions)
	@rm -rf $(MANUAL)
	umask 022 && cargo run --locked -p nacre-manual -- $(MANUAL)

PREFIX ?= /usr
# Where Debian's zsh looks for what packages bring, and any zsh for the rest.
ZSH := $(PREFIX)/share/zsh/$(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
install: build manual
	install -D -m 755 $(RELEASE)/nacre $(DESTDIR)$(PREFIX)/bin/nacre
	ln -sf nacre $(DESTDIR)$(PREFIX)/bin/nacre-process
	ln -sf nacre $(DESTDIR)$(PREFIX)/bin/nacre-vm
	install -D -m 755 $(RELEASE)/nacre-agent $(DESTDIR)$(PREFIX)/lib/nacre/nacre-agent
	install -D -m 644 "$$(guest-kernel-config/build 2>/dev/null)" $(DESTDIR)$(PREFIX)/lib/nacre/vmlinux
	install -d -m 755 $(addprefix $(DESTDIR)$(PREFIX)/share/,man/man1 man/man5 bash-completion/completions \
		fish/vendor_completions.d) $(DESTDIR)$(ZSH)
	umask 022 && cp -rP $(MANUAL)/man $(MANUAL)/bash-completion $(MANUAL)/fish $(DESTDIR)$(PREFIX)/share
	install -m 644 $(MANUAL)/zsh/_nacre $(DESTDIR)$(ZSH)/_nacre
	packaging/documents $(DESTDIR)$(PREFIX)/share/doc/nacre

# An installation, from which packages are made.
tree:
	@rm -rf $(PACKAGED)/tree
	@umask 022 && $(MAKE) install DESTDIR=$(PACKAGED)/tree PREFIX=/usr

deb: tree
	$(call step,the Debian package)
	@packaging/pack deb $(PACKAGED)/tree/usr $(PACKAGED)

dist: tree
	$(call step,the tarball)
	@packaging/pack tar $(PACKAGED)/tree/usr $(PACKAGED)

demo: build machines
	$(call step,demo)
	@NACRE_BIN_DIR=$(abspath $(RELEASE)) tests/demo/run

check: setup
	$(call step,formatting and lints and the order of layers)
	@tests/lane formatting cargo fmt --all --check
	@cargo fmt --manifest-path fuzz/Cargo.toml --check
	@cargo metadata --manifest-path fuzz/Cargo.toml --locked --format-version 1 >/dev/null
	@tests/lane lints cargo clippy --workspace --all-targets --locked -- -D warnings
	@tests/lane hostile-guest tests/hostile-guest/build --check
	@tests/lane layers cargo test --locked -p nacre-tests --test layers
	@$(MAKE) deny

# The advisories are asked for where they can be had.
deny:
	@if ! command -v cargo-deny >/dev/null; then \
		echo "skipped: licences, sources and versions of the crates, without cargo-deny (cargo install" \
			"--locked cargo-deny)" >&2; \
	else \
		cargo deny --locked check licenses bans sources; \
		if cargo deny --locked fetch db >/dev/null 2>&1; then cargo deny --locked check advisories; \
		else echo "skipped: advisories, whose database can't be reached" >&2; fi; \
	fi

unit-test: machines readers
	$(call step,unit tests)
	@tests/lane kernel-build guest-kernel-config/test
	@tests/lane unit cargo test --locked -p nacre-tests --test unit
	@tests/lane manual cargo test --locked -p nacre-manual --test manual
	$(call step,engine tests)
	@tests/lane engine cargo test --locked -p nacre-agent --test engine

process-test: build peers
	$(call step,the tests' Debian root file system (made once, then cached))
	@tests/fixtures/debian-rootfs >/dev/null
	$(call step,behaviour tests on this kernel)
	$(call behaviour-tests,host process clients)
	@if ! grep -qsw memory /sys/fs/cgroup/cgroup.controllers; then \
		printf '\n== limits in the testbed, since this host has no cgroup v2 controllers\n' >&2; \
		NACRE_TESTS_AMONG='cgroups:: update:: events:: pause:: systemd:: descriptors::' \
			$(IN_TESTBED) $(BEHAVIOUR_TEST) "process in the testbed" \
			cargo test --locked -p nacre-tests --test process; \
		NACRE_TESTS_AMONG='podman::few::under_systemd podman::rootless::limits' \
			$(IN_TESTBED) $(BEHAVIOUR_TEST) "clients in the testbed" \
			cargo test --locked -p nacre-tests --test clients; \
	fi

vm-test: build peers browser
	$(call step,the tests' Debian root file system (made once, then cached))
	@tests/fixtures/debian-rootfs >/dev/null
	$(call step,behaviour tests in microVMs)
	$(call behaviour-tests,emulated vm)
	@# Without these controllers the engine's tests of limits have skipped themselves above. With
	@# version 2 the engine also goes other ways in what comes here; the rest is as it was above.
	@if ! grep -qsw memory /sys/fs/cgroup/cgroup.controllers; then \
		printf '\n== engine tests in the testbed, since this host has no cgroup v2 controllers\n' >&2; \
		NACRE_TESTS_AMONG="$(ENGINE_WITH_CGROUP2) $$(tests/lane --skipped engine | xargs)" \
			$(IN_TESTBED) tests/lane "engine in the testbed" cargo test --locked -p nacre-agent --test engine; \
	fi

package-test: deb dist machines
	$(call step,the packages on fresh Debian systems)
	@NACRE_PACKAGES=$(PACKAGED) tests/lane packages cargo test --locked -p nacre-tests --test packages

# What came of the lanes is said at the end, also if one failed.
test:
	@tests/lane --forget; status=0; \
	$(MAKE) check unit-test fuzz timed-build process-test vm-test package-test || status=$$?; \
	printf '\n== what ran\n'; tests/lane --summary; exit $$status

timed-build:
	@tests/lane build $(MAKE) build

# How long all targets together run, in seconds.
FUZZ_SECONDS ?= 60
fuzz: setup
	$(call step,fuzzing)
	@tests/lane fuzz fuzz/run --seconds $(FUZZ_SECONDS)

# In machines that QEMU emulates, or with HOSTILE_ON=vm on KVM: as many runs of a minute or two as it takes,
# each from another seed, until one fails.
HOSTILE_SECONDS ?= 300
HOSTILE_ON ?= emulated
hostile: build machines
	$(call step,hostile guests)
	@tests/fixtures/debian-rootfs >/dev/null
	@export NACRE_BIN_DIR=$(RELEASE); end=$$((SECONDS + $(HOSTILE_SECONDS))); \
	while left=$$((end - SECONDS)); ((left > 0)); do \
		NACRE_HOSTILE_SECONDS=$$((left < 100 ? left : 100)) \
			cargo test --locked -p nacre-tests --test $(HOSTILE_ON) -- hostile::; \
	done

bench: build peers
	$(call step,measurements)
	$(BUILD_RELEASE) -p nacre-benches
	@NACRE_BIN_DIR=$(abspath $(RELEASE)) benches/run

clean:
	cargo clean
