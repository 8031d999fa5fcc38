package selection

import (
	"errors"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"

	"github.com/Masterminds/semver/v3"

	"github.com/tidelock/tidelock/registry/domain"
)

// checkLength bounds a pattern.
func checkLength(pattern string) error {
	switch {
	case pattern == "":
		return domain.Errorf(domain.CodeInvalid, "a pattern must not be empty")
	case len(pattern) > domain.MaxMirrorFilter:
		return domain.Errorf(domain.CodeInvalid, "the pattern is %d bytes long; at most %d are allowed", len(pattern), domain.MaxMirrorFilter)
	case !utf8.ValidString(pattern):
		return domain.Errorf(domain.CodeInvalid, "the pattern is not UTF-8")
	}
	return nil
}

// compileGlob translates a glob into a regular expression that matches whole names: "*" and "?" match what is not "/",
// "**" as a whole segment any number of segments, "[a-z]" and "[^a-z]" one character, "{a,b}" either, and a backslash
// takes the meaning from what follows. It is RE2, so no pattern takes more than linear time, whatever its alternatives.
func compileGlob(pattern string) (*regexp.Regexp, error) {
	if err := checkLength(pattern); err != nil {
		return nil, err
	}
	g := globber{rest: pattern}
	g.WriteString(`\A(?:`)
	if err := g.translate(); err != nil {
		return nil, domain.Errorf(domain.CodeInvalid, "%s is no glob: %v", domain.Quote(pattern), err)
	}
	g.WriteString(`)\z`)
	re, err := regexp.Compile(g.String())
	if err != nil {
		return nil, domain.Errorf(domain.CodeInvalid, "%s is no glob: a character class is malformed", domain.Quote(pattern))
	}
	return re, nil
}

// globber writes the regular expression of what is left of a glob.
type globber struct {
	strings.Builder
	rest string
	// start is true at the beginning of a segment, open has the same for each { that is not closed.
	start bool
	open  []bool
}

func (g *globber) translate() error {
	g.start = true
	for g.rest != "" {
		if err := g.next(); err != nil {
			return err
		}
	}
	if len(g.open) > 0 {
		return errors.New("a { is not closed")
	}
	return nil
}

func (g *globber) next() error {
	start := g.start
	g.start = false
	switch first := g.rest[0]; {
	case first == '*':
		g.stars(start)
	case first == '?':
		g.instead(1, `[^/]`)
	case first == '[':
		return g.class()
	case first == '{':
		g.open, g.start = append(g.open, start), start
		g.instead(1, `(?:`)
	case first == ',' && len(g.open) > 0:
		g.start = g.open[len(g.open)-1]
		g.instead(1, `|`)
	case first == '}':
		if len(g.open) == 0 {
			return errors.New("a } has no {")
		}
		g.open = g.open[:len(g.open)-1]
		g.instead(1, `)`)
	case strings.HasPrefix(g.rest, "/**") && g.ends(3):
		g.instead(3, `(?:/.*)?`) // what is below includes the folder itself
	case first == '\\':
		if len(g.rest) < 2 {
			return errors.New("it ends with a backslash")
		}
		g.rest = g.rest[1:]
		g.WriteString(regexp.QuoteMeta(g.take()))
	default:
		g.start = first == '/'
		g.WriteString(regexp.QuoteMeta(g.take()))
	}
	return nil
}

// instead writes an expression for the next n bytes.
func (g *globber) instead(n int, expression string) {
	g.WriteString(expression)
	g.rest = g.rest[n:]
}

// take takes the next character.
func (g *globber) take() string {
	_, size := utf8.DecodeRuneInString(g.rest)
	text := g.rest[:size]
	g.rest = g.rest[size:]
	return text
}

// ends reports whether the glob, or an alternative of it, ends after the next n bytes.
func (g *globber) ends(n int) bool {
	return len(g.rest) == n || (len(g.open) > 0 && (g.rest[n] == ',' || g.rest[n] == '}'))
}

// stars translates "*", and "**" where it is a whole segment.
func (g *globber) stars(start bool) {
	n := len(g.rest) - len(strings.TrimLeft(g.rest, "*"))
	switch {
	case start && n == 2 && strings.HasPrefix(g.rest, "**/"):
		g.instead(3, `(?:.*/)?`)
		g.start = true
	case start && n == 2 && g.ends(2):
		g.instead(2, `.*`)
	default:
		g.instead(n, `[^/]*`)
	}
}

// class translates a class of characters.
func (g *globber) class() error {
	g.instead(1, `[`)
	if strings.HasPrefix(g.rest, "^") || strings.HasPrefix(g.rest, "!") {
		g.instead(1, `^/`)
	}
	for n := 0; ; n++ {
		switch {
		case g.rest == "" || g.rest[0] == '[' || (g.rest[0] == ']' && n == 0):
			return errors.New("a [ is not closed, or has nothing in it")
		case g.rest[0] == ']':
			g.instead(1, `]`)
			return nil
		case g.rest[0] == '-':
			g.instead(1, `-`)
		case g.rest[0] == '\\' && len(g.rest) > 1:
			g.rest = g.rest[1:]
			if text := g.take(); text == "-" {
				g.WriteString(`\-`)
			} else {
				g.WriteString(regexp.QuoteMeta(text))
			}
		default:
			g.WriteString(regexp.QuoteMeta(g.take()))
		}
	}
}

// compileRegexp compiles RE2 that matches whole names.
func compileRegexp(pattern string) (*regexp.Regexp, error) {
	if err := checkLength(pattern); err != nil {
		return nil, err
	}
	// Compiled alone first: `a)|(b` is no pattern although it is one between parentheses.
	if _, err := regexp.Compile(pattern); err != nil {
		if e := (*syntax.Error)(nil); errors.As(err, &e) {
			return nil, domain.Errorf(domain.CodeInvalid, "%s is no regular expression: %s: `%s` (RE2 syntax)", domain.Quote(pattern), e.Code, e.Expr)
		}
		return nil, domain.Errorf(domain.CodeInvalid, "%s is no regular expression (RE2 syntax)", domain.Quote(pattern))
	}
	re, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return nil, domain.Errorf(domain.CodeInvalid, "%s is too large a regular expression", domain.Quote(pattern))
	}
	return re, nil
}

// compileSemver compiles a constraint of versions.
func compileSemver(constraint string) (*semver.Constraints, error) {
	if err := checkLength(constraint); err != nil {
		return nil, err
	}
	c, err := semver.NewConstraint(constraint)
	if err != nil {
		return nil, domain.Errorf(domain.CodeInvalid, "%s is no constraint of versions; write one such as \">=1.2 <2\", \"~1.4\" or \"^3\"", domain.Quote(constraint))
	}
	return c, nil
}
