package auth_test

import (
	"context"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/registry/auth"
)

// FuzzScopes checks that what was read of scopes is read again as the same.
func FuzzScopes(f *testing.F) {
	for _, seed := range []string{
		"repository:a/b:pull,push", "repository:a/b:*", "registry:catalog:*", "repository:localhost:5000/a/b:pull", "repository:a/b:pull repository:c/d:push",
		"", ":", "::", "repository::pull", "repository:a/b:", "a:b:c,,d",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list := auth.ParseScopes([]string{text})
		if len(list) > 100 {
			t.Fatalf("%d scopes", len(list))
		}
		for _, access := range list {
			if access.Name == "" || len(access.Actions) == 0 {
				t.Fatalf("%q gives %+v", text, access)
			}
		}
		if again := auth.FormatScopes(auth.ParseScopes([]string{auth.FormatScopes(list)})); again != auth.FormatScopes(list) {
			t.Fatalf("%q is read as %q and then as %q", text, auth.FormatScopes(list), again)
		}
	})
}

// FuzzBearer checks that no bearer token makes the registry fail, or lets anybody in.
func FuzzBearer(f *testing.F) {
	for _, seed := range []string{
		"", "..", "a.b.c", "tdl_00", "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJFUzI1NiIsImtpZCI6IngifQ.e30.AAAA", strings.Repeat("e.", 100),
	} {
		f.Add(seed)
	}
	keys := f.TempDir() + "/keys"
	writeKey(f, keys)
	a, err := auth.New(auth.Options{TokenKeyFile: keys})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string) {
		request := requestWith("Bearer " + token)
		if id, err := a.Authenticate(request); err == nil {
			t.Fatalf("%q is %+v", token, id)
		}
		if _, err := a.Refresh(context.Background(), token, ""); err == nil {
			t.Fatalf("%q is a refresh token", token)
		}
	})
}

// FuzzKeyFile checks that no file of keys makes the registry fail.
func FuzzKeyFile(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, content []byte) {
		if n, err := auth.ParseKeyFile(content); err == nil && n == 0 {
			t.Fatal("no key and no error")
		}
	})
}
