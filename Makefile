# imgbox: two commands to know are `make demo` and `make test`. Each installs the Debian packages that it lacks.

PREFIX ?= /usr/local
SWIFT ?= swift
STATIC = -c release --static-swift-stdlib -Xswiftc -static-executable
BUILT = .build/release/imgbox
IMGBOX = .build/imgbox

BUILD_PACKAGES = libarchive-dev libzstd-dev zlib1g-dev libbz2-dev liblzma-dev nettle-dev libseccomp-dev libacl1-dev binutils file
DEMO_PACKAGES = busybox-static
TEST_PACKAGES = $(DEMO_PACKAGES) attr acl bzip2 xz-utils zstd runc skopeo umoci util-linux procps python3 uidmap gcc libc6-dev e2fsprogs podman bubblewrap systemd-container golang-github-containers-common dbus python3-dbus python3-gi
BENCH_PACKAGES = $(TEST_PACKAGES) hyperfine runc crun bubblewrap podman mmdebstrap time gcc libc6-dev

.PHONY: fuzz build demo test test-v2 bench lint format install man completions clean packages-% check-static

build: packages-build $(IMGBOX)

# SwiftPM knows what is out of date; it is always asked.
.PHONY: $(BUILT)
$(BUILT):
	@echo "building imgbox"; $(SWIFT) build $(STATIC) >.build-log 2>&1 || { cat .build-log; rm -f .build-log; exit 1; }; rm -f .build-log

$(IMGBOX): $(BUILT)
	@strip -o $@ $(BUILT)

packages-build: ; @sh Tests/Tools/install-packages $(BUILD_PACKAGES)
packages-demo: ; @sh Tests/Tools/install-packages $(BUILD_PACKAGES) $(DEMO_PACKAGES)
packages-test: ; @sh Tests/Tools/install-packages $(BUILD_PACKAGES) $(TEST_PACKAGES)
packages-bench: ; @sh Tests/Tools/install-packages $(BUILD_PACKAGES) $(BENCH_PACKAGES)

demo: packages-demo $(IMGBOX)
	@sh Tests/Tools/demo $(IMGBOX)

test: packages-test $(IMGBOX) check-static
	@IMGBOX=$(CURDIR)/$(IMGBOX) sh Tests/Tools/test $(SWIFT)

# The tests of limits and namespaces on a pure cgroup v2 host: a VM, of Debian 13's kernel or with KERNEL=6.1 of Debian 12's.
KERNEL ?= 6.12
test-v2: packages-test $(IMGBOX)
	@sh Tests/Tools/test-v2 $(CURDIR)/$(IMGBOX) $(SWIFT) $(KERNEL)

# One static file: no interpreter, no shared library, neither full Foundation nor ICU.
check-static: $(IMGBOX)
	@sh Tests/Tools/check-static $(BUILT)

bench: packages-bench $(IMGBOX)
	@python3 Tests/Benchmarks/bench.py --imgbox $(CURDIR)/$(IMGBOX)

# libFuzzer on the decoders, SECONDS each; it stops at the first crash.
SECONDS ?= 60
fuzz: packages-build
	@for name in documents tar; do \
	    IMGBOX_FUZZ=1 $(SWIFT) build --scratch-path .build-fuzz --product fuzz-$$name -Xswiftc -sanitize=fuzzer >.build-log 2>&1 || { cat .build-log; exit 1; }; \
	    mkdir -p .build-fuzz/corpus-$$name; \
	    tar -czf .build-fuzz/corpus-tar/seed.tar.gz Makefile 2>/dev/null; tar -cf .build-fuzz/corpus-tar/seed.tar Tests/Tools 2>/dev/null; \
	    .build-fuzz/debug/fuzz-$$name -max_total_time=$(SECONDS) -rss_limit_mb=4096 .build-fuzz/corpus-$$name || exit 1; \
	done

lint:
	@$(SWIFT) format lint --strict --recursive --parallel Sources Tests Package.swift

format:
	@$(SWIFT) format --in-place --recursive --parallel Sources Tests Package.swift

man: $(IMGBOX)
	@mkdir -p .build/man && $(IMGBOX) manual > .build/man/imgbox.1

completions: $(IMGBOX)
	@mkdir -p .build/completions
	@for shell in bash zsh fish; do $(IMGBOX) --generate-completion-script $$shell > .build/completions/imgbox.$$shell; done

install: $(IMGBOX) man completions
	install -D -m 755 $(IMGBOX) $(DESTDIR)$(PREFIX)/bin/imgbox
	install -D -m 644 .build/man/imgbox.1 $(DESTDIR)$(PREFIX)/share/man/man1/imgbox.1
	install -D -m 644 .build/completions/imgbox.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/imgbox
	install -D -m 644 .build/completions/imgbox.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_imgbox
	install -D -m 644 .build/completions/imgbox.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/imgbox.fish

clean:
	rm -rf .build .build-log
