# Everything a developer or an operator runs. `make` alone lists the targets.

PREFIX      ?= /usr/local
DESTDIR     ?=
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# A Debian version starts with a digit: without a tag it is the date, below every version to come.
DEB_VERSION ?= $(shell echo '$(VERSION)' | sed 's/^v\([0-9]\)/\1/; t; s/^/0~$(shell git log -1 --format=%cd --date=format:%Y%m%d%H%M 2>/dev/null)./; s/-/./g')
SYSTEMD_DIR ?= $(PREFIX)/lib/systemd/system
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
NFPM        := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4

# A static binary that is the same wherever it is built from the same sources.
TAGS    := osusergo,netgo,sqlite_omit_load_extension
LDFLAGS := -s -w -linkmode external -extldflags=-static -X main.stamped=$(VERSION)
export CGO_ENABLED := 1

.DEFAULT_GOAL := help
.PHONY: help build demo test test-long test-sdk test-host test-monitoring test-report evaluate image lint bench fuzz install uninstall test-install package clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 17

build: ## build the static binary bin/usage-sync
	go build -trimpath -buildvcs=false -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/usage-sync ./cmd/usage-sync

demo: build ## the main job end to end, against a built-in stand-in of OpenRouter
	bin/usage-sync demo

test: ## all tests, with the race detector
	go test -race -timeout 20m ./...
	$(MAKE) test-install

test-long: ## the same with many more crashes and random cases
	go test -race -timeout 120m ./job ./cmd/usage-sync/integration -args -long

SDK := job/openrouter/standin/sdk
test-sdk: ## the stand-in against OpenRouter's own SDK, which refuses what does not fit its schema; needs node and npm
	cd $(SDK) && npm ci --ignore-scripts --no-audit --no-fund --silent
	go run ./$(SDK) node --test $(SDK)/standin.test.js

# The systems that the tests of the host boot: this machine's own, or roots made for them.
BENCH_ROOTS ?= /
BENCH_NEEDS := systemd,mount,procps,man-db,cron,curl,nginx-light,libcap2-bin

bin/.roots/%: # a Debian release by its name, for BENCH_ROOTS
	mkdir -p $(@D)
	mmdebstrap --quiet --variant=apt --include=$(BENCH_NEEDS) $* $@.new
	mv $@.new $@

test-host: package $(filter bin/.roots/%,$(BENCH_ROOTS)) ## units, package, cron and image on a real systemd and a real cron; as root, in a container of its own
	for root in $(BENCH_ROOTS); do \
		go test -count=1 -timeout 15m ./systemd -args -host -root "$$(realpath $$root)" || exit; done
	cd cron/image && go test ./...
	cd cron/check && go test ./...

test-monitoring: ## from a pass to an alert, through real Prometheus, node_exporter and Alertmanager (Debian's packages)
	go test -timeout 5m -count 1 -run TestMonitoring ./cmd/usage-sync/integration -args -monitoring

test-report: ## statements in a real browser; needs Debian's chromium
	go test -race -timeout 10m -tags chromium -run Browser ./job/report

lint: ## gofmt, go vet and staticcheck, and Kubernetes' own types for its manifest
	@unformatted=$$(gofmt -l cmd job store systemd cron); [ -z "$$unformatted" ] || { echo "not gofmt'ed: $$unformatted" >&2; exit 1; }
	go vet -tags chromium ./...
	go run $(STATICCHECK) -tags chromium ./...
	for module in cron/image cron/check; do (cd $$module && go vet ./... && go run $(STATICCHECK) ./...) || exit; done
	cd cron/check && go run . ../kubernetes.yaml
	sh -n systemd/usage-sync-alert

bench: build ## the figures of the README, measured as whole processes
	go test -run '^$$' -bench . -benchtime 1x -timeout 60m ./...

fuzz: ## look for inputs that break what reads the net, half a minute each
	go test -run '^$$' -fuzz FuzzDecodePage -fuzztime 30s ./job/openrouter
	go test -run '^$$' -fuzz FuzzDecodeTable -fuzztime 30s ./job/openrouter
	go test -run '^$$' -fuzz FuzzGuide -fuzztime 30s ./job/webhook
	go test -run '^$$' -fuzz FuzzBroadcast -fuzztime 30s -fuzzminimizetime 1x ./job/webhook
	go test -run '^$$' -fuzz FuzzRequest -fuzztime 30s ./job/httpapi

evaluate: ## what the search for anomalies and the forecast are worth, a table
	go test -count 1 -timeout 60m -v -run '^TestEvaluate$$' ./job/alert -args -evaluate -evaluate-months 30 -evaluate-spikes 300

image: build ## pack the binary and CA roots into an OCI image, bin/usage-sync-image.tar
	cd cron/image && go run . ../../bin/usage-sync '$(VERSION)' ../../bin/usage-sync-image.tar

SHARE    := $(PREFIX)/share
DOC      := $(SHARE)/doc/usage-sync
ZSH_DIR  ?= $(SHARE)/zsh/site-functions
# What alerts link to: a place where people can read the README.
RUNBOOKS ?= file://$(DOC)/README.md
# The time of the sources, so that two packages of them are equal.
EPOCH    := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

# installed names, for each file, the file and where it goes: what install puts there, uninstall removes.
placed    = $(foreach file,$(wildcard $(1)),$(file) $(2)/$(notdir $(file)))
renamed   = $(foreach file,$(wildcard systemd/*.$(1).conf),$(file) $(PREFIX)/lib/$(1).d/$(notdir $(file:.$(1).conf=.conf)))
installed = $(call placed,systemd/*.service systemd/*.timer systemd/*.socket systemd/*.target,$(SYSTEMD_DIR)) \
	$(foreach file,$(wildcard systemd/*.d/*.conf),$(file) $(SYSTEMD_DIR)/$(file:systemd/%=%)) \
	$(call renamed,sysusers) $(call renamed,tmpfiles) \
	$(call placed,systemd/examples/* cron/*.cron cron/*.yaml,$(DOC)/examples) \
	README.md $(DOC)/README.md \
	bin/alerts.yml $(DOC)/monitoring/alerts.yml job/monitor/dashboard.json $(DOC)/monitoring/dashboard.json \
	bin/usage-sync.1 $(SHARE)/man/man1/usage-sync.1 \
	bin/completions.bash $(SHARE)/bash-completion/completions/usage-sync \
	bin/completions.zsh $(ZSH_DIR)/_usage-sync \
	bin/completions.fish $(SHARE)/fish/vendor_completions.d/usage-sync.fish
programs  = bin/usage-sync $(wildcard systemd/usage-sync-alert)

# A program is replaced at one go: a timer may start it at any moment.
install: build ## install binary, units, manual, completions, examples, alert rules (PREFIX, DESTDIR, SYSTEMD_DIR)
	for shell in bash zsh fish; do bin/usage-sync completions $$shell >bin/completions.$$shell || exit; done
	bin/usage-sync man --now "$$(date -u -d @$(EPOCH) +%Y-%m-%dT%H:%M:%SZ)" >bin/usage-sync.1
	sed 's|README.md#|$(RUNBOOKS)#|' job/monitor/alerts.yml >bin/alerts.yml
	set -- $(programs); for program; do to='$(DESTDIR)$(PREFIX)/bin/'"$${program##*/}"; \
		install -D -m 0755 "$$program" "$$to.new" && mv -f "$$to.new" "$$to" || exit; done
	set -- $(installed); while [ $$# -gt 0 ]; do install -D -m 0644 "$$1" '$(DESTDIR)'"$$2" || exit; shift 2; done

uninstall: ## remove what install has put there (the same PREFIX, DESTDIR, SYSTEMD_DIR)
	set -- $(programs); for program; do rm -f '$(DESTDIR)$(PREFIX)/bin/'"$${program##*/}"; done
	set -- $(installed); while [ $$# -gt 0 ]; do rm -f '$(DESTDIR)'"$$2"; shift 2; done
	-rmdir '$(DESTDIR)$(DOC)/examples' '$(DESTDIR)$(DOC)/monitoring' '$(DESTDIR)$(DOC)' 2>/dev/null
	-rmdir $(patsubst systemd/%,'$(DESTDIR)$(SYSTEMD_DIR)/%',$(wildcard systemd/*.d)) 2>/dev/null

test-install: build ## install into a scratch directory and uninstall: nothing may be left but what was there
	@root=$$(mktemp -d)/'a root'; mkdir -p "$$root$(PREFIX)/bin"; echo kept >"$$root$(PREFIX)/bin/other"; set -e; \
	$(MAKE) -s install DESTDIR="$$root"; \
	"$$root$(PREFIX)/bin/usage-sync" --version; \
	set -- $(installed); while [ $$# -gt 0 ]; do cmp "$$1" "$$root$$2"; shift 2; done; \
	$(MAKE) -s uninstall DESTDIR="$$root"; \
	left=$$(cd "$$root" && find . ! -type d -o -name '*usage-sync*'); \
	[ "$$left" = '.$(PREFIX)/bin/other' ] || { echo "left in $$root: $$left" >&2; exit 1; }; \
	rm -r "$${root%/*}"

package: ## build the Debian package bin/usage-sync_VERSION_ARCH.deb
	rm -rf bin/package bin/*.deb
	$(MAKE) install PREFIX=/usr ZSH_DIR=/usr/share/zsh/vendor-completions DESTDIR=bin/package
	gzip -9n bin/package/usr/share/man/man1/usage-sync.1
	find bin/package -exec touch -h -d @$(EPOCH) {} +
	SOURCE_DATE_EPOCH=$(EPOCH) DEB_VERSION='$(DEB_VERSION)' DEB_ARCH="$$(go env GOARCH)" \
		go run $(NFPM) package --config .nfpm/package.yaml --packager deb --target bin/

clean: ## remove what was built
	rm -rf bin
