# aishim. `make` builds everything into dist/, `make help` lists the rest.
#
# Each goal first checks that the machine has what it needs, and says in one line how to bring what is missing.

SHELL := /bin/bash
.DEFAULT_GOAL := build
.NOTPARALLEL:

PREFIX ?= $(HOME)/.local
export CARGO_FLAGS ?= --locked

# A toolchain that rustup has just installed is not on the PATH of the shell that installed it.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

target := $(or $(CARGO_TARGET_DIR),target)
# Not every shell expands the ~ of `make install PREFIX=~/.local`.
prefix := $(DESTDIR)$(patsubst ~/%,$(HOME)/%,$(PREFIX))

.PHONY: build demo test lint loom docs soak bench bench-check install uninstall release clean help

build: ## everything into dist/: libaishim.so, aictl, aischedd, include/, sim/, examples/
	@scripts/setup.sh build
	cargo build $(CARGO_FLAGS) --release -p aishim -p aictl -p aischedd -p simcuda -p aishim-examples
	@scripts/dist.sh $(target)/release

demo: build ## the main job: a program under the preload and what aictl shows of it; on a simulated GPU if there is none
	@scripts/demo.sh

lint: build ## formatting, clippy, docs/hooks.md equal to the hook table, what the library needs
	@scripts/setup.sh lint
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings
	cargo test $(CARGO_FLAGS) --quiet -p aishim --lib hooks_doc
	@scripts/check-needed.sh dist/libaishim.so

test: ## lint, then every test; needs no GPU
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory lint
	@scripts/fetch-cudart.sh
	cargo test $(CARGO_FLAGS) --workspace --no-fail-fast
	@$(MAKE) --no-print-directory loom

# --cfg loom changes every crate below, hence a target folder of its own; full optimisation would cost more than it saves.
loom: ## all interleavings of what is lock-free
	RUSTFLAGS='--cfg loom' CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	    cargo test $(CARGO_FLAGS) --release --target-dir $(target)/loom -p aishim-pool --test loom

docs: ## docs/hooks.md anew from the hook table
	UPDATE_DOCS=1 cargo test $(CARGO_FLAGS) --quiet -p aishim --lib hooks_doc

soak: build ## what takes long: SOAK_ROUNDS (10) rounds of all tests, loom further, the fuzz targets
	@scripts/setup.sh test
	@scripts/fetch-cudart.sh
	@scripts/soak.sh

bench: build ## criterion benches
	cargo bench $(CARGO_FLAGS) -p aishim-benches -p aischedd

bench-check: build ## instructions of one launch against the baseline; UPDATE=1 writes it anew
	@scripts/setup.sh bench-check
	cargo build $(CARGO_FLAGS) --release -p aishim-benches -p null-driver
	@scripts/bench-check.sh $(if $(UPDATE),--update)

# Under sudo there is no toolchain as a rule, so what the user built before is installed.
install: ## the library, its header, aictl and aischedd into PREFIX (~/.local)
	@[ -n "$$SUDO_USER" -a -e dist/aictl -a -e dist/aischedd ] || $(MAKE) --no-print-directory build
	install -D -m 644 dist/libaishim.so $(prefix)/lib/libaishim.so
	install -D -m 755 dist/aictl $(prefix)/bin/aictl
	install -D -m 755 dist/aischedd $(prefix)/bin/aischedd
	install -D -m 644 dist/include/aishim.h $(prefix)/include/aishim.h

uninstall: ## takes them out again
	rm -f $(prefix)/lib/libaishim.so $(prefix)/bin/aictl $(prefix)/bin/aischedd $(prefix)/include/aishim.h

release: ## a tarball that runs on glibc 2.28 and newer
	@scripts/setup.sh release
	@scripts/release.sh

clean: ## removes dist/ and what cargo built
	rm -rf dist target
	cargo clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
