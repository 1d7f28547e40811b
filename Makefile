# Everything a developer or an operator runs. `make` alone lists the targets.

PREFIX      ?= /usr/local
DESTDIR     ?=
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# A static binary that is the same wherever it is built from the same sources.
TAGS    := osusergo,netgo,sqlite_omit_load_extension
LDFLAGS := -s -w -linkmode external -extldflags=-static -X main.stamped=$(VERSION)
export CGO_ENABLED := 1

.DEFAULT_GOAL := help
.PHONY: help build demo test test-long lint bench fuzz install uninstall clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

build: ## build the static binary bin/usage-sync
	go build -trimpath -buildvcs=false -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/usage-sync ./cmd/usage-sync

demo: build ## the main job end to end, against a built-in stand-in of OpenRouter
	bin/usage-sync demo

test: ## all tests, with the race detector
	go test -race -timeout 20m ./...

test-long: ## the same with many more crashes and random cases
	go test -race -timeout 120m ./job ./cmd/usage-sync/integration -args -long

lint: ## gofmt, go vet and staticcheck
	@unformatted=$$(gofmt -l cmd job store); [ -z "$$unformatted" ] || { echo "not gofmt'ed: $$unformatted" >&2; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...

bench: build ## the figures of the README, measured as whole processes
	go test -run '^$$' -bench . -benchtime 1x -timeout 60m ./...

fuzz: ## look for inputs that break the decoder, a minute
	go test -run '^$$' -fuzz FuzzDecodePage -fuzztime 1m ./job/openrouter

install: build ## install the binary (PREFIX, DESTDIR)
	install -D -m 0755 bin/usage-sync '$(DESTDIR)$(PREFIX)/bin/usage-sync'

uninstall: ## remove the binary (PREFIX, DESTDIR)
	rm -f '$(DESTDIR)$(PREFIX)/bin/usage-sync'

clean: ## remove what was built
	rm -rf bin
