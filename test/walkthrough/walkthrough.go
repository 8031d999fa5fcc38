// Package walkthrough reads the commands of documents, so that tests can type them and compare what comes out.
package walkthrough

import (
	"os"
	"regexp"
	"strings"
)

// Step is one command of a document with what it prints there.
type Step struct {
	Command string
	Output  []string
	// Refused is true where the document says that the command fails.
	Refused bool
}

// reading are commands that change nothing, or whose refusal does not.
var reading = regexp.MustCompile(`^((bin/)?kubectl (get|events|wait)|curl|podman pull|tidelock audit) `)

// Reading is a command that changes nothing: it may be repeated until it says what the document says, since Events, counts
// and rights come a moment after what they are about.
func (s Step) Reading() bool { return reading.MatchString(s.Command) }

// Steps reads the commands of a section of a document, of all of it if section is empty: the lines of console blocks that
// begin with "$ ", those behind that begin with "> ", and the output that follows. What a block "console refused" has
// fails.
func Steps(path, section string) ([]Step, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	text := string(content)
	if section != "" {
		_, text, _ = strings.Cut(text, "\n## "+section+"\n")
		text, _, _ = strings.Cut(text, "\n## ")
	}
	var steps []Step
	var block string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			block = strings.TrimPrefix(line, "```")
		case !strings.HasPrefix(block, "console"):
		case strings.HasPrefix(line, "$ "):
			steps = append(steps, Step{Command: line[2:], Refused: block == "console refused"})
		case strings.HasPrefix(line, "> "):
			steps[len(steps)-1].Command += "\n" + line[2:]
		default:
			last := &steps[len(steps)-1]
			last.Output = append(last.Output, line)
		}
	}
	return steps, nil
}

var (
	age    = regexp.MustCompile(`\b(\d+[dhms])+\b`)
	blanks = regexp.MustCompile(`[ \t]+`)
)

// plain makes lines comparable: an age is any age, and columns may be wider.
func plain(line string) string {
	return strings.TrimSpace(blanks.ReplaceAllString(age.ReplaceAllString(line, "AGE"), " "))
}

// Pattern is the expression that the output has to match in the form of Normal: "…" stands for any text, and alone on a
// line for any lines.
func (s Step) Pattern() string {
	var b strings.Builder
	b.WriteString(`\A`)
	for _, line := range s.Output {
		if line == "…" {
			b.WriteString(`(?:.*\n)*`)
			continue
		}
		parts := strings.Split(plain(line), "…")
		for i, part := range parts {
			parts[i] = regexp.QuoteMeta(part)
		}
		b.WriteString(strings.Join(parts, ".*") + `\n`)
	}
	return b.String() + `\z`
}

// Normal is output in the form that Pattern matches.
func Normal(output string) string {
	var b strings.Builder
	for line := range strings.Lines(output) {
		if line = plain(line); line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}
