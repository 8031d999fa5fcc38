# Everything that is done to this project. `make help` lists it; README.md says more.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
BIN := $(ROOT)/bin
MODULE := github.com/tidelock/tidelock

# The control plane of the tests: built from hack/tools, unless KUBEBUILDER_ASSETS already names a folder with one,
# for instance one that setup-envtest has downloaded.
ifeq ($(wildcard $(KUBEBUILDER_ASSETS)/kube-apiserver),)
KUBEBUILDER_ASSETS := $(shell hack/tools/build.sh assets)
CONTROL_PLANE := kube-apiserver etcd
endif
export KUBEBUILDER_ASSETS
# Where tests and the development environment find bin/tidelock and the clients.
export TIDELOCK_BIN := $(BIN)

VERSION ?= $(or $(shell git describe --tags --always --dirty 2>/dev/null),dev)
REVISION ?= $(shell git rev-parse --verify --quiet HEAD 2>/dev/null)
LDFLAGS := -s -w -X $(MODULE)/registry/domain.Version=$(VERSION)
GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'

# The image that `make image` writes, `make deploy` runs, and its time: the commit's, so that it can be made again.
IMAGE_NAME := ghcr.io/tidelock/tidelock
IMG ?= $(IMAGE_NAME):$(VERSION)
PLATFORMS ?= linux/$(shell go env GOARCH)
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
CERTIFICATES ?= /etc/ssl/certs/ca-certificates.crt

# test/e2e needs a node and is run by `make e2e` alone.
TEST_PACKAGES = $$(go list ./... | grep -v '^$(MODULE)/test/e2e')
TEST_TIMEOUT ?= 40m
# SQLite is C translated to Go, which the race detector makes ten times slower and in which it has nothing to find.
RACE = -race -gcflags=modernc.org/sqlite/lib=-race=false
SOAK_TIMEOUT ?= 6h
# How long `make soak` looks for bad input with each fuzz target.
FUZZ_TIME ?= 5m
# Where `make soak` keeps what tests leave for a look, a history that is not linearizable for instance.
ARTIFACTS ?= $(ROOT)/dist/artifacts

##@ Use

.PHONY: build
build: ## Build bin/tidelock.
	@$(GO_BUILD) -o $(BIN)/tidelock ./cmd/tidelock

.PHONY: run
run: build ## Run operator, registry and a local control plane; Ctrl-C stops them (state stays in .dev/).
	@hack/tools/build.sh $(CONTROL_PLANE) kubectl crane
	@# Not `go run`, which does not pass a SIGTERM on: nothing may be left running.
	@go build -o $(BIN)/dev ./hack/dev
	@exec $(BIN)/dev $(ARGS)

.PHONY: install
install: kubectl ## Apply the CRDs to the cluster of KUBECONFIG.
	@$(BIN)/kubectl kustomize config/crd | $(BIN)/kubectl apply --server-side -f -

.PHONY: deploy
deploy: kubectl ## Apply config/default with the image IMG to the cluster of KUBECONFIG.
	@hack/render.sh $(IMG) | $(BIN)/kubectl apply --server-side -f -

.PHONY: image
image: ## Write the image as an OCI layout to dist/image, for PLATFORMS, without a container engine.
	@args=(); \
	for p in $(PLATFORMS); do \
	  out=$(ROOT)/dist/$${p//\//_}/tidelock; \
	  GOOS=$${p%%/*} GOARCH=$${p##*/} $(GO_BUILD) -o "$$out" ./cmd/tidelock; \
	  args+=("$$p=$$out"); \
	done; \
	cd hack/image && GOWORK=off go run . -out $(ROOT)/dist/image -version '$(VERSION)' -revision '$(REVISION)' \
	  -created $(SOURCE_DATE_EPOCH) -certificates '$(CERTIFICATES)' "$${args[@]}"

##@ Test

.PHONY: test
test: build libc ## Run every test, with a real API server and real clients.
	@hack/packages.sh gcc libc6-dev skopeo podman postgresql
	@hack/tools/build.sh $(CONTROL_PLANE) kubectl crane regctl helm cosign registry-peer versitygw
	go vet ./...
	CGO_ENABLED=1 go test $(RACE) -timeout $(TEST_TIMEOUT) $(TEST_PACKAGES)
	cd hack/image && GOWORK=off go vet ./... && GOWORK=off go test ./...

.PHONY: e2e
e2e: build ## Run the end-to-end tests on a real node (Linux, root; KEEP=1 leaves the node up).
	@hack/packages.sh podman postgresql
	@hack/tools/build.sh versitygw
	@hack/e2e.sh '$(VERSION)'

.PHONY: conformance
conformance: build ## Run OCI's conformance suite, whose binary CONFORMANCE names, against a fresh registry.
	@hack/conformance.sh '$(CONFORMANCE)'

.PHONY: soak
soak: build ## Run the tests in their long form.
	@hack/packages.sh skopeo podman postgresql
	@hack/tools/build.sh $(CONTROL_PLANE) kubectl crane regctl helm cosign registry-peer versitygw
	@mkdir -p $(ARTIFACTS)
	TIDELOCK_SOAK=1 go test -count=1 -artifacts -outputdir $(ARTIFACTS) -timeout $(SOAK_TIMEOUT) $(TEST_PACKAGES)
	hack/fuzz.sh $(FUZZ_TIME)
	go run ./hack/bench -parts log -entries 10000000

.PHONY: bench
bench: build ## Measure, beside another registry in the same run.
	@hack/packages.sh postgresql skopeo
	@hack/tools/build.sh $(CONTROL_PLANE) kubectl crane registry-peer versitygw
	@go run ./hack/bench $(ARGS)

##@ Develop

.PHONY: generate
generate: ## Generate Go code: deep copies, and types and client of the management API.
	@hack/tools/build.sh controller-gen oapi-codegen
	@$(BIN)/tools/controller-gen object paths=./api/...
	@PATH="$(BIN)/tools:$$PATH" go generate ./...

.PHONY: manifests
manifests: ## Generate CRDs, roles and webhook configurations into config/.
	@hack/tools/build.sh controller-gen
	@$(BIN)/tools/controller-gen crd rbac:roleName=tidelock webhook paths=./api/... paths=./controllers/... paths=./webhooks/... paths=./kubeauth/... \
	  output:crd:dir=config/crd/bases output:rbac:dir=config/rbac output:webhook:dir=config/webhook

.PHONY: verify
verify: libc ## Check that generated files and go.mod are current.
	@hack/verify.sh

.PHONY: lint
lint: ## Run the linters.
	@hack/tools/build.sh golangci-lint
	@$(BIN)/tools/golangci-lint run ./...
	@cd hack/image && GOWORK=off $(BIN)/tools/golangci-lint run --config $(ROOT)/.golangci.yml ./...

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile

# ---- parts of the above ----

.PHONY: kubectl
kubectl:
	@hack/tools/build.sh kubectl

# The SQLite driver is translated C that fits one version of its runtime library only; another one compiles, and
# corrupts memory.
.PHONY: libc
libc:
	@hack/libc.sh
