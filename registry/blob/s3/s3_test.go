package s3

import (
	"context"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/blob/blobtest"
	"github.com/tidelock/tidelock/registry/blob/s3/s3test"
)

func TestS3(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "registry/blob/s3")
}

// server is one for all specs, each of which has a bucket of its own.
var server *s3test.Server

var _ = BeforeSuite(func() { server = s3test.New(GinkgoT()) })

// connect opens a store on a bucket, as a process does.
func connect(address, bucket string, timeout time.Duration) *Store {
	GinkgoHelper()
	store, err := Open(context.Background(), Options{
		Location: Location{Bucket: bucket, Prefix: "registry/", Endpoint: address, Region: "us-east-1"}, Credentials: s3test.Credentials(), Timeout: timeout,
	})
	Expect(err).NotTo(HaveOccurred())
	return store
}

var _ = blobtest.DescribeStore("the S3 store", func() blob.Store {
	GinkgoHelper()
	return connect(server.Address, server.Bucket(), 0)
}, func(store blob.Store) blob.Store {
	GinkgoHelper()
	return connect(server.Address, store.(*Store).bucket, 0)
})
