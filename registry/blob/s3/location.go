package s3

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"
)

// Location says where a bucket is.
type Location struct {
	Bucket string
	// Prefix stands before the name of every object: empty, or it ends in "/".
	Prefix string
	// Endpoint is the server, "host:port"; TLS is whether to speak TLS with it.
	Endpoint string
	TLS      bool
	Region   string
	// Lookup is whether the bucket is named in the path or in the host of a URL.
	Lookup minio.BucketLookupType
}

// ParseLocation reads "s3://bucket[/prefix][?endpoint=URL&region=NAME&path-style=BOOL]". Without an endpoint the bucket
// is one of AWS.
func ParseLocation(text string) (Location, error) {
	fail := func(format string, args ...any) (Location, error) {
		return Location{}, fmt.Errorf("%q is not s3://bucket[/prefix][?endpoint=https://host:port&region=name&path-style=true]: %w", text, fmt.Errorf(format, args...))
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return fail("it has no bucket, or more than that")
	}
	l := Location{Bucket: u.Host, Region: "us-east-1", TLS: true}
	if prefix := strings.Trim(u.Path, "/"); prefix != "" {
		l.Prefix = prefix + "/"
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fail("%w", err)
	}
	for name, values := range query {
		value := values[len(values)-1]
		switch name {
		case "endpoint":
			endpoint, err := url.Parse(value)
			if err != nil || endpoint.Host == "" || strings.Trim(endpoint.Path, "/") != "" || (endpoint.Scheme != "http" && endpoint.Scheme != "https") {
				return fail("endpoint %q is not https://host:port or http://host:port", value)
			}
			l.Endpoint, l.TLS = endpoint.Host, endpoint.Scheme == "https"
		case "region":
			l.Region = value
		case "path-style":
			inPath, err := strconv.ParseBool(value)
			if err != nil {
				return fail("path-style %q is neither true nor false", value)
			}
			l.Lookup = minio.BucketLookupDNS
			if inPath {
				l.Lookup = minio.BucketLookupPath
			}
		default:
			return fail("there is no parameter %q", name)
		}
	}
	if l.Endpoint == "" {
		l.Endpoint = "s3." + l.Region + ".amazonaws.com"
	}
	return l, nil
}
