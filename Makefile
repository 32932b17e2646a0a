# Two commands set a machine up and do the work:
#   make run    the gateway on this machine, with everything it needs
#   make test   every test, with -race
# Both install what is missing first; that adds nothing noticeable when nothing is.

export PATH := $(PATH):/usr/local/go/bin
export CGO_ENABLED ?= 0

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
TOOLS   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mosaic/tools
ARGS    ?=

.PHONY: run test check bench torture build format vet staticcheck setup-run setup-test setup-check

run: setup-run build
	exec bin/mosaic gateway dev $(ARGS)

build:
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/mosaic ./cmd/mosaic

test: setup-test
	CGO_ENABLED=1 go test -race -timeout 9m ./...

# Exactly what CI would refuse.
check: setup-check format vet staticcheck
	$(MAKE) test

format:
	@out=$$($(TOOLS)/gofumpt-0.12.0 -l .); if [ -n "$$out" ]; then echo "not gofumpt-clean:"; echo "$$out"; exit 1; fi

vet:
	go vet ./...

staticcheck:
	$(TOOLS)/staticcheck-0.8.2 ./...

setup-run setup-test setup-check: setup-%:
	@deploy/dev/setup.sh $*

# Pace, both sides of each comparison in one run. Ratios are what counts; machines are noisy.
bench: setup-test
	go test -run '^$$' -bench . -benchtime 1x -timeout 30m ./internal/bench

# The storms and crash matrices that make test runs small, long.
torture: setup-test
	MOSAIC_TORTURE=1 CGO_ENABLED=1 go test -race -timeout 60m ./internal/enroll ./internal/postgres ./internal/fedapi ./internal/daemon ./deploy/step-ca
	MOSAIC_TORTURE=1 CGO_ENABLED=1 go test -race -timeout 60m -run 'TestRevocationIsLinearizable|TestNoAnswerIsWithoutItsRecord|TestFaultsBetweenGateways|TestRenewalsAndRootRollovers' ./cmd/mosaic
