# Everything a developer or an operator runs. `make` alone lists the targets.

PREFIX      ?= /usr/local
DESTDIR     ?=
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# A Debian version starts with a digit: without a tag it is the date, below every version to come.
DEB_VERSION ?= $(shell echo '$(VERSION)' | sed 's/^v\([0-9]\)/\1/; t; s/^/0~$(shell git log -1 --format=%cd --date=format:%Y%m%d%H%M 2>/dev/null)./; s/-/./g')
SYSTEMD_DIR ?= $(PREFIX)/lib/systemd/system
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
DEADCODE    := golang.org/x/tools/cmd/deadcode@v0.51.0
GREMLINS    := github.com/go-gremlins/gremlins/cmd/gremlins@v0.6.0
NFPM        := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4

# A static binary that is the same wherever it is built from the same sources.
TAGS    := osusergo,netgo,sqlite_omit_load_extension
LDFLAGS := -s -w -linkmode external -extldflags=-static -X main.stamped=$(VERSION)
export CGO_ENABLED := 1

# Another architecture, as Go names it: make build GOARCH=arm64 CC=aarch64-linux-gnu-gcc. Its files are in bin/arm64, and
# tools run on this machine nevertheless.
GO     := go
NATIVE := env -u GOARCH -u CC go
HOST   := $(shell $(NATIVE) env GOARCH 2>/dev/null)
CROSS  := $(filter-out $(HOST),$(GOARCH))
OUT    := bin$(if $(CROSS),/$(CROSS))

.DEFAULT_GOAL := help
.PHONY: help build built demo test soak test-sdk test-host test-monitoring test-report pictures evaluate image lint bench fuzz mutate install uninstall test-install package test-packages test-arm64 test-engines test-kubernetes clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 17

build: ## build the static binary bin/usage-sync (GOARCH=arm64 CC=aarch64-linux-gnu-gcc: bin/arm64/usage-sync)
	go build -trimpath -buildvcs=false -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $(OUT)/usage-sync ./cmd/usage-sync

built: # for root, whose PATH often has no Go, after "make build"
	@if command -v $(GO) >/dev/null; then $(MAKE) build; \
	else test -x $(OUT)/usage-sync || { echo 'no Go here, and no binary: make build first' >&2; exit 1; }; fi

demo: build ## the main job end to end, against a built-in stand-in of OpenRouter
	bin/usage-sync demo

test: ## all tests that need no root, with the race detector
	go test -race -timeout 20m ./...
	$(MAKE) test-install
	@for tool in mandoc man curl; do command -v $$tool >/dev/null || echo "Not run for want of $$tool: what is tested with it."; done
	@if [ "$$(id -u)" = 0 ]; then echo 'Not run as root: what a file mode keeps others from. An ordinary user runs that.'; \
		else echo 'Not run without root: mounts, and files of other owners. Root runs that.'; fi
	@echo 'Left out: the long forms (make soak), and what needs root or more than Go: make test-host, test-monitoring,' \
		'test-report, test-sdk, test-arm64, test-engines, test-kubernetes.'

# The packages whose tests have a long form.
LONG = $(sort $(dir $(shell grep -rl --include='*_test.go' 'flag.Bool."long"' cmd job store)))
soak: ## the long forms of the tests: many more crashes, random cases and deliveries; hours
	go test -race -timeout 240m -count 1 $(LONG:%=./%) -args -long

SDK := job/openrouter/standin/sdk
test-sdk: ## the stand-in against OpenRouter's own SDK, which refuses what does not fit its schema; needs node and npm
	cd $(SDK) && npm ci --ignore-scripts --no-audit --no-fund --silent
	go run ./$(SDK) node --test $(SDK)/standin.test.js

# The systems that the tests of the host boot: this machine's own, or roots made for them.
BENCH_ROOTS ?= /
BENCH_NEEDS := systemd,mount,procps,man-db,rpm,cron,curl,nginx-light,libcap2-bin

bin/.roots/%: # a Debian release by its name, for BENCH_ROOTS
	mkdir -p $(@D)
	mmdebstrap --quiet --variant=apt --include=$(BENCH_NEEDS) $* $@.new
	mv $@.new $@

bin/.roots/engines-%: BENCH_NEEDS := $(BENCH_NEEDS),docker.io,podman,runc,busybox-static,docker-compose
bin/.roots/engines-%: # the same with Docker and Podman
	mkdir -p $(@D)
	mmdebstrap --quiet --variant=apt --include=$(BENCH_NEEDS)$(if $(filter bookworm,$*),,$(comma)docker-cli) $* $@.new
	mv $@.new $@
comma := ,

# The releases of Debian whose Docker and Podman are tried.
ENGINES ?= bookworm
test-engines: image $(ENGINES:%=bin/.roots/engines-%) ## discover, the image and the compose example with real engines; as root, on benches of their own
	for release in $(ENGINES); do \
		go test -count=1 -timeout 10m -run TestEngines ./systemd -args -host -engines \
			-root "$$(realpath bin/.roots/engines-$$release)" || exit; done

test-host: test-packages $(filter bin/.roots/%,$(BENCH_ROOTS)) ## units, package, cron and image on a real systemd and a real cron; as root, in a container of its own
	for root in $(BENCH_ROOTS); do \
		go test -count=1 -timeout 15m ./systemd -args -host -root "$$(realpath $$root)" || exit; done
	cd cron/image && go test ./...
	cd cron/check && go test ./...

test-monitoring: ## from a pass to an alert, through real Prometheus, node_exporter, Alertmanager and Icinga (Debian's packages)
	go test -timeout 5m -count 1 -run TestMonitoring ./cmd/usage-sync/integration -args -monitoring

test-report: ## statements in a real browser, tables in a real LibreOffice; needs Debian's chromium and libreoffice-calc-nogui, and npm
	cd job/report/testdata/axe && npm ci --ignore-scripts --no-audit --no-fund --silent
	go test -race -timeout 10m -tags chromium -run Browser ./job/report
	go test -timeout 10m -tags chromium -count 1 -run Office ./job/spreadsheet

pictures: ## the picture of a statement that job/report/README.md shows; needs Debian's chromium
	go test -tags chromium -count 1 -run BrowserPicture ./job/report -args -pictures '$(CURDIR)/job/report'

# Imports run one way: cmd -> job -> store. store knows no HTTP, job no flags, no SQL and no exit code, cmd no SQL.
forbidden = $(NATIVE) list -f '{{range .Imports}}{{$$.ImportPath}} {{.}}{{"\n"}}{{end}}' ./$(1)/... | grep -E ' ($(2))$$'

lint: ## what a machine can see: format, vet, staticcheck, imports that run one way, dead code, line length, the manifest, the pages
	@unformatted=$$(gofmt -l cmd job store systemd cron); [ -z "$$unformatted" ] || { echo "not gofmt'ed: $$unformatted" >&2; exit 1; }
	go vet -tags chromium ./...
	go run $(STATICCHECK) -tags chromium ./...
	for module in cron/image cron/check; do (cd $$module && go vet ./... && go run $(STATICCHECK) ./...) || exit; done
	@! { $(call forbidden,store,usage-sync/job.*|usage-sync/cmd.*|net/http|github.com/alecthomas/kong); } || { echo 'store imports what it must not' >&2; exit 1; }
	@! { $(call forbidden,job,usage-sync/cmd.*|database/sql|github.com/alecthomas/kong); } || { echo 'job imports what it must not' >&2; exit 1; }
	@! { $(call forbidden,cmd,database/sql); } || { echo 'cmd imports what it must not' >&2; exit 1; }
	@! grep -rn 'os\.Exit' store job --include='*.go' | grep -v -e _test.go -e standin/sdk/ || { echo 'only cmd ends the process' >&2; exit 1; }
	@dead=$$(go run $(DEADCODE) -tags chromium -test ./...) && [ -z "$$dead" ] || { echo "dead code: $$dead" >&2; exit 1; }
	@long=$$(find cmd job store -name "*.go" ! -name "*_test.go" -exec expand -t4 {} + | awk -f .github/long.awk); [ -z "$$long" ] || { echo "lines that are too long: $$long" >&2; exit 1; }
	cd cron/check && go run . ../kubernetes.yaml
	go test -count=1 -run 'TestPages|TestExported' ./cmd/usage-sync
	for script in systemd/usage-sync-alert .nfpm/stop .nfpm/daemon-reload; do sh -n "$$script" || exit; done

bench: build ## the figures of cmd/usage-sync/README.md, measured as whole processes
	go test -run '^$$' -bench . -benchtime 1x -timeout 60m ./...

fuzz: ## look for inputs that break what reads the net, half a minute each
	go test -run '^$$' -fuzz FuzzDecodePage -fuzztime 30s ./job/openrouter
	go test -run '^$$' -fuzz FuzzDecodeTable -fuzztime 30s ./job/openrouter
	go test -run '^$$' -fuzz FuzzGuide -fuzztime 30s ./job/webhook
	go test -run '^$$' -fuzz FuzzBroadcast -fuzztime 30s -fuzzminimizetime 1x ./job/webhook
	go test -run '^$$' -fuzz FuzzRequest -fuzztime 30s ./job/httpapi

# The files of store that mutate changes. The others' names, joined to one pattern, are left out.
MUTATED ?= money day
mutate: ## change the money's code a little, many times, and list what no test of store notices; minutes
	go run $(GREMLINS) unleash --workers 1 --test-cpu 1 --timeout-coefficient 10 \
		--exclude-files "^($$(ls store | grep '\.go$$' | grep -vxE '($(subst $(space),|,$(strip $(MUTATED))))\.go' | paste -sd '|'))$$" ./store
space := $(subst ,, )

evaluate: ## what the search for anomalies and the forecast are worth, a table
	go test -count 1 -timeout 60m -v -run '^TestEvaluate$$' ./job/alert -args -evaluate -evaluate-months 30 -evaluate-spikes 300

# The architectures of the image. CC_ARCH builds for another one than this machine's.
IMAGE_ARCHS ?= $(HOST)
CC_arm64    ?= aarch64-linux-gnu-gcc
CC_amd64    ?= x86_64-linux-gnu-gcc
binary_of    = bin$(if $(filter-out $(HOST),$(1)),/$(1))/usage-sync

image: ## pack binary and CA roots into an OCI image, bin/usage-sync-image.tar (IMAGE_ARCHS='amd64 arm64' for both)
	$(foreach arch,$(IMAGE_ARCHS),$(MAKE) build GOARCH=$(arch) $(if $(filter-out $(HOST),$(arch)),CC=$(CC_$(arch))) &&) true
	cd cron/image && $(NATIVE) run . '$(VERSION)' ../../bin/usage-sync-image.tar \
		$(foreach arch,$(IMAGE_ARCHS),../../$(call binary_of,$(arch)))

test-kubernetes: ## the manifest at a real API server, which is built in minutes and then cached; needs Debian's etcd-server
	cd cron/check/apiserver && CGO_ENABLED=0 go build -ldflags '-s -w' -o ../../../bin/kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
	cd cron/check && go test -count=1 -run TestAPIServer . -args -apiserver '$(CURDIR)/bin/kube-apiserver'

test-arm64: ## the money's tests and whole passes on an emulated arm64, beside this machine's; needs Debian's cross compiler and qemu-user
	$(MAKE) build GOARCH=arm64 CC=$(CC_arm64)
	GOARCH=arm64 CC=$(CC_arm64) go test -count=1 -timeout 15m -tags $(TAGS) -ldflags '-linkmode external -extldflags=-static' \
		-exec $(QEMU_arm64) ./store
	$(QEMU_arm64) bin/arm64/usage-sync demo
	go test -count=1 -run TestOtherArchitecture ./cmd/usage-sync/integration -args \
		-other '$(CURDIR)/bin/arm64/usage-sync' -emulator $(QEMU_arm64)

QEMU_arm64  ?= qemu-aarch64-static

SHARE    := $(PREFIX)/share
DOC      := $(SHARE)/doc/usage-sync
ZSH_DIR  ?= $(SHARE)/zsh/site-functions
# The pages and their pictures, which keep their places to each other where they are installed, so that their links lead somewhere.
PAGES    := $(wildcard README.md */README.md */*/README.md */*/*.png)
# What alerts link to: a place where people can read job/monitor/README.md.
RUNBOOKS ?= file://$(DOC)/job/monitor/README.md
# The time of the sources, so that two packages of them are equal.
EPOCH    := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

# installed names, for each file, the file and where it goes: what install puts there, uninstall removes.
placed    = $(foreach file,$(wildcard $(1)),$(file) $(2)/$(notdir $(file)))
renamed   = $(foreach file,$(wildcard systemd/*.$(1).conf),$(file) $(PREFIX)/lib/$(1).d/$(notdir $(file:.$(1).conf=.conf)))
installed = $(call placed,systemd/*.service systemd/*.timer systemd/*.socket systemd/*.target,$(SYSTEMD_DIR)) \
	$(foreach file,$(wildcard systemd/*.d/*.conf),$(file) $(SYSTEMD_DIR)/$(file:systemd/%=%)) \
	$(call renamed,sysusers) $(call renamed,tmpfiles) \
	$(call placed,systemd/examples/* cron/*.cron cron/*.yaml,$(DOC)/examples) \
	$(foreach page,$(PAGES),$(page) $(DOC)/$(page)) .github/CHANGELOG.md $(DOC)/CHANGELOG.md \
	bin/alerts.yml $(DOC)/monitoring/alerts.yml job/monitor/dashboard.json $(DOC)/monitoring/dashboard.json \
	bin/usage-sync.1 $(SHARE)/man/man1/usage-sync.1 \
	bin/completions.bash $(SHARE)/bash-completion/completions/usage-sync \
	bin/completions.zsh $(ZSH_DIR)/_usage-sync \
	bin/completions.fish $(SHARE)/fish/vendor_completions.d/usage-sync.fish
programs  = $(OUT)/usage-sync $(wildcard systemd/usage-sync-alert)

# What prints its own manual and completions: a binary for another architecture can't.
RUN := $(if $(CROSS),$(NATIVE) run -tags $(TAGS) -ldflags '-X main.stamped=$(VERSION)' ./cmd/usage-sync,bin/usage-sync)

# A program is replaced at one go: a timer may start it at any moment.
install: built ## install binary, units, manual, completions, examples, alert rules (PREFIX, DESTDIR, SYSTEMD_DIR)
	for shell in bash zsh fish; do $(RUN) completions $$shell >bin/completions.$$shell || exit; done
	$(RUN) man --now "$$(date -u -d @$(EPOCH) +%Y-%m-%dT%H:%M:%SZ)" >bin/usage-sync.1
	sed 's|README.md#|$(RUNBOOKS)#|' job/monitor/alerts.yml >bin/alerts.yml
	set -- $(programs); for program; do to='$(DESTDIR)$(PREFIX)/bin/'"$${program##*/}"; \
		install -D -m 0755 "$$program" "$$to.new" && mv -f "$$to.new" "$$to" || exit; done
	set -- $(installed); while [ $$# -gt 0 ]; do install -D -m 0644 "$$1" '$(DESTDIR)'"$$2" || exit; shift 2; done

uninstall: ## remove what install has put there (the same PREFIX, DESTDIR, SYSTEMD_DIR)
	set -- $(programs); for program; do rm -f '$(DESTDIR)$(PREFIX)/bin/'"$${program##*/}"; done
	set -- $(installed); while [ $$# -gt 0 ]; do rm -f '$(DESTDIR)'"$$2"; shift 2; done
	-find '$(DESTDIR)$(DOC)' -depth -type d -empty -delete
	-rmdir $(patsubst systemd/%,'$(DESTDIR)$(SYSTEMD_DIR)/%',$(wildcard systemd/*.d)) 2>/dev/null

test-install: build ## install into a scratch directory and uninstall: nothing may be left but what was there
	@root=$$(mktemp -d)/'a root'; mkdir -p "$$root$(PREFIX)/bin"; echo kept >"$$root$(PREFIX)/bin/other"; set -e; \
	$(MAKE) -s install GO=none-for-root DESTDIR="$$root"; \
	"$$root$(PREFIX)/bin/usage-sync" --version; \
	set -- $(installed); while [ $$# -gt 0 ]; do cmp "$$1" "$$root$$2"; shift 2; done; \
	$(MAKE) -s uninstall DESTDIR="$$root"; \
	left=$$(cd "$$root" && find . ! -type d -o -name '*usage-sync*'); \
	[ "$$left" = '.$(PREFIX)/bin/other' ] || { echo "left in $$root: $$left" >&2; exit 1; }; \
	rm -r "$${root%/*}"

# Which family of systems: deb or rpm. They look for zsh's completions in different places.
PACKAGER    ?= deb
PACKAGES    ?= $(OUT)
zsh_of_deb  := /usr/share/zsh/vendor-completions
zsh_of_rpm  := /usr/share/zsh/site-functions
# Where the project is at home, for those who publish their packages.
URL         ?=

package: ## build the package of this version (PACKAGER=deb or rpm, GOARCH and CC as for build)
	rm -rf bin/package $(PACKAGES)/*.$(PACKAGER)
	mkdir -p $(PACKAGES)
	$(MAKE) install PREFIX=/usr ZSH_DIR=$(zsh_of_$(PACKAGER)) DESTDIR=bin/package
	gzip -9n bin/package/usr/share/man/man1/usage-sync.1
	find bin/package -exec touch -h -d @$(EPOCH) {} +
	SOURCE_DATE_EPOCH=$(EPOCH) PACKAGE_VERSION='$(DEB_VERSION)' PACKAGE_URL='$(URL)' \
		PACKAGE_ARCH="$$($(NATIVE) version -m $(OUT)/usage-sync | sed -n 's/.*GOARCH=//p')" \
		$(NATIVE) run $(NFPM) package --config .nfpm/package.yaml --packager $(PACKAGER) --target $(PACKAGES)/

test-packages: # what TestPackage installs and upgrades
	for family in deb rpm; do $(MAKE) package PACKAGER=$$family && \
		$(MAKE) package PACKAGER=$$family PACKAGES=bin/previous DEB_VERSION=0~0 || exit; done

clean: ## remove what was built
	rm -rf bin
