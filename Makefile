# One front door for people and for CI. `make help` lists what there is.
#
# Works with GNU make 4.3 and any POSIX shell.

SHELL := /bin/sh
CARGO ?= cargo
.DEFAULT_GOAL := help

.PHONY: help run build test test-upgrade lint fmt bench postgres clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

run: ## build and start Daybook; with nothing configured it makes its own PostgreSQL in ./.daybook
	@if [ -z "$${DATABASE_URL:-}$${DATABASE_URL_FILE:-}" ]; then ./scripts/postgres.sh; fi
	@exec $(CARGO) run --locked --bin daybook -- serve

build: ## the release binary, target/release/daybook
	$(CARGO) build --locked --release --bin daybook

# The tests drive the binary too: it is built before them, so that they find today's.
test: postgres ## every test, against a real PostgreSQL
	$(CARGO) build --locked --bin daybook
	$(CARGO) test --locked --workspace --no-fail-fast

test-upgrade: postgres ## a rolling upgrade: this program and one with a view's version raised, on one database
	DAYBOOK_NEXT=$$(./scripts/next-version.sh) $(CARGO) test --locked -p tests --test daybook processes::upgrade

lint: ## formatting, clippy with warnings denied, dependencies (cargo-deny when it is installed)
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		echo "$(CARGO) deny check bans licenses sources"; \
		$(CARGO) deny --workspace --locked check bans licenses sources; \
	else \
		echo "cargo-deny is not installed: its checks of bans, licences and sources run as tests (tests/tidy/supply.rs)"; \
		echo "$(CARGO) test -p tests --test daybook tidy::supply"; \
		$(CARGO) test --locked -p tests --test daybook tidy::supply; \
	fi

fmt: ## format the code
	$(CARGO) fmt --all

bench: postgres ## measure, and print one table with ratios to the floor of the same run
	$(CARGO) build --locked --release --bin daybook
	$(CARGO) run --locked --release -p tests --bin bench

postgres: ## find PostgreSQL's server programs (15 or newer), or install them with the system's package manager
	@./scripts/postgres.sh

clean: ## remove what was built; ./.daybook with its data stays
	$(CARGO) clean
