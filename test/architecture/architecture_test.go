// Package architecture holds the direction of dependencies, as docs/architecture.md draws it.
package architecture

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

const module = "github.com/tidelock/tidelock"

// allowed lists, for each package of the registry, the other packages of the project that it may import.
var allowed = map[string][]string{
	"registry/domain":                     {},
	"registry/policy":                     {"registry/domain"},
	"registry/selection":                  {"registry/domain"},
	"registry/manifest":                   {"registry/domain"},
	"registry/audit":                      {"registry/domain"},
	"registry/blob":                       {"registry/domain"},
	"registry/blob/fs":                    {"registry/domain", "registry/blob"},
	"registry/blob/s3":                    {"registry/domain", "registry/blob"},
	"registry/blob/s3/s3test":             {},
	"registry/blob/blobtest":              {"registry/domain", "registry/blob"},
	"registry/meta":                       {"registry/domain", "registry/audit"},
	"registry/meta/sqlite":                {"registry/domain", "registry/audit", "registry/meta"},
	"registry/meta/metatest":              {"registry/domain", "registry/audit", "registry/meta", "registry/meta/sqlite", "registry/meta/postgres", "registry/meta/postgres/postgrestest"},
	"registry/meta/postgres":              {"registry/domain", "registry/audit", "registry/meta"},
	"registry/meta/postgres/postgrestest": {},
	"registry/history":                    {"registry/domain", "registry/policy", "registry/audit"},
	"registry/core":                       {"registry/domain", "registry/policy", "registry/selection", "registry/audit", "registry/history", "registry/meta"},
	"registry/seal":                       {},
	"registry/auth":                       {"registry/domain"},
	"registry/openapi":                    {"registry/domain"},
	"registry/ociapi":                     {"registry/domain", "registry/manifest", "registry/audit", "registry/blob", "registry/core", "registry/auth"},
	"registry/mgmtapi":                    {"registry/domain", "registry/selection", "registry/audit", "registry/history", "registry/core", "registry/auth", "registry/openapi"},
	"registry/mirror":                     {"registry/domain", "registry/policy", "registry/selection", "registry/manifest", "registry/blob", "registry/core"},
	"registry/gc":                         {"registry/domain", "registry/blob", "registry/core"},
	"registry/fsck":                       {"registry/domain", "registry/blob", "registry/core"},
	"registry/forward":                    {"registry/domain", "registry/audit"},
	"registry/retention":                  {"registry/domain", "registry/audit", "registry/blob/s3", "registry/core"},
	"registry/client":                     {"registry/domain", "registry/openapi"},
	"registry":                            {"registry/domain", "registry/policy", "registry/audit", "registry/blob", "registry/blob/fs", "registry/blob/s3", "registry/meta", "registry/meta/sqlite", "registry/meta/postgres", "registry/core", "registry/seal", "registry/auth", "registry/gc", "registry/fsck", "registry/forward", "registry/retention", "registry/mirror", "registry/ociapi", "registry/mgmtapi", "registry/openapi"},
	"api/v1alpha1":                        {"registry/domain", "registry/policy", "registry/selection"},
	"kubeauth":                            {"registry/auth", "registry/domain"},
	"webhooks":                            {"api/v1alpha1", "registry/domain", "registry/policy", "registry/client", "registry/openapi"},
	"controllers":                         {"api/v1alpha1", "registry/audit", "registry/domain", "registry/policy", "registry/client", "registry/openapi"},
}

// elsewhere are packages that may import what they like: wiring, development and tests.
var elsewhere = []string{"cmd/", "hack/", "test/"}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) (list []pkg) {
	t.Helper()
	command := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...")
	command.Dir = "../.."
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func TestDependenciesRunOneWay(t *testing.T) {
	g := NewWithT(t)
	checked := 0
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if slices.ContainsFunc(elsewhere, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		g.Expect(allowed).To(HaveKey(name), "a new package: say here what it may import")
		for _, imported := range p.Imports {
			if other, ours := strings.CutPrefix(imported, module+"/"); ours {
				g.Expect(allowed[name]).To(ContainElement(other), "%s imports %s", name, other)
			}
		}
		checked++
	}
	g.Expect(checked).To(BeNumerically(">", 10))
}

func TestTheRegistryKnowsNothingOfKubernetes(t *testing.T) {
	g := NewWithT(t)
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if name != "registry" && !strings.HasPrefix(name, "registry/") {
			continue
		}
		for _, dependency := range p.Deps {
			for _, kubernetes := range []string{"k8s.io/", "sigs.k8s.io/controller-runtime", "sigs.k8s.io/structured-merge-diff"} {
				g.Expect(strings.HasPrefix(dependency, kubernetes)).To(BeFalse(), "%s depends on %s", name, dependency)
			}
		}
	}
}

func TestOnlyMetaSpeaksSQL(t *testing.T) {
	g := NewWithT(t)
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if name != "registry/meta" && !strings.HasPrefix(name, "registry/meta/") {
			g.Expect(p.Imports).NotTo(ContainElement("database/sql"), name)
		}
	}
}
