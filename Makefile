# SPDX-License-Identifier: Apache-2.0
# Every target installs what it lacks, says what and why, and works twice in a row.

GO       ?= go
BIN      := bin/waggle
PACKAGES := clang-19 clang-format-19 llvm-19 libbpf-dev linux-libc-dev bpftool iproute2 nftables iptables keepalived systemd buildah libcap2-bin
VM_PACKAGES := qemu-system-x86 busybox-static kmod zstd xz-utils wireguard-tools ipvsadm
BENCH_PACKAGES := iperf3 wrk
LINT     := .cache/bin/golangci-lint
LINT_VERSION := v2.15.0
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
SOURCES  := $(wildcard bpf/*.c bpf/*.h test/bench/*.c)

IMAGE       ?= localhost/waggle:dev
IMAGE_ARCHS ?= amd64 arm64
IMAGE_TAR   ?= bin/waggle-image.tar
IMAGE_ROOT  ?= bin/image

.DEFAULT_GOAL := build
.PHONY: build generate demo test test-unit test-vm fuzz soak bench bench-instructions lint fmt check-generated clean help packages vm-packages apiserver helm image image-root bench-net bench-packages plots

build: ## the binary bin/waggle; needs only Go
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o $(BIN) ./cmd/waggle

image-root: ## the files of the image for GOARCH, below IMAGE_ROOT; needs only Go
	$(MAKE) build BIN=$(IMAGE_ROOT)/usr/local/bin/waggle
	ln -sfn waggle $(IMAGE_ROOT)/usr/local/bin/kube-proxy

image: ## the image for IMAGE_ARCHS, as the archive IMAGE_TAR: buildah, and no registry (root)
	@scripts/packages buildah
	set -e; for arch in $(IMAGE_ARCHS); do $(MAKE) image-root GOARCH=$$arch IMAGE_ROOT=bin/linux-$$arch/image; done
	scripts/image $(IMAGE_TAR) $(IMAGE) $(IMAGE_ARCHS)

packages:
	@scripts/packages $(PACKAGES)

vm-packages:
	@scripts/packages $(VM_PACKAGES)

bench-packages:
	@scripts/packages $(BENCH_PACKAGES)

apiserver: ## the API server that tests of Kubernetes run against, into .cache (6 minutes, once)
	@$(GO) run ./internal/testbinary/build apiserver >/dev/null

helm: ## helm and a reader of PromQL, that tests of deploy/ run, into .cache (3 minutes, once)
	@$(GO) run ./internal/testbinary/build helm queries >/dev/null

generate: packages helm ## compile the C, write the Go bindings and the pages made of its comments, and the manifests of the chart (committed)
	scripts/generate

demo: packages build ## namespaces, real traffic and a table of who got what (root)
	$(BIN) demo

test: packages vm-packages bench-packages apiserver helm ## everything a machine can show: unit tests, real kernel, generated files (root)
	$(GO) vet -tags privileged ./...
	scripts/test -tags privileged -count 1 -p 1 -timeout 40m ./...
	scripts/check-generated

test-unit: apiserver helm ## the tests that need no root
	scripts/test ./...

test-vm: vm-packages apiserver ## under Debian's kernels in QEMU (root); a part: KERNEL=6.12 PKG=./loader RUN=TestX; LONG=1: hours of what is random
	$(GO) test -tags privileged -count 1 -v -timeout $(if $(LONG),6h,3h) ./test/vm -full $(if $(LONG),-long) \
		$(if $(KERNEL),-kernel '$(KERNEL)') $(if $(PKG),-pkg '$(PKG)') $(if $(RUN),-tests '$(RUN)')

soak: packages ## what takes long (root): 5,000 connections a second, storms of flows, 30M picks amid changes, 20 minutes of churn
	$(GO) test -tags privileged -count 1 -v -timeout 30m ./test/lab -run FollowEachOther -soak 5m
	$(GO) test -tags privileged -count 1 -v -timeout 30m ./dataplane/ebpf -run CountsAreExact -flows 1000000 -together 2m
	$(GO) test -tags privileged -count 1 -v -timeout 30m ./dataplane/ebpf -run SetBeforeOrAfter -picks 30000000
	$(GO) test -tags privileged -count 1 -v -timeout 40m ./test/lab -run NothingGrows -churn 20m

fuzz: packages ## 50M packets through the programs, against a model (root), sockets against packets, and rules files; PACKETS=N SEED=N, FUZZTIME=2m
	$(GO) run ./test/fuzz -packets $(or $(PACKETS),50000000) $(if $(SEED),-seed $(SEED))
	$(GO) test -tags privileged -count 1 -timeout 2h ./dataplane/ebpf -run PickedForAsPackets -socket-cases 5000 $(if $(SEED),-socket-seed $(SEED))
	$(GO) test -run '^$$' -fuzz FuzzYAML -fuzztime $(or $(FUZZTIME),2m) ./sync/file
	$(GO) test -run '^$$' -fuzz FuzzIPVSADM -fuzztime $(or $(FUZZTIME),2m) ./sync/file

bench: packages ## ns a packet, by the kernel's own test runs (root)
	$(GO) run ./test/bench $(BENCH)

bench-instructions: packages vm-packages ## instructions a packet takes by IPVS, nftables and eBPF, in a guest (root); KERNEL=6.1, BENCH="-services 1 -ipv6"
	$(GO) run ./test/instructions $(if $(KERNEL),-kernel '$(KERNEL)') $(BENCH)

bench-net: packages bench-packages build ## real traffic through waggle, nftables and iptables, in network namespaces (root, 25 minutes); BENCH_NET='-repeats 1 -services 1'
	$(GO) run ./test/benchnet $(BENCH_NET)

plots: ## docs/plots/*.svg and the tables of docs/benchmarks.md, out of docs/plots/*.json
	$(GO) run ./test/benchplot

$(LINT):
	@echo "installing golangci-lint $(LINT_VERSION) into .cache/bin: it checks style and the import arrows (3 minutes, once)"
	GOBIN=$(CURDIR)/.cache/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

lint: packages $(LINT) ## golangci-lint, and clang-format on the C
	$(LINT) run --build-tags privileged ./...
	clang-format-19 --dry-run -Werror $(SOURCES)

fmt: packages ## gofmt and clang-format
	gofmt -w $$(git ls-files '*.go')
	clang-format-19 -i $(SOURCES)

check-generated: packages helm ## regenerate and compare with what is committed
	scripts/check-generated

clean: ## remove what was built
	rm -rf bin .cache

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "%-20s %s\n", $$1, $$2}'
