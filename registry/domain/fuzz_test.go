package domain

import (
	"strings"
	"testing"
	"unicode"
)

// maxMessage bounds what a refusal says of a client's text, in bytes.
const maxMessage = 1024

// checkRefusal fails unless an error is a short refusal with a code.
func checkRefusal(t *testing.T, err error, code Code) {
	t.Helper()
	if CodeOf(err) != code || len(err.Error()) > maxMessage || strings.ContainsFunc(err.Error(), unicode.IsControl) {
		t.Fatalf("the refusal is %s, with %d bytes: %.200q", CodeOf(err), len(err.Error()), err)
	}
}

func FuzzParseRepositoryName(f *testing.F) {
	for _, name := range []string{
		"a/b", "team-a/backend/api", "a__b/c.d", "a", "", "/", "a/", "/a", "a//b", "a/../b", "A/b", "a/b\x00", "a/b\n", "a\\b/c", "é/a", "a/" + strings.Repeat("b", 300), strings.Repeat("a/", 200),
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, err := ParseRepositoryName(text)
		if err != nil {
			checkRefusal(t, err, CodeNameInvalid)
			return
		}
		if name.String() != text || len(text) > MaxRepositoryName || strings.Contains(text, "..") {
			t.Fatalf("%q became %q", text, name)
		}
		if err := ValidateOrganization(name.Organization); err != nil {
			t.Fatal(err)
		}
		if err := ValidateRepositoryPath(name.Path); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzValidateOrganization(f *testing.F) {
	for _, name := range []string{"a", "team-a", "team.a", "team__a", "", "a/b", "-a", "a-", "..", "a\x00", strings.Repeat("a", 256)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if err := ValidateOrganization(name); err != nil {
			checkRefusal(t, err, CodeNameInvalid)
			return
		}
		// What is an organization is the first segment of a repository too, as far as its length allows.
		if len(name)+2 > MaxRepositoryName {
			return
		}
		if parsed, err := ParseRepositoryName(name + "/x"); err != nil || parsed.Organization != name {
			t.Fatalf("%q is an organization, but %q becomes %q, %v", name, name+"/x", parsed, err)
		}
	})
}

func FuzzParseReference(f *testing.F) {
	for _, text := range []string{
		"v1", "_", ".", "..", "-a", "latest", strings.Repeat("a", 128), strings.Repeat("a", 129), "a:b", ":", "sha256:" + strings.Repeat("0", 64),
		"sha256:" + strings.Repeat("A", 64), "sha512:" + strings.Repeat("f", 128), "sha384:" + strings.Repeat("f", 96), "sha256:", "v1\n", "\x00", "\xff",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := ParseReference(text)
		switch {
		case err != nil && strings.Contains(text, ":"):
			checkRefusal(t, err, CodeDigestInvalid)
		case err != nil:
			checkRefusal(t, err, CodeTagInvalid)
		case ref.String() != text || (ref.Tag == "") == (ref.Digest == ""):
			t.Fatalf("%q became %+v", text, ref)
		case ref.Tag != "" && len(ref.Tag) > MaxTag:
			t.Fatalf("%q is too long for a tag", text)
		}
	})
}

func FuzzParseDigest(f *testing.F) {
	for _, text := range []string{"", "sha256:" + strings.Repeat("0", 64), "sha512:" + strings.Repeat("9", 128), "sha256:" + strings.Repeat("0", 63), "SHA256:" + strings.Repeat("0", 64), "sha256:../..", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDigest(text)
		if err != nil {
			checkRefusal(t, err, CodeDigestInvalid)
			return
		}
		if d.String() != text || strings.Trim(d.Encoded(), "0123456789abcdef") != "" || len(d.Encoded()) != 2*d.Algorithm().Size() {
			t.Fatalf("%q became %q", text, d)
		}
	})
}

func FuzzQuote(f *testing.F) {
	f.Add("")
	f.Add("v1")
	f.Add(strings.Repeat("é", 200))
	f.Add(strings.Repeat("\x00", 300))
	f.Fuzz(func(t *testing.T, text string) {
		// Ten bytes are the most that one byte becomes; the rest is what stands around.
		if quoted := Quote(text); len(quoted) > 10*maxQuote+40 || strings.ContainsFunc(quoted, unicode.IsControl) {
			t.Fatalf("%q became %q", text, quoted)
		}
	})
}
