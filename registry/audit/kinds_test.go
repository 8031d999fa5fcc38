package audit_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
)

// Every constant of the type Kind is a kind that the log can be filtered by.
func TestEveryKindIsKnown(t *testing.T) {
	g := NewWithT(t)
	file, err := parser.ParseFile(token.NewFileSet(), "entry.go", nil, 0)
	g.Expect(err).NotTo(HaveOccurred())
	found := 0
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Kind" {
			name, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(audit.Known(audit.Kind(name))).To(BeTrue(), "add %s to kinds", spec.Names[0].Name)
			found++
		}
		return true
	})
	g.Expect(found).To(BeNumerically(">", 40))
	g.Expect(audit.Known("push_failed")).To(BeFalse())
	g.Expect(audit.KindNames()).To(And(HavePrefix("add_repo_permission, adopt_cluster, "), HaveSuffix(", view_users")))
}
