# Levee. `make help` lists the targets.
SHELL := /bin/bash
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X levee/internal/app.Version=$(VERSION)
KILLS ?= 200
SEEDS ?= 10000

RUNS ?= 50
BEFORE ?= HEAD~1

.PHONY: help run run-distributed distributed upgrade build ui test contract browser crowd check lint holes generate bench bench-distributed bench-peers chaos chaos-nodes compat simulate release clean
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

run: ui build ## Serve the product with demonstration data (stop with Ctrl-C)
	./bin/levee demo

run-distributed: ui build ## Serve it on three nodes behind nginx, with MariaDB and Redis (ADDR=127.0.0.1:8080; stop with Ctrl-C)
	go build -o bin/cluster ./tools/cluster
	@exec ./bin/cluster up --with-parent --addr $(or $(ADDR),127.0.0.1:8080)

build: ## Build bin/levee
	@mkdir -p bin
	go build -ldflags '$(LDFLAGS)' -o bin/levee ./cmd/levee

ui: ## Build the pages into ui/dist (needs Node 20 and npm; without them the program serves its API only)
	@if ! command -v npm >/dev/null; then echo "npm is not installed: the pages are left out, the API works"; exit 0; fi; \
	set -e; cd ui; \
	if [ ! -d node_modules ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then npm ci --no-fund --no-audit; fi; \
	(cd .. && go run ./cmd/levee openapi) > openapi.json.new && mv openapi.json.new openapi.json; \
	npm run --silent build

# The race detector leaves out the controls: they run code that was broken on purpose.
test: lint ## Run every test: all suites on both tiers, the race detector on what is concurrent, both SQLite drivers, the pages in a browser
	@go run ./tools/backends check || echo "tests that need what is missing are left out; in CI they fail"
	go test -timeout 30m ./...
	CGO_ENABLED=0 go test -timeout 15m ./internal/platform/db ./internal/order
	@if [ "$$(go env CGO_ENABLED)" = 1 ]; then \
		go test -race -short -skip 'Control|Unfenced|OwnClocks' -timeout 30m ./internal/sale ./internal/gate ./internal/admission ./internal/line ./internal/notify ./internal/tally ./internal/order ./internal/platform/event ./internal/platform/job ./internal/platform/flow \
			./internal/platform/schedule ./internal/platform/redis ./internal/platform/cache ./internal/platform/limit ./internal/platform/lock ./internal/platform/blob ./internal/platform/push; \
	else echo "no C compiler: the race detector is left out"; fi
	@$(MAKE) --no-print-directory distributed browser

CONTRACT ?= 20
contract: ## Hold the house to its OpenAPI document for CONTRACT minutes, with seeds of its own; then schemathesis, where python3 is (docs/contract.md)
	CONTRACT=$(CONTRACT) go test ./test/contract -count=1 -v -timeout $$(( $(CONTRACT) * 2 + 45 ))m -run 'TestContract|TestSchemathesis'

# The suites that ask which tier they stand on; the others are the same on both.
SUITES ?= $(sort $(dir $(shell git grep -l -e platformtest -e LEVEE_TEST_TIER -- 'internal/*_test.go' 'test/contract/*_test.go' ':!internal/platform/backends')))
distributed: ## The suites again on MariaDB and Redis, started for the run (go run ./tools/backends help)
	LEVEE_TEST_TIER=distributed go run ./tools/backends exec -- go test -count=1 -short -timeout 30m $(addprefix ./,$(SUITES))

browser: ## The pages in a real browser; ONLY=room runs a part, BROWSER=none leaves it out (needs Node 20 and a Chromium)
	@if [ "$(BROWSER)" = none ]; then echo "BROWSER=none: the browser tests are left out"; exit 0; fi; set -e; \
	if ! command -v npm >/dev/null; then echo "the browser tests need Node 20 and npm; BROWSER=none leaves them out"; exit 1; fi; \
	./ui/test/browser.sh >/dev/null; \
	$(MAKE) --no-print-directory ui build; \
	cd ui/test && node --test-reporter=spec all.mjs $(ONLY)

crowd: ui build ## Buy in a browser while a crowd stands in the waiting room, and measure (CROWD=50000 PACE=500)
	node ui/test/crowd.mjs

check: lint ## The quick loop: formatting, vet, the house's walls, the rooms and the house (under a minute)
	go test -short . ./internal/app ./internal/sale ./internal/order ./internal/platform/limit ./cmd/...

lint: ## Formatting and vet
	@unformatted="$$(gofmt -l $$(git ls-files '*.go'))"; if [ -n "$$unformatted" ]; then echo "gofmt would change: $$unformatted"; exit 1; fi
	go vet ./...

# The database that is asked: GOVULNDB=https://…, or file:///… where the network is not reached.
holes: ## Ask Go's vulnerability database and npm's advisories for known holes in the libraries (needs the network)
	go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 $(if $(GOVULNDB),-db $(GOVULNDB)) ./...
	cd ui && npm audit --omit=dev

generate: ## Write the goldens of the house anew
	go test ./internal/app -run TestGoldens -update

bench: build ## Measure, each figure beside its limit in one run, and write docs/performance.md's table
	go run ./test/bench -write docs/performance.md

bench-distributed: build ## Measure nodes on MariaDB and Redis; PEERS='-peer NAME=FOLDER' drives other programs beside them (docs/performance.md)
	go run ./test/bench -tier distributed -write docs/performance.md $(PEERS)

PEERS_OF ?= ids locks cache limits jobs api
bench-peers: ## Measure the foundations beside the libraries that others pick, one after another (PEERS_OF='ids locks'), and write their pages
	@for part in $(PEERS_OF); do (cd test/peers && go run ./$$part -write ../../docs/$$part.md) || exit 1; done

chaos: ## Kill the server at random moments, KILLS times
	go test ./test/chaos -timeout 60m -v -args -chaos.kills=$(KILLS)

chaos-nodes: ## Three nodes behind nginx sell 10,000 units to 200,000 buyers under faults, RUNS times; then fail-over and Redis away
	go test ./test/chaos -timeout 120m -v -run 'TestNodes|TestFailover|TestRedisAway' -args -chaos.runs=$(RUNS) $(if $(SEED),-chaos.seed=$(SEED))

upgrade: build ## Replace nodes of the commit BEFORE by today's, one by one, under a crowd, and audit
	go build -o bin/cluster ./tools/cluster
	@set -e; dir=$$(mktemp -d); trap 'git worktree remove --force '$$dir'/tree; rm -rf '$$dir EXIT; \
	git worktree add --quiet --detach $$dir/tree $(BEFORE); \
	(cd $$dir/tree && go build -ldflags "-s -w -X levee/internal/app.Version=$$(git describe --tags --always $(BEFORE))" -o $$dir/before ./cmd/levee); \
	./bin/cluster upgrade --before $$dir/before --after bin/levee

compat: ## Hold triggers against APScheduler from PyPI: 10,000 random ones, over ten zones (COMPAT=-write records what the tests use; needs Python 3)
	go run ./tools/compat $(COMPAT)

simulate: ## Run SEEDS seeds of the simulation
	go test ./internal/sale -run 'TestSimulation' -timeout 60m -v -args -sim.seeds=$(SEEDS)

release: ui ## Build the release binary for this machine into dist/
	@mkdir -p dist
	go build -trimpath -ldflags '$(LDFLAGS)' -o dist/levee-$(VERSION)-$$(go env GOOS)-$$(go env GOARCH) ./cmd/levee

clean: ## Remove what was built and the demonstration's data
	rm -rf bin dist data/demo data/cluster
