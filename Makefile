# Everything here installs what it needs; see scripts/install.sh.
GO ?= go
export CGO_ENABLED ?= 0

FLEET ?= 1000,1000000

.PHONY: help build demo check test e2e e2e-full pictures bench bench-fleet load-objects growth lint fuzz vendor-roots vendor-web screenshots clean install-tools release release-test package-test

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

build: ## the hub's command and the device's, static, in build/
	mkdir -p build
	$(GO) build -trimpath -buildvcs=false -ldflags "-s -w $(shell ./scripts/version.sh ldflags)" -o build/ ./cmd/...

demo: build ## the whole thing on this machine: hub, three software TPMs, three devices
	@./scripts/install.sh demo
	./build/gangway demo $(DEMOFLAGS)

check: ## while you work: formatting, vet, staticcheck, walls, short tests; installs nothing
	@./scripts/check.sh

test: install-tools ## the whole truth: everything, with the race detector; at the end, where the time went
	./scripts/test.sh

e2e: install-tools ## from a stick to the device list, on an emulated machine, and the seconds that it takes
	GANGWAY_E2E_FULL=yes GANGWAY_TIMED=yes $(GO) test -count=1 -v -timeout 20m -run '^Test(StickToDeviceList|ManualInstallation|EncryptedInstallation)$$' ./internal/qemu

e2e-full: install-tools ## all that is tried on emulated machines, with CUTS (default 20) power cuts: two hours
	GANGWAY_E2E_FULL=yes GANGWAY_POWER_CUTS=$(or $(CUTS),20) $(GO) test -count=1 -v -timeout 180m ./internal/qemu

pictures: install-tools ## what the installer shows on a screen, to docs/pictures
	GANGWAY_E2E_FULL=yes GANGWAY_PICTURES=$(CURDIR)/docs/pictures $(GO) test -count=1 -timeout 20m -run '^Test(StickToDeviceList|MachineWithoutNetworkSaysSo|MachineIsClaimedByTheCodeOnItsScreen|ResetStick)$$' ./internal/qemu

lint: ## formatting, vet, staticcheck and the walls between the packages
	./scripts/lint.sh

fuzz: install-tools ## each fuzz target for FUZZTIME (default 10s)
	./scripts/fuzz.sh $(or $(FUZZTIME),10s)

bench: ## the cost of an enrolment, to the screen and to build/bench.json
	@./scripts/install.sh demo
	mkdir -p build
	$(GO) run ./internal/bench -o build/bench.json

bench-fleet: ## searches and numbers of fleets of FLEET (default 1000,1000000) devices, and build/bench-fleet.json; takes 10 minutes
	mkdir -p build
	nice $(GO) run ./internal/bench -fleet $(FLEET) -n 500 -o build/bench-fleet.json

load-objects: ## LOAD_MIB (default 10240) MiB of objects up and down, and the memory that it takes
	GANGWAY_LOAD_MIB=$(or $(LOAD_MIB),10240) $(GO) test -count=1 -v -timeout 60m -run '^TestObjectsGoThroughLittleMemory$$' ./internal/e2e

growth: ## what refused requests at the rate limit add to the database in GROWTH (default 1m), and would in a day
	GANGWAY_GROWTH=$(or $(GROWTH),1m) $(GO) test -count=1 -v -timeout 60m -run '^TestGrowthOfAMinute$$' ./hub/api

release: ## static programs, Debian packages, an OCI image, a bill of materials and checksums, in build/release
	GO="$(GO)" ./scripts/release.sh build/release

release-test: ## makes a release of the last commit twice, in two folders, and compares the hashes
	GO="$(GO)" ./scripts/release-test.sh

package-test: install-tools ## installs, upgrades, removes and purges the Debian packages in an emulated Debian machine
	GO="$(GO)" ./scripts/package-test.sh

install-tools: ## install from Debian what the tests need; other targets do it themselves
	@./scripts/install.sh

screenshots: install-tools ## each page in light and dark, on a desk, a phone and a wall, in build/screenshots
	rm -rf build/screenshots
	GANGWAY_SCREENSHOTS=$(CURDIR)/build/screenshots $(GO) test -count=1 -timeout 10m -run '^Test(Pages|.*InBrowser)$$' ./internal/browser

vendor-web: ## take the pages' scripts and icons, and the tests' axe-core, from npm again, by version and hash
	./scripts/vendor-web.sh

vendor-roots: ## take the TPM makers' certificates from Debian's package again, with their table
	./scripts/vendor-roots.sh

clean: ## remove build/
	rm -rf build
