# SPDX-License-Identifier: Apache-2.0
# make setup      installs what the build needs (Concurrency Kit, xxHash, simdjson), through apt
# make run        builds the filter and conflates a real stream for some seconds
# make demo       10,000 simulated sensors on a web page: builds and starts `dedupe serve`, prints
#                 the address, and ends with Ctrl-C                    (LISTEN=127.0.0.1:8080)
# make test       tests of C core, Swift libraries and filter. A line for each program and suite;
#                 all that they print is in .build/test.log   (WERROR=1: warnings are errors;
#                 VERBOSE=1: prints it all; AT_ONCE=2 programs in C)
# make test-all   all that continuous integration needs: the same for all package traits, with the
#                 tests against real etcd clusters, the packages that users of each product fetch,
#                 formats, APIs, documentation, the page in a browser, allocations, instructions,
#                 and the age of the evidence; half an hour from a clean clone
# make test-c     only the C core's tests       (VARIANT=plain|asan|tsan)
# make test-swift only the Swift tests          (SWIFTFLAGS="-c release", "--sanitize=thread", ...,
#                 TRAITS="--traits Etcd")
# make test-serve only the tests of `dedupe serve`        (CLIENTS=100; the full form has 1000)
# make test-page  the page of `dedupe serve` in a real browser, Debian's chromium; half a minute
# make etcd-faults     a cluster with random faults beside random writes     (MINUTES=30)
# make examples   builds and runs the example programs in C, C++, Python, Rust and Swift;
#                 `make test` runs it
# make test-install   the installed C library as a user's build finds it: pkg-config, CMake,
#                 uninstall
# make test-quick the short forms of the targets that follow; `make test` runs it
# make fuzz       libFuzzer on the core and on the filter's parser
#                 (SECONDS=60 each, JOBS=1; more in Tests/Fuzz/Makefile)
# make model      the protocol as Promela models: large configurations, and mutants that must fail;
#                 half an hour
# make interleavings   every interleaving of short programs, up to three preemptions
# make stress     threads and recorded histories                     (SECONDS=60)
# make shutdown   the end of a buffer at every bad moment
#                 (ROUNDS=10000 of each scene, in C and in Swift)
# make mutants    one mutant at a time, and the test that detects it   (Tests/Mutants/README.md)
# make asan tsan  all tests under AddressSanitizer and UBSan, or ThreadSanitizer; Swift in debug and
#                 release
# make test-valgrind   the C tests under memcheck
# make test-arm64 seven of the C core's test programs, cross-compiled, under qemu
# make evidence   the long checks, and the table of their results, Tests/EVIDENCE.md; eight hours
#                 (NAME="hostile bounds" runs only these; Tests/Evidence/evidence list names all)
# make evidence-check  fails if one of them was not run, failed, or is older than a change of
#                 what it covers by more than 20 commits; `make test-all` runs it
# make bench      our figures beside those of the plain port of the original; some minutes
#                 (bench-quick: up to 10^5 keys)
# make bench-filter    10^6 lines of 100 bytes through the filter, in each format, and beside jq,
#                 mawk and mlr
# make bench-hub       one source, many clients: the hub beside a buffer for each client and beside
#                 chains of snapshots; a quarter of an hour
# make bench-etcd      `dedupe etcd` beside etcdctl, with an etcd on loopback; some minutes
# make bench-serve     1,000 clients of `dedupe serve`, 10,000 keys and 5,000 updates a second, with
#                 the server's processor time and memory; some minutes
# make bench-layer     only the Swift layer, beside the core; fails if it allocates too much
# make bench-instructions   instructions per update, which noise does not change
# make bench-check     the same; fails if a case takes more than is allowed
# make bench-plot      pictures of the last `make bench`, by gnuplot
# make abi-check  checks that programs linked with an older C library still work; abi-baseline
#                 records the baseline again
# make check-symbols   checks that every exported C symbol has the prefix, and the soname
# make page       writes the page of `dedupe serve` into the program's source, after a change of it
# make format     formats C, C++ and Swift as .clang-format and .swift-format say
# make format-check    checks the format, and that every file names the licence
# make api-check  checks that the public API is what API/ records, and that nothing is gone that the
#                 last tag had; api-baseline records the API again
# make docs       one site with the Swift libraries, the C API and the man pages, into .build/docs;
#                 warnings are errors, and so are a dead link and a symbol that no list of Topics
#                 has. `python3 -m http.server -d .build/docs` shows the site
# make docs-phone opens each page of the site in a window of 360 pixels, in Debian's chromium, and
#                 fails if a page is wider; some minutes
# make docs-check checks that the code in the documentation compiles, and that the version is the
#                 same everywhere
# make man        man pages of the C library, into .build/c/man
# make install    the C library: header, static and shared library, files for pkg-config and CMake,
#                 and man pages if they were made
#                 (PREFIX=/usr/local, LIBDIR, INCLUDEDIR, MANDIR, DESTDIR)
# make uninstall  removes these files
# make install-filter   the filter with the Swift runtime in it, its manual and completions for
#                 shells; uninstall-filter removes them
#                 (PREFIX=/usr/local, DESTDIR; TRAITS="--traits Etcd,Server" adds `dedupe etcd` and
#                 `dedupe serve`)
# make deb        a Debian package of the filter, the C library and its header, into .build/deb
# make test-deb   installs that package, tries it, and removes it
# make clean      removes everything that was built

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
DESTDIR ?=
# Every release that breaks programs linked with an older release changes this number.
SOVERSION = 0
VERSION := $(shell sed -n 's/^.define CDEDUPE_VERSION "\(.*\)"/\1/p' Sources/CDedupe/include/CDedupe.h)
BUILD = .build/c
CORE = $(wildcard Sources/CDedupe/*/*.c)
CORE_HEADERS = $(wildcard Sources/CDedupe/*/*.h)
CFLAGS ?= -O2 -g
CORE_CFLAGS = -std=c11 -D_GNU_SOURCE -Wall -Wextra $(if $(WERROR),-Werror) -ISources/CDedupe/include -ISources/CDedupe
SWIFTFLAGS ?=
# With WERROR=1, which continuous integration sets, warnings are errors. SwiftPM suppresses the
# warnings of dependencies.
STRICT = $(if $(WERROR),-Xswiftc -warnings-as-errors)
VARIANT ?= plain

PACKAGES = libck-dev libxxhash-dev libsimdjson-dev
# What the trait Etcd needs, and the servers and programs of its tests. Debian's etcd-server starts
# a service on port 2379. The tests do not use it: they start servers on ports of their own.
ETCD_PACKAGES = zlib1g-dev etcd-server etcd-client openssl
SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help setup setup-etcd setup-filter setup-serve run demo page test test-serve test-page bench-serve test-all new-log etcd-faults test-c test-quick test-swift test-arm64 test-valgrind examples examples-c examples-swift test-install asan tsan \
    fuzz model interleavings stress shutdown mutants evidence \
    bench bench-quick bench-layer bench-instructions bench-check bench-plot bench-hub bench-filter bench-etcd \
    format format-check licence-check api-check api-baseline \
    symbol-graph docs docs-check check-symbols abi-check abi-baseline lib man install uninstall clean \
    filter manual install-filter uninstall-filter deb test-deb

help:
	@sed -n '1d; /^#/!q; s/^# //p' Makefile

# Asks apt only for missing packages. On systems without apt, the user installs the packages.
setup:
	@command -v dpkg-query > /dev/null || { echo "needed: $(PACKAGES), under the names that this system has for them"; exit 0; }; \
	missing=$$(for p in $(PACKAGES); do \
	    dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	    $(SUDO) apt-get update -q && \
	    DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -q -y --no-install-recommends $$missing; \
	fi

setup-etcd:
	@$(MAKE) -s setup PACKAGES="$(PACKAGES) $(ETCD_PACKAGES)"

# The whole stream comes in at once, and 800 lines a second go out.
run: setup
	swift build -c release --product dedupe
	@mkdir -p $(BUILD)
	gzip -dc Examples/calico-paths.ndjson.gz | \
	    .build/release/dedupe --max-rate 800 --stats > $(BUILD)/run.ndjson
	@echo "first and last lines out:"
	@head -n 4 $(BUILD)/run.ndjson
	@echo ...
	@tail -n 4 $(BUILD)/run.ndjson
	@echo "lines of other JSON, by a nested key:"
	.build/release/dedupe --key /device/id Examples/devices.ndjson

# Tests/tell runs a program, says in one line how it went, and keeps what it prints in
# .build/test.log.
TELL = @Tests/tell
AT_ONCE ?= $(shell nproc 2> /dev/null || echo 2)

test: setup new-log
	@$(MAKE) -s test-c test-quick check-symbols examples test-swift
	$(said-all)

# The first build of the gRPC stack takes about ten minutes on two cores.
test-all: setup-etcd setup-serve new-log
	@$(MAKE) -s test-c test-quick check-symbols examples
	@$(MAKE) -s test-swift TRAITS=--enable-all-traits
	$(TELL) "page of the server" $(MAKE) test-page TRAITS=--enable-all-traits
	$(TELL) "packages of users, by trait" Tests/Install/traits
	@$(MAKE) -s $(addprefix told-,$(CHECKS))
	$(said-all)

CHECKS = format-check test-install test-deb api-check abi-check man docs bench-layer bench-check evidence-check
.PHONY: $(addprefix told-,$(CHECKS))
$(addprefix told-,$(CHECKS)): told-%:
	$(TELL) "$*" $(MAKE) $*

BEGIN := $(shell date +%s)
said-all = @echo "all passed, in $$(($$(date +%s) - $(BEGIN))) s"
new-log:
	@mkdir -p .build && rm -f .build/test.log

test-c: setup
	@$(MAKE) -j$(AT_ONCE) -C Tests/CDedupeTests run VARIANT=$(VARIANT)
	$(if $(filter plain,$(VARIANT)),@$(MAKE) -j$(AT_ONCE) -C Tests/CDedupeTests run-wrap run-tiny)

# The filter's tests run the executable, which a test build alone would not make.
TRAITS ?=
# The tests of etcd run in a process of their own, because others count the process's open files.
test-swift: setup
	$(TELL) "build of the filter" swift build --product dedupe $(STRICT) $(TRAITS) $(SWIFTFLAGS)
	$(TELL) "build of the Swift tests" swift build --build-tests $(STRICT) $(TRAITS) $(SWIFTFLAGS)
	$(TELL) --suites "Swift tests" swift test --skip-build $(STRICT) $(TRAITS) $(SWIFTFLAGS) --skip DedupeBufferEtcdTests
	$(if $(TRAITS),$(TELL) --suites "Swift tests of etcd" \
	    swift test --skip-build $(STRICT) $(TRAITS) $(SWIFTFLAGS) --filter DedupeBufferEtcdTests)
	$(if $(SWIFTFLAGS),,$(TELL) "code in the documentation" $(MAKE) docs-check TRAITS="$(TRAITS)")

# The clients that the server's tests use.
setup-serve: setup
	@$(MAKE) -s setup PACKAGES="curl nghttp2-client openssl"

CLIENTS ?= 100
test-serve: setup-serve
	swift build --product dedupe --traits Server $(STRICT) $(SWIFTFLAGS)
	DEDUPE_CLIENTS=$(CLIENTS) swift test --traits Server $(STRICT) $(SWIFTFLAGS) --filter DedupeServerTests

test-page: setup
	@$(MAKE) -s setup PACKAGES="chromium chromium-driver"
	swift build --product dedupe $(if $(TRAITS),$(TRAITS),--traits Server) $(STRICT)
	Tests/Browser/page .build/debug/dedupe

page:
	Sources/DedupeServer/Page/generate

# Ctrl-C ends both programs.
LISTEN ?= 127.0.0.1:8080
demo: setup
	swift build -c release --product dedupe --traits Server
	@Examples/Dashboard/fleet | .build/release/dedupe serve --listen $(LISTEN)

# ---- Evidence: the long tests, and their short forms ----

SECONDS ?= 60
JOBS ?= 1
ROUNDS ?= 10000

# The longest comes first, because two run at a time.
QUICK = quick-interleavings quick-model quick-fuzz quick-evidence quick-mutants quick-rows
.PHONY: $(QUICK)
test-quick: setup
	@$(MAKE) -s -j$(AT_ONCE) $(QUICK)

quick-interleavings:
	$(TELL) "interleavings" $(MAKE) -C Tests/Interleavings quick
quick-model:
	$(TELL) "models of the protocol" $(MAKE) -C Tests/Model quick
quick-fuzz:
	$(TELL) "corpus of the fuzzers" $(MAKE) -C Tests/Fuzz replay
quick-mutants:
	$(TELL) "mutants, made and not run" Tests/Mutants/mutants --check
quick-rows:
	$(TELL) "table of the tests" Tests/Docs/rows
quick-evidence:
	$(TELL) "evidence tool" Tests/Evidence/test
	$(TELL) "table of the evidence" Tests/Evidence/evidence check-table

fuzz:
	$(MAKE) -C Tests/Fuzz fuzz SECONDS=$(SECONDS) JOBS=$(JOBS)

model:
	$(MAKE) -C Tests/Model large
	$(MAKE) -C Tests/Model mutants

interleavings:
	$(MAKE) -C Tests/Interleavings full
	$(MAKE) -C Tests/Interleavings mutants

stress: setup
	$(MAKE) -C Tests/CDedupeTests stress SECONDS=$(SECONDS)

shutdown: setup
	$(MAKE) -C Tests/CDedupeTests shutdown ENDS=$(ROUNDS)
	DEDUPE_ROUNDS=$(ROUNDS) swift test --filter ShutdownTests

MINUTES ?= 30
etcd-faults: setup-etcd
	DEDUPE_ETCD_MINUTES=$(MINUTES) swift test --traits Etcd --filter FaultTests

mutants: setup
	Tests/Mutants/mutants

NAME ?=
evidence:
	Tests/Evidence/evidence run $(NAME)

.PHONY: evidence-check
evidence-check:
	Tests/Evidence/evidence check

test-arm64:
	Tests/arm64.sh

test-valgrind: setup
	$(MAKE) -C Tests/CDedupeTests run-valgrind

# Tests/leaks.supp names the leaks of the test runner itself. The filter's tests run the executable,
# which a test build alone would not make.
SWIFT_debug = --sanitize=$1
SWIFT_release = --sanitize=$1 -c release -Xswiftc -enable-testing

asan tsan: setup
	$(MAKE) test-c VARIANT=$@
	for flags in "$(call SWIFT_debug,$(SANITIZER_$@))" "$(call SWIFT_release,$(SANITIZER_$@))"; do \
	    swift build --product dedupe $$flags $(TRAITS) --scratch-path .build/$@ && \
	    LSAN_OPTIONS=suppressions=$(CURDIR)/Tests/leaks.supp DEDUPE_TEST_PATIENCE=600 \
	        swift test $$flags $(TRAITS) --scratch-path .build/$@ || exit 1; \
	done

SANITIZER_asan = address
SANITIZER_tsan = thread

# ---- Benchmarks ----

bench bench-quick bench-layer bench-instructions bench-check bench-plot bench-hub: setup
	$(MAKE) -C Benchmarks setup
	$(MAKE) -C Benchmarks $@

# Each format has 10^6 lines of about 100 bytes, of 10^5 keys. The other programs do the nearest
# thing: they find the key and write the line.
bench-filter: setup
	@$(MAKE) -s setup PACKAGES="jq mawk miller"
	swift build -c release --product dedupe
	Benchmarks/filter .build/release/dedupe $(BUILD)/filter

bench-etcd: setup-etcd
	swift build -c release --product dedupe --traits Etcd
	Benchmarks/etcd .build/release/dedupe $(BUILD)/etcd

bench-serve: setup
	swift build -c release --product dedupe --traits Server
	@mkdir -p $(BUILD)
	$(CC) -O2 -Wall -Wextra -o $(BUILD)/crowd Benchmarks/serve/crowd.c
	Benchmarks/serve/run .build/release/dedupe $(BUILD)/crowd

# ---- Hygiene ----

# The name has the version, because other versions format differently.
CLANG_FORMAT = clang-format-14
SOURCES = find .ci API Documentation Makefile Package.swift Sources Tests Benchmarks Examples -name .build -prune -o -type f
C_SOURCES = $(SOURCES) \( -name '*.[ch]' -o -name '*.[ch]pp' \) -print
SWIFT_SOURCES = $(SOURCES) -name '*.swift' -print

format:
	$(MAKE) setup PACKAGES=$(CLANG_FORMAT)
	$(C_SOURCES) | xargs $(CLANG_FORMAT) -i
	$(SWIFT_SOURCES) | xargs swift format format -i --parallel

format-check: licence-check
	@$(MAKE) -s setup PACKAGES=$(CLANG_FORMAT)
	Tests/Docs/layers
	Sources/DedupeServer/Page/generate --check
	Tests/Docs/columns ':!*.pml' # The models align the names of their steps on the right.
	$(C_SOURCES) | xargs $(CLANG_FORMAT) --dry-run -Werror
	$(SWIFT_SOURCES) | xargs swift format lint --strict --parallel

# Checks every file that is written by hand, except texts and data. An executable file is a script.
licence-check:
	@without=$$($(SOURCES) \( -name '*.swift' -o -name '*.[ch]' -o -name '*.[ch]pp' -o -name '*.pml' -o -name '*.pl' \
	        -o -name '*.sh' -o -name Makefile -o -perm -u+x \) -print | \
	    xargs grep -L '^\(#\|//\|/\*\) SPDX-License-Identifier: Apache-2.0'); \
	if [ -n "$$without" ]; then echo "without a line that names the licence:"; echo "$$without"; exit 1; fi

# This ignores SwiftPM's exit status. With a C++ standard in the manifest, SwiftPM fails for C
# modules, whose graphs are not needed.
define dump-symbol-graph
@mkdir -p $(BUILD) && rm -rf $(SYMBOLS)
@swift package --enable-all-traits $(STRICT) dump-symbol-graph --minimum-access-level public \
    --skip-synthesized-members $1 > $(BUILD)/symbolgraph.log 2>&1; \
for module in DedupeBuffer $(MODULES); do \
    ls $(SYMBOLS)/$$module.symbols.json > /dev/null 2>&1 || { cat $(BUILD)/symbolgraph.log; exit 1; }; done
endef
SYMBOLS = .build/*/symbolgraph
# The modules besides DedupeBuffer. One of them needs a trait, so the first build takes minutes.
MODULES = DedupeBufferService DedupeBufferHub DedupeBufferEtcd

symbol-graph: setup-etcd
	$(call dump-symbol-graph)

api-check api-baseline: symbol-graph lib
	VERSION=$(VERSION) API/api $(@:api-%=%)

# The symbol graph for the documentation also has our extensions of other modules' types. API/api
# does not read that form, so the graph is moved away. The graph of DedupeBuffer is moved last,
# because the names of the others begin with its name.
DOCS = .build/docs
PARTS = $(DOCS)-parts
docs: setup-etcd
	@$(MAKE) -s setup PACKAGES="doxygen mandoc"
	$(call dump-symbol-graph,--emit-extension-block-symbols)
	@rm -rf $(DOCS) $(PARTS)
	@for module in $(MODULES) DedupeBuffer; do \
	    mkdir -p $(PARTS)/$$module && mv $(SYMBOLS)/$$module*.symbols.json $(PARTS)/$$module/ || exit 1; done
	$(call convert,DedupeBuffer)
	$(foreach module,$(MODULES),$(call convert,$(module),--dependency $(PARTS)/DedupeBuffer.doccarchive) &&) true
	docc merge $(foreach module,DedupeBuffer $(MODULES),$(PARTS)/$(module).doccarchive) \
	    --synthesized-landing-page-name dedupe-buffer --output-path $(DOCS)
	Tests/Docs/curated $(DOCS)
	$(MAKE) man
	$(MAKE) manual TRAITS=--enable-all-traits
	VERSION=$(VERSION) Documentation/c-api $(DOCS) $(BUILD)/doxygen-html
	VERSION=$(VERSION) Documentation/site $(DOCS) $(MAN)/*.3 $(BUILD)/dedupe*.1
	Tests/Docs/links $(DOCS)

.PHONY: docs-phone
docs-phone: docs
	@$(MAKE) -s setup PACKAGES="chromium chromium-driver"
	Tests/Docs/phone $(DOCS)

# A module's pages may link to the pages of modules that it depends on, if these were converted
# before.
convert = docc convert Sources/$1/Documentation.docc --fallback-display-name $1 --fallback-bundle-identifier $1 \
    --additional-symbol-graph-dir $(PARTS)/$1 --output-dir $(PARTS)/$1.doccarchive \
    --enable-experimental-external-link-support --warnings-as-errors $2

# Code that needs a trait is checked with TRAITS=--enable-all-traits.
docs-check: setup
	Tests/Docs/names
	Tests/Docs/version
	swift build $(TRAITS)
	Tests/Docs/check $(if $(findstring --enable-all-traits,$(TRAITS)),--all)
	Tests/Docs/examples
	Tests/Docs/readme

# ---- The C library for embedders ----

LIBRARY = $(BUILD)/libcdedupe.so.$(SOVERSION)

lib: $(BUILD)/libcdedupe.a $(LIBRARY) $(BUILD)/cdedupe.pc

# The library's build needs two packages. This says so instead of failing at an include.
$(BUILD)/needs-checked:
	@mkdir -p $(@D)
	@printf '\043include <ck_epoch.h>\n\043include <xxhash.h>\n' | $(CC) -fsyntax-only -x c - 2> /dev/null || { \
	    echo "needed: the headers of Concurrency Kit and xxHash (Debian: libck-dev libxxhash-dev)"; exit 1; }
	@touch $@

$(BUILD)/lib/%.o: Sources/CDedupe/%.c $(CORE_HEADERS) | $(BUILD)/needs-checked
	@mkdir -p $(@D)
	$(CC) $(CORE_CFLAGS) $(CFLAGS) -fPIC -c -o $@ $<

OBJECTS = $(CORE:Sources/CDedupe/%.c=$(BUILD)/lib/%.o)

$(BUILD)/libcdedupe.a: $(OBJECTS)
	$(AR) rcs $@ $^

$(LIBRARY): $(OBJECTS) Sources/CDedupe/exports.map
	$(CC) -shared -Wl,-soname,$(@F) -Wl,--version-script=Sources/CDedupe/exports.map -o $@ $(OBJECTS) -lck -lpthread

# Always made again, because the file names the folders of this call.
.PHONY: $(BUILD)/cdedupe.pc
$(BUILD)/cdedupe.pc: Sources/CDedupe/packaging/cdedupe.pc.in
	@mkdir -p $(@D)
	@sed 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@INCLUDEDIR@|$(INCLUDEDIR)|; s|@VERSION@|$(VERSION)|' $< > $@

# Checks that the exported names have the prefix, and that the shared library has the name that
# programs are linked with.
check-symbols: lib
	@strange=$$(nm -D --defined-only $(LIBRARY) | awk '{print $$3}' | grep -v '^cdedupe_' || true); \
	if [ -n "$$strange" ]; then echo "exported without the prefix: $$strange"; exit 1; fi
	@readelf -d $(LIBRARY) | grep -q 'SONAME.*\[libcdedupe\.so\.$(SOVERSION)\]' || \
	    { echo "the shared library's soname is not libcdedupe.so.$(SOVERSION)"; exit 1; }

# Whether programs that are linked with an older library still work: the types and functions of the
# shared library, as debug information tells them, beside the baseline. A change that breaks
# programs needs a new SOVERSION.
ABI = API/CDedupe.abi
ABI_FLAGS = --drop-private-types
abi-check: lib
	@$(MAKE) -s setup PACKAGES=abigail-tools
	@[ "$$(uname -m)" = x86_64 ] || { echo "the baseline is for x86-64"; exit 0; }; \
	abidiff --headers-dir2 Sources/CDedupe/include $(ABI_FLAGS) $(ABI) $(LIBRARY)

abi-baseline: lib
	@$(MAKE) -s setup PACKAGES=abigail-tools
	abidw --headers-dir Sources/CDedupe/include $(ABI_FLAGS) --no-corpus-path --no-comp-dir-path --drop-undefined-syms \
	    $(LIBRARY) > $(ABI)

CMAKEDIR = $(LIBDIR)/cmake/cdedupe

install: lib
	install -d $(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(CMAKEDIR)
	install -m 644 Sources/CDedupe/include/CDedupe.h $(DESTDIR)$(INCLUDEDIR)/
	install -m 644 $(BUILD)/libcdedupe.a $(DESTDIR)$(LIBDIR)/
	install -m 755 $(LIBRARY) $(DESTDIR)$(LIBDIR)/
	ln -sf $(notdir $(LIBRARY)) $(DESTDIR)$(LIBDIR)/libcdedupe.so
	install -m 644 $(BUILD)/cdedupe.pc $(DESTDIR)$(LIBDIR)/pkgconfig/
	install -m 644 Sources/CDedupe/packaging/cdedupe-config.cmake $(DESTDIR)$(CMAKEDIR)/
	sed 's|@VERSION@|$(VERSION)|' Sources/CDedupe/packaging/cdedupe-config-version.cmake.in \
	    > $(DESTDIR)$(CMAKEDIR)/cdedupe-config-version.cmake
	if [ -d $(MAN) ]; then install -d $(DESTDIR)$(MANDIR)/man3 && install -m 644 $(MAN)/* $(DESTDIR)$(MANDIR)/man3/; fi

uninstall:
	rm -f $(DESTDIR)$(INCLUDEDIR)/CDedupe.h $(DESTDIR)$(LIBDIR)/libcdedupe.a $(DESTDIR)$(LIBDIR)/libcdedupe.so \
	    $(DESTDIR)$(LIBDIR)/$(notdir $(LIBRARY)) $(DESTDIR)$(LIBDIR)/pkgconfig/cdedupe.pc $(DESTDIR)$(MANDIR)/man3/cdedupe*
	rm -rf $(DESTDIR)$(CMAKEDIR)

# ---- The filter for its users ----

# The Swift runtime is in the program, so no toolchain is needed to run it.
FILTER = $(BUILD)/filter-installed/dedupe
HAS_ETCD = $(findstring Etcd,$(TRAITS))$(findstring --enable-all-traits,$(TRAITS))
HAS_SERVER = $(findstring Server,$(TRAITS))$(findstring --enable-all-traits,$(TRAITS))
GENERATED_MANUAL = .build/plugins/GenerateManual/outputs/dedupe/dedupe.1
COMPLETIONS = $(BUILD)/completions

# The trait Etcd links zlib.
setup-filter:
	@$(MAKE) -s setup PACKAGES="$(PACKAGES) $(if $(HAS_ETCD),zlib1g-dev)"

filter: setup-filter
	swift build -c release --product dedupe --static-swift-stdlib --scratch-path .build/static $(STRICT) $(TRAITS)
	@mkdir -p $(dir $(FILTER)) $(COMPLETIONS)
	install -s -m 755 .build/static/release/dedupe $(FILTER)
	for shell in bash zsh fish; do \
	    $(FILTER) --generate-completion-script $$shell > $(COMPLETIONS)/dedupe.$$shell || exit 1; done

manual: setup-filter
	@mkdir -p $(BUILD)
	swift package $(TRAITS) generate-manual --configuration debug > $(BUILD)/manual.log 2>&1 || { cat $(BUILD)/manual.log; exit 1; }
	Sources/dedupe/Manual/manual dedupe $(GENERATED_MANUAL) < Sources/dedupe/Manual/dedupe.1.in > $(BUILD)/dedupe.1
	$(if $(HAS_ETCD),Sources/dedupe/Manual/manual etcd $(GENERATED_MANUAL) \
	    < Sources/dedupe/Manual/dedupe-etcd.1.in > $(BUILD)/dedupe-etcd.1)
	$(if $(HAS_SERVER),Sources/dedupe/Manual/manual serve $(GENERATED_MANUAL) \
	    < Sources/dedupe/Manual/dedupe-serve.1.in > $(BUILD)/dedupe-serve.1)

DATADIR = $(PREFIX)/share
install-filter: filter manual
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(DATADIR)/bash-completion/completions \
	    $(DESTDIR)$(DATADIR)/zsh/site-functions $(DESTDIR)$(DATADIR)/fish/vendor_completions.d
	install -m 755 $(FILTER) $(DESTDIR)$(PREFIX)/bin/dedupe
	install -m 644 $(BUILD)/dedupe.1 $(if $(HAS_ETCD),$(BUILD)/dedupe-etcd.1) \
	    $(if $(HAS_SERVER),$(BUILD)/dedupe-serve.1) $(DESTDIR)$(MANDIR)/man1/
	install -m 644 $(COMPLETIONS)/dedupe.bash $(DESTDIR)$(DATADIR)/bash-completion/completions/dedupe
	install -m 644 $(COMPLETIONS)/dedupe.zsh $(DESTDIR)$(DATADIR)/zsh/site-functions/_dedupe
	install -m 644 $(COMPLETIONS)/dedupe.fish $(DESTDIR)$(DATADIR)/fish/vendor_completions.d/

uninstall-filter:
	rm -f $(DESTDIR)$(PREFIX)/bin/dedupe $(DESTDIR)$(MANDIR)/man1/dedupe.1 $(DESTDIR)$(MANDIR)/man1/dedupe-etcd.1 \
	    $(DESTDIR)$(MANDIR)/man1/dedupe-serve.1 \
	    $(DESTDIR)$(DATADIR)/bash-completion/completions/dedupe $(DESTDIR)$(DATADIR)/zsh/site-functions/_dedupe \
	    $(DESTDIR)$(DATADIR)/fish/vendor_completions.d/dedupe.fish

# Debian's own tools build the package, from debian/, and leave nothing there.
DEB = .build/deb
deb: setup
	@$(MAKE) -s setup PACKAGES="dpkg-dev debhelper"
	rm -rf $(DEB) && mkdir -p $(DEB)
	DEB_RULES_REQUIRES_ROOT=no DEB_OUTPUT=$(CURDIR)/$(DEB) debian/rules binary
	debian/rules clean

test-deb: deb
	@$(MAKE) -s setup PACKAGES="man-db pkg-config"
	Tests/Install/deb $(DEB)/*.deb $(VERSION) $(dir $(realpath $(shell command -v swift)))

# Man pages of the C library, one for each group of functions, from the header's comments.
MAN = $(BUILD)/man
man:
	$(MAKE) -s setup PACKAGES=doxygen
	@rm -rf $(MAN) $(BUILD)/doxygen && mkdir -p $(MAN)
	VERSION=$(VERSION) Sources/CDedupe/packaging/man $(BUILD)/doxygen $(MAN)

# The programs in C and other languages are built against the installed copy, as a user would build
# them, and run. Programs whose compiler is missing are left out. The Swift programs use the
# package.
INSTALLED = $(CURDIR)/$(BUILD)/installed/usr
EXAMPLE_FLAGS = -Wall -Wextra $(if $(WERROR),-Werror) -O2 -I$(INSTALLED)/include
EXAMPLE_LIBS = $(INSTALLED)/lib/libcdedupe.a -lck -lpthread

examples: setup
	$(TELL) "examples in C, C++, Python and Rust" $(MAKE) examples-c
	$(TELL) "examples in Swift" $(MAKE) examples-swift

examples-c:
	$(MAKE) install DESTDIR=$(CURDIR)/$(BUILD)/installed PREFIX=/usr
	for program in embedder counters; do \
	    $(CC) -std=c11 $(EXAMPLE_FLAGS) -o $(BUILD)/$$program Examples/$$program.c $(EXAMPLE_LIBS) && \
	    $(BUILD)/$$program || exit 1; \
	done
	$(CXX) -std=c++17 $(EXAMPLE_FLAGS) -o $(BUILD)/embedder++ Examples/embedder.cpp $(EXAMPLE_LIBS) && $(BUILD)/embedder++
	if command -v python3 > /dev/null; then python3 Examples/embedder.py $(INSTALLED)/lib/libcdedupe.so; fi
	if command -v rustc > /dev/null; then \
	    rustc -O -D warnings -o $(BUILD)/embedder-rust Examples/embedder.rs -L $(INSTALLED)/lib -l static=cdedupe -l ck && \
	    $(BUILD)/embedder-rust; \
	fi

# The installed files for pkg-config and CMake, as a user's build sees them.
test-install: setup
	@$(MAKE) -s setup PACKAGES="cmake pkg-config"
	$(MAKE) install DESTDIR=$(CURDIR)/$(BUILD)/installed PREFIX=/usr
	$(CC) -o $(BUILD)/counters-pc Examples/counters.c $$(PKG_CONFIG_SYSROOT_DIR=$(CURDIR)/$(BUILD)/installed \
	    PKG_CONFIG_PATH=$(INSTALLED)/lib/pkgconfig PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 \
	    pkg-config --cflags --libs cdedupe)
	LD_LIBRARY_PATH=$(INSTALLED)/lib $(BUILD)/counters-pc > /dev/null
	cmake -S Tests/CMake -B $(BUILD)/cmake -DCMAKE_PREFIX_PATH=$(INSTALLED) > /dev/null
	cmake --build $(BUILD)/cmake > /dev/null
	LD_LIBRARY_PATH=$(INSTALLED)/lib $(BUILD)/cmake/cdedupe-user > /dev/null
	$(BUILD)/cmake/cdedupe_static-user > /dev/null
	$(MAKE) uninstall DESTDIR=$(CURDIR)/$(BUILD)/installed PREFIX=/usr
	@left=$$(find $(BUILD)/installed -type f -o -type l); [ -z "$$left" ] || { echo "not uninstalled: $$left"; exit 1; }

examples-swift:
	swift build --package-path Examples/Server --scratch-path .build/server $(STRICT)
	.build/server/debug/RouteServer
	.build/server/debug/TrafficCounters

clean:
	rm -rf .build
