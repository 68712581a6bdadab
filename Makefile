# The front door. CMake (see CMakePresets.json) does the work; every command here first sets up what it needs.
.DEFAULT_GOAL := release
SHELL := /bin/bash
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)

# setup.sh installs from Debian only what is missing. EXCLAVE_SKIP_SETUP=1 leaves the machine alone.
setup = $(if $(EXCLAVE_SKIP_SETUP),true,scripts/setup.sh $(1))
# Configures once; from then on ninja runs CMake itself when a list of files or a CMake file changes. A build folder
# that came along with a copy or a move of the tree still belongs to the old one: it is made anew.
build = @home=$$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' build/$(1)/CMakeCache.txt 2>/dev/null); \
	if [ -n "$$home" ] && [ ! "$$home" -ef . ]; then rm -rf build/$(1); fi; \
	if [ ! -e build/$(1)/build.ninja ] || [ CMakePresets.json -nt build/$(1)/build.ninja ]; then \
	  cmake --preset $(1) $(CONFIGURE) && touch build/$(1)/build.ninja; fi && \
	cmake --build --preset $(1) --parallel $(JOBS) $(if $(ROOMS),--target $(addsuffix _test,$(ROOMS)))
test = ctest --preset $(1) --parallel $(JOBS) $(if $(ROOMS),-L '^($(subst $(space),|,$(strip $(ROOMS))))$$')
# ROOMS="heap region": only the tests of these folders, and only what they need is built. For asan, tsan, release-test, coverage.
ROOMS ?=
# TIDY='^src/': only these files; TIDY=--changed: only what changed since every check was run whole (.ci/whole). For tidy.
TIDY ?=
# CONFIGURE="-DEXCLAVE_WERROR=ON": further arguments of CMake, when a build folder is made.
CONFIGURE ?=
# MUTANTS='src/region/*' SAMPLE=100 SEED=7: only these files (of the library, or of tools/, malloc/ and loader/), and so many
# mutants of them at random; BUDGET=20: seconds of tests for each. For mutants. SAMPLE=10 SEED=7 for mutants-sample, too;
# without SEED the commit chooses.
MUTANTS ?=
SAMPLE ?=
SEED ?=
BUDGET ?=
# QUICK=1: a rough look in less than 20 s. For bench-exec.
QUICK ?=
empty :=
space := $(empty) $(empty)

.PHONY: help release run test bench bench-quick bench-programs bench-exec bench-count bench-count-check asan tsan \
	clang release-test freestanding coverage format format-check tidy models mutants mutants-sample access-traces \
	fuzz fuzz-replay soak noninterference prove install clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

release: ## (default) build/release/exclave, exclave-loader, libexclave.a, libexclave.so, libexclave_malloc.so
	@$(call setup,build)
	$(call build,release)

run: release ## the main job: seal a real file through untrusted memory and back, quietly and beside an attacker
	@scripts/run-main-job.sh build/release/exclave build/run

test: ## build with debug checks and run all tests; each threat must have been met by one that ran
	@$(call setup,build test exec)
	$(call build,dev)
	@$(call test,dev) $(if $(ROOMS),,--output-junit $(CURDIR)/build/dev/results.xml)
	@$(if $(ROOMS),true,scripts/check_threats.py . build/dev build/dev/results.xml)

mutants: ## take each check of the library out, one at a time: does a test fail? writes build/mutants/report.txt
	@$(call setup,build test)
	@scripts/mutants/mutants.py --jobs $(JOBS) $(if $(MUTANTS),--files $(foreach p,$(MUTANTS),'$(p)')) \
	  $(if $(SAMPLE),--sample '$(SAMPLE)') $(if $(SEED),--seed '$(SEED)') $(if $(BUDGET),--budget '$(BUDGET)')

# Not of heap/, memcall/ and region/: not all of theirs have been tried in one run since they last changed, so one that
# survives would be news of no commit. base/ has headers alone, which a sample leaves out.
SAMPLED := src/access/* src/page/* src/port/* src/slab/* ports/process/*
mutants-sample: ## a dozen of them in two rooms that the commit chooses, on top of what `make test` built; in two minutes
	@$(call setup,build test)
	$(call build,dev)
	@scripts/mutants/mutants.py --jobs $(JOBS) --beside build/dev --rooms 2 --sample '$(or $(SAMPLE),12)' \
	  --seed '$(or $(SEED),commit)' --files $(foreach p,$(or $(MUTANTS),$(SAMPLED)),'$(p)') $(if $(BUDGET),--budget '$(BUDGET)')

bench: ## measure beside glibc, mimalloc, jemalloc, tcmalloc, scudo, with small and huge pages; writes build/bench/report.html and results.json
	@$(call setup,build bench)
	@$(call setup,peers) || echo "bench: going on with the peers that are here"
	$(call build,bench)
	@bench/run.py build/bench

bench-quick: ## the same, roughly, with small pages alone, in less than a minute
	@$(call setup,build bench)
	@$(call setup,peers) || echo "bench: going on with the peers that are here"
	$(call build,bench)
	@bench/run.py build/bench --quick

bench-programs: ## time real programs under libexclave_malloc.so and its peers; writes build/bench/real_programs.json
	@$(call setup,build test programs)
	@$(call setup,peers) || echo "bench: going on with the peers that are here"
	$(call build,release)
	@bench/real_programs.py build/release/libexclave_malloc.so build/bench

bench-exec: ## memory calls, processes and programs natively and under `exclave exec`; writes build/bench/exec_calls.json
	@$(call setup,build bench)
	$(call build,release)
	$(call build,bench)
	@bench/exec_calls.py build/release/exclave build/bench $(if $(QUICK),--quick)

bench-count: ## instructions for one allocation and one free, by callgrind
	@$(call setup,build bench)
	@$(call setup,peers) || echo "bench: going on with the peers that are here"
	$(call build,bench)
	@bench/count.py build/bench

bench-count-check: ## fails when exclave takes more instructions than bench/golden_counts.json allows
	@$(call setup,build bench)
	$(call build,bench)
	@bench/count.py build/bench --check

asan: ## all tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(call setup,build test check)
	$(call build,asan-ubsan)
	@$(call test,asan-ubsan)

tsan: ## all tests under ThreadSanitizer
	@$(call setup,build test check)
	$(call build,tsan)
	@scripts/without_aslr.sh $(call test,tsan)

clang: ## all tests with clang 14, lock annotations checked
	@$(call setup,build test check exec)
	$(call build,dev-clang)
	@$(call test,dev-clang)

release-test: ## all tests on release code
	@$(call setup,build test exec)
	$(call build,release-test)
	@$(call test,release-test)

prove: ## the core's arithmetic proven by Z3, and planted mistakes found (docs/proofs.md)
	@$(call setup,build prove)
	$(call build,prove)
	@build/prove/exclave_prove
	@proofs/check_plants.py build/prove/exclave_prove

freestanding: ## the core alone, as an enclave links it, and its symbols checked
	@$(call setup,build test)
	$(call build,freestanding)
	@$(call test,freestanding)

access-traces: ## the boundary's machine code by g++ and clang, -O2 and -O3, stepped through at every alignment and length
	@$(call setup,build test check)
	@scripts/check_access_traces.sh $(VARIANTS)

coverage: ## the tests of the library, and how much of src/ (ROOMS: of src/ROOM) they execute, held to scripts/coverage_floor.txt
	@$(call setup,build test check)
	$(call build,coverage)
	@find build/coverage -name '*.gcda' -delete
	@$(call test,coverage)
	@scripts/coverage.py build/coverage $(ROOMS)

# A number of whole seconds, minutes or operations above 0; else the command is refused.
number = @[[ "$($(1))" =~ ^[1-9][0-9]{0,11}$$ ]] || { echo "$@: $(1) is '$($(1))', not a whole number above 0" >&2; exit 2; }

SECONDS ?= 60
fuzz: ## SECONDS=60: every fuzz target for so long; a finding stops it and names the input
	$(call number,SECONDS)
	@$(call setup,build test check)
	$(call build,fuzz)
	@scripts/fuzz.sh build/fuzz $(SECONDS) $(JOBS)

fuzz-replay: ## the corpora of the fuzz targets, without libFuzzer
	@$(call setup,build test)
	$(call build,dev)
	@ctest --preset dev --parallel $(JOBS) -L '^fuzz$$'

MINUTES ?= 10
# SECONDS on the command line goes before MINUTES.
soak_time = $(if $(filter command,$(firstword $(origin SECONDS))),--seconds $(SECONDS),--minutes $(MINUTES))
soak: ## MINUTES=10 or SECONDS=n: everything at once beside a hostile host and a scribbling process; and what cannot be
	$(call number,MINUTES)
	$(call number,SECONDS)
	@$(call setup,build test)
	$(call build,dev)
	@build/dev/tests/exclave_soak $(soak_time) & soak=$$!; \
	build/dev/tests/exclave_linearizability $(soak_time); linearizability=$$?; \
	wait $$soak && [ $$linearizability -eq 0 ]

OPERATIONS ?= 1000000
noninterference: ## OPERATIONS=1000000: the same decisions quietly, scribbled over, and without access
	$(call number,OPERATIONS)
	@$(call setup,build test)
	$(call build,release-test)
	@build/release-test/tests/exclave_noninterference $(OPERATIONS)

format: ## put every source into the house style
	@$(call setup,test)
	@scripts/check_format.sh --fix

format-check: ## tell which sources are not
	@$(call setup,test)
	@scripts/check_format.sh

tidy: ## clang-tidy over the library, the ports, the hostile host, the loader and the command line
	@$(call setup,build test check)
	@cmake --preset dev-clang >/dev/null
	@scripts/tidy.sh build/dev-clang '$(TIDY)'

models: ## check the models of the protocols between threads (models/), each by exhaustive search
	@$(call setup,models)
	@scripts/check_models.py

install: release ## into PREFIX (default /usr/local), below DESTDIR if set
	cmake --install build/release --prefix $(PREFIX)

clean: ## remove build/
	rm -rf build
