// Package selection evaluates what a mirror's declaration selects: repositories, tags, platforms, and times. It is pure:
// the same declaration and names always give the same answer, and everything takes time that is linear in the names.
package selection

import (
	"cmp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/tidelock/tidelock/registry/domain"
)

// Repositories is a compiled domain.RepositoryFilter.
type Repositories struct {
	include, exclude []matcher
	plain            []string
}

// matcher reports whether a name matches.
type matcher func(name string) bool

func anyOf(matchers []matcher, name string) bool {
	return slices.ContainsFunc(matchers, func(m matcher) bool { return m(name) })
}

// CompileRepositories compiles a filter. The error is a *domain.Error with code INVALID.
func CompileRepositories(filter domain.RepositoryFilter) (r Repositories, err error) {
	if r.include, err = compileGlobs("repositories.include", filter.Include); err != nil {
		return r, err
	}
	r.exclude, err = compileGlobs("repositories.exclude", filter.Exclude)
	for _, name := range filter.Include {
		if domain.ValidateRepositoryPath(name) == nil {
			r.plain = append(r.plain, name)
		}
	}
	if len(r.plain) < len(filter.Include) {
		r.plain = nil
	}
	return r, err
}

func compileGlobs(field string, patterns []string) (matchers []matcher, err error) {
	for i, pattern := range patterns {
		glob, err := compileGlob(pattern)
		if err != nil {
			return nil, at(index(field, i), err)
		}
		matchers = append(matchers, glob.MatchString)
	}
	return matchers, nil
}

// Selects reports whether a repository is selected, by its name below the upstream namespace.
func (r Repositories) Selects(name string) bool {
	return (len(r.include) == 0 || anyOf(r.include, name)) && !anyOf(r.exclude, name)
}

// Names lists the repositories that the filter names one by one, less those that it excludes. It is false if it does not:
// then an upstream's list is needed.
func (r Repositories) Names() (names []string, plain bool) {
	for _, name := range r.plain {
		if r.Selects(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), len(r.plain) > 0
}

// Tags is a compiled domain.TagFilter.
type Tags struct {
	include, exclude []matcher
	newest           int
}

// CompileTags compiles a filter. The error is a *domain.Error with code INVALID.
func CompileTags(filter domain.TagFilter) (t Tags, err error) {
	t.newest = filter.Newest
	if t.include, err = compileTags("tags.include", filter.Include); err != nil {
		return t, err
	}
	t.exclude, err = compileTags("tags.exclude", filter.Exclude)
	return t, err
}

func compileTags(field string, matches []domain.TagMatch) (matchers []matcher, err error) {
	for i, match := range matches {
		m, err := compileTag(match)
		if err != nil {
			return nil, at(index(field, i), err)
		}
		matchers = append(matchers, m)
	}
	return matchers, nil
}

func compileTag(match domain.TagMatch) (matcher, error) {
	switch {
	case match.Glob != "":
		glob, err := compileGlob(match.Glob)
		if err != nil {
			return nil, err
		}
		return glob.MatchString, nil
	case match.Regexp != "":
		re, err := compileRegexp(match.Regexp)
		if err != nil {
			return nil, err
		}
		return re.MatchString, nil
	default:
		constraint, err := compileSemver(match.Semver)
		if err != nil {
			return nil, err
		}
		return func(name string) bool {
			version := parseVersion(name)
			return version != nil && constraint.Check(version)
		}, nil
	}
}

// parseVersion reads a tag as a version, nil if it is none.
func parseVersion(tag string) *semver.Version {
	version, err := semver.NewVersion(tag)
	if err != nil {
		return nil
	}
	return version
}

// Selects reports whether a tag matches the filter, which may be too old to be kept all the same: see Select.
func (t Tags) Selects(name string) bool {
	return (len(t.include) == 0 || anyOf(t.include, name)) && !anyOf(t.exclude, name)
}

// Select returns the selected of a repository's tags, sorted by name.
func (t Tags) Select(names []string) []string {
	var selected []string
	for _, name := range names {
		if t.Selects(name) {
			selected = append(selected, name)
		}
	}
	if t.newest > 0 && len(selected) > t.newest {
		selected = newest(selected)[:t.newest]
	}
	slices.Sort(selected)
	return selected
}

// newest sorts tags: the highest version first, and behind all versions the others, the last by name first.
func newest(names []string) []string {
	type tag struct {
		name    string
		version *semver.Version
	}
	tags := make([]tag, len(names))
	for i, name := range names {
		tags[i] = tag{name, parseVersion(name)}
	}
	slices.SortFunc(tags, func(a, b tag) int {
		switch {
		case a.version != nil && b.version != nil:
			return cmp.Or(b.version.Compare(a.version), cmp.Compare(b.name, a.name))
		case a.version != nil:
			return -1
		case b.version != nil:
			return 1
		}
		return cmp.Compare(b.name, a.name)
	})
	for i, t := range tags {
		names[i] = t.name
	}
	return names
}

// Platforms is a compiled list of platforms.
type Platforms struct{ selected []Platform }

// Platform is what an index says of one of its manifests.
type Platform struct{ OS, Architecture, Variant string }

func (p Platform) String() string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

// CompilePlatforms compiles a list of platforms. The error is a *domain.Error with code INVALID.
func CompilePlatforms(platforms []string) (p Platforms, err error) {
	for i, text := range platforms {
		platform, err := parsePlatform(text)
		if err != nil {
			return p, at(index("platforms", i), err)
		}
		p.selected = append(p.selected, platform)
	}
	return p, nil
}

func parsePlatform(text string) (Platform, error) {
	parts := strings.Split(text, "/")
	if len(text) > domain.MaxMirrorFilter || len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return Platform{}, domain.Errorf(domain.CodeInvalid, "%s is not os/architecture or os/architecture/variant, such as linux/arm64", domain.Quote(text))
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// All reports whether every platform is selected.
func (p Platforms) All() bool { return len(p.selected) == 0 }

// Selects reports whether a platform is selected: without a variant any is meant. All arm64 is v8, whether it says so or
// not.
func (p Platforms) Selects(platform Platform) bool {
	if platform.Architecture == "arm64" {
		platform.Variant = cmp.Or(platform.Variant, "v8")
	}
	return p.All() || slices.ContainsFunc(p.selected, func(s Platform) bool {
		return s.OS == platform.OS && s.Architecture == platform.Architecture && (s.Variant == "" || s.Variant == platform.Variant)
	})
}
