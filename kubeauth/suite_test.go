package kubeauth

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestKubeauth(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "kubeauth")
}
