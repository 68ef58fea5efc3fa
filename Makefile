# The targets install the Debian packages that they need; see scripts/install.sh.
GO ?= go
export CGO_ENABLED ?= 0
# All targets, and the programs that tests build, share compiled packages. Without -trimpath, each
# clone would compile its own.
export GOFLAGS := $(strip $(shell $(GO) env GOFLAGS 2>/dev/null) -trimpath)

FLEET ?= 1000,1000000

.PHONY: help build install demo check test e2e e2e-full fsck-full pictures tutorial bench bench-ui bench-fleet compare load-objects growth connected faults hostile soak hsm signer lint fuzz vendor-roots vendor-web screenshots page-pictures clean install-tools release release-test package-test deploy-test upgrade-test

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

build: ## build the programs of the hub and of the device, statically linked, in build/
	mkdir -p build
	$(GO) build -trimpath -buildvcs=false -ldflags "-s -w $(shell ./scripts/version.sh ldflags)" -o build/ ./cmd/...
	@# gangway carries the programs for images, so that it can build images after it was copied by itself.
	$(GO) run ./internal/carry/pack build/gangway build/gangway-init build/gangway-agent

install: ## install the results of 'make build' below PREFIX (/usr/local): programs, man pages, completions, units; DESTDIR for packages
	@./scripts/make-install.sh "$(or $(BUILD),build)" "$(DESTDIR)" "$(or $(PREFIX),/usr/local)"

demo: build ## run a hub and three devices with software TPMs on this machine
	@./scripts/install.sh demo
	./build/gangway demo $(DEMOFLAGS)

check: ## quick check while you work: formatting, vet, staticcheck, import rules, short tests; installs nothing
	@./scripts/check.sh

test: install-tools ## run all checks and tests, with the race detector; prints at the end how long each stage took
	./scripts/test.sh

e2e: install-tools ## install an emulated machine from a stick until the hub lists it, and print how many seconds each step takes
	GANGWAY_E2E_FULL=yes GANGWAY_TIMED=yes $(GO) test -count=1 -v -timeout 20m -run '^Test(StickToDeviceList|ManualInstallation|EncryptedInstallation)$$' ./internal/qemu

e2e-full: install-tools ## run all tests with emulated machines, and all pages in all sizes, with CUTS (default 20) power cuts; takes two hours
	GANGWAY_E2E_FULL=yes GANGWAY_POWER_CUTS=$(or $(CUTS),20) $(GO) test -count=1 -v -timeout 180m ./internal/qemu
	GANGWAY_E2E_FULL=yes $(GO) test -count=1 -timeout 20m -run '^Test.*Pages$$' ./internal/browser
	GANGWAY_E2E_FULL=yes $(GO) test -count=1 -timeout 20m -run '^TestChaptersOfOperationsPage$$' ./internal/docs
	GANGWAY_E2E_FULL=yes $(GO) test -count=1 -timeout 20m -run '^TestNo(Query|Input)IsTheHubsFault$$' ./hub/api
	GANGWAY_E2E_FULL=yes $(GO) test -count=1 -timeout 20m -run '^TestRestoreDrillUnderLoad$$' ./cmd/gangway

fsck-full: ## check that fsck finds each of 200 corruptions
	GANGWAY_FSCK_FULL=yes $(GO) test -count=1 -run '^TestEachCorruptionIsFound$$' ./hub/doctor

pictures: install-tools ## take the screenshots of the installer in docs/pictures
	GANGWAY_E2E_FULL=yes GANGWAY_PICTURES=$(CURDIR)/docs/pictures $(GO) test -count=1 -timeout 20m -run '^Test(StickToDeviceList|MachineWithoutNetworkSaysSo|MachineIsClaimedByTheCodeOnItsScreen|ResetStick)$$' ./internal/qemu

tutorial: ## make the recording, the pictures and the film of docs/tutorial.md from real runs; takes ten minutes
	./scripts/tutorial.sh

lint: ## check formatting, vet, staticcheck and the import rules (internal/walls)
	./scripts/lint.sh

fuzz: install-tools ## run each fuzz target for FUZZTIME (default 10s)
	./scripts/fuzz.sh $(or $(FUZZTIME),10s)

bench: ## measure the CPU time of an enrolment, and the time of the answers about the boots of 1000 devices; prints both and writes build/bench.json
	@./scripts/install.sh demo
	mkdir -p build
	$(GO) run ./internal/bench -o build/bench.json

bench-ui: ## measure how long each page takes in Chromium until it is interactive, with UI_FLEET (default 20000) devices
	@./scripts/install.sh demo
	FLEET=$(or $(UI_FLEET),20000) $(GO) test -run '^$$' -bench '^BenchmarkPages$$' -benchtime 20x ./internal/browser

bench-fleet: ## measure the queries about fleets of FLEET (default 1000,1000000) devices; in SQLite, or with DATABASE=start in PostgreSQL; with ENROL=N also compares N onboardings with those into an empty database, over TLS, without TLS, and only the store's work; with QUESTION only the queries that match this regular expression; writes build/bench-fleet.json; takes 10 minutes
	mkdir -p build
	nice $(GO) run ./internal/bench -fleet $(FLEET) -n 500 -question '$(QUESTION)' -database '$(DATABASE)' -enrol $(or $(ENROL),0) -o build/bench-fleet.json

compare: ## build SPIRE and step-ca, and compare the CPU time of a device's first certificate with theirs; prints a table and writes build/compare.json; the first build takes 15 minutes and needs gcc
	mkdir -p build
	staticcheck=$$($(GO) tool -n staticcheck) && cd internal/compare && $(GO) vet ./... && "$$staticcheck" ./... && \
		$(GO) run . -bin ../../build/compare -o ../../build/compare.json

load-objects: ## upload and download LOAD_MIB (default 10240) MiB of objects, and measure the hub's memory
	GANGWAY_LOAD_MIB=$(or $(LOAD_MIB),10240) $(GO) test -count=1 -v -timeout 60m -run '^TestObjectsGoThroughLittleMemory$$' ./internal/e2e

growth: ## send requests that the hub refuses, at the rate limit, for GROWTH (default 1m); prints how much the database grows, also per day
	GANGWAY_GROWTH=$(or $(GROWTH),1m) $(GO) test -count=1 -v -timeout 60m -run '^TestGrowthOfAMinute$$' ./hub/api

connected: ## keep the connections of CONNECTED (default 100000) devices that report once a minute; prints the latency of the reports and the memory of an idle connection; takes ten minutes
	GANGWAY_CONNECTED=$(or $(CONNECTED),100000) $(GO) test -count=1 -v -timeout 60m -run '^TestConnectedDevices$$' ./internal/e2e

faults: install-tools ## kill hubs and databases, cut their networks and fill their disks, while FAULTS (default 2000) devices onboard and report; prints the longest times without an answer
	GANGWAY_FAULTS=$(or $(FAULTS),2000) $(GO) test -count=1 -v -timeout 60m -run '^TestFaults' ./internal/e2e

hostile: install-tools ## attack a hub with HOSTILE (default 10000) forged requests a second, slow clients and garbage; prints the cost of the attack and how long good devices wait
	GANGWAY_HOSTILE=$(or $(HOSTILE),10000) $(GO) test -count=1 -v -timeout 30m -run '^TestAttackCostsLittle$$' ./internal/e2e

soak: install-tools ## serve devices and refuse attackers for SOAK (default 30m), and check that memory, goroutines, open files and database stay flat
	GANGWAY_SOAK=$(or $(SOAK),30m) $(GO) test -count=1 -v -timeout 25h -run '^TestSoakIsFlat$$' ./internal/e2e

hsm: export GANGWAY_HSM = yes
hsm: install-tools ## test gangway-signer with an HSM (SoftHSM): onboardings with the keys of the root and of the CAs in the HSM, and a manifest with its key there; compiles with cgo
	./scripts/lint.sh
	cd cmd/gangway-signer && CGO_ENABLED=1 $(GO) test -count=1 ./...
	$(GO) test -count=1 -timeout 15m -run '^Test(OnboardingWithCAKeysInAnHSM|ManifestKeyInAnHSM|OperationsKeysOfTheCAs)$$' ./internal/e2e

signer: ## build gangway-signer, for HSMs and clouds, in build/; needs gcc, and links the machine's C library
	mkdir -p build
	cd cmd/gangway-signer && CGO_ENABLED=1 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w $(shell ./scripts/version.sh ldflags)" -o ../../build/ .

release: ## make a release in build/release: programs, Debian packages, an OCI image, a bill of materials and checksums; SIGNER=yes adds gangway-signer, which needs gcc
	GO="$(GO)" ./scripts/release.sh build/release $(if $(SIGNER),-signer)

release-test: ## make a release of the last commit twice, in two folders, and compare the hashes
	GO="$(GO)" ./scripts/release-test.sh

package-test: install-tools ## install, upgrade, remove and purge the Debian packages in an emulated Debian machine; the upgrade starts from the packages of the commit FROM, under load
	GO="$(GO)" FROM="$(FROM)" ./scripts/package-test.sh

# Replicas of two versions work on one database only if the migrations between them allow it, so the
# replicas start from a newer commit.
upgrade-test: build ## upgrade a hub, and then two replicas one after the other, while devices onboard and report, and check that nothing is lost; FROM is the old version: a commit (default 9b7cbcc2; replicas 457c18b4) or the path of a program
	GANGWAY_UPGRADE_FROM=$(or $(FROM),9b7cbcc2) GANGWAY_UPGRADE_REPLICAS_FROM=$(or $(FROM),457c18b4) \
		$(GO) test -count=1 -v -timeout 30m -run '^TestUpgrade(Replicas)?UnderLoad$$' ./internal/e2e

deploy-test: export GANGWAY_DEPLOY = yes
deploy-test: install-tools build ## run the OCI image as contrib/compose and contrib/kubernetes say, in namespaces, with Debian's PostgreSQL
	staticcheck=$$($(GO) tool -n staticcheck) && cd internal/deploy && $(GO) vet ./... && "$$staticcheck" ./... && \
		GANGWAY_E2E_FULL=yes $(GO) test -count=1 -v -timeout 15m ./...

install-tools: ## install the Debian packages that the tests need; other targets do this themselves
	@./scripts/install.sh

screenshots: install-tools ## take screenshots of each page in build/screenshots: light and dark, on a desktop, a phone and a wall screen
	rm -rf build/screenshots
	GANGWAY_SCREENSHOTS=$(CURDIR)/build/screenshots $(GO) test -count=1 -timeout 20m -run '^Test(.*Pages?|.*InBrowser|DevicePagePrintsOneSheetOfEvidence)$$' ./internal/browser

page-pictures: screenshots ## take the screenshots, and put those that the docs show into docs/pictures
	./scripts/page-pictures.sh

vendor-web: ## download the pages' scripts and icons, and the tests' axe-core, from npm, and check their hashes
	./scripts/vendor-web.sh

vendor-roots: ## replace the built-in TPM makers' certificates by those of Debian's package, and write their table
	./scripts/vendor-roots.sh

clean: ## remove build/
	rm -rf build
