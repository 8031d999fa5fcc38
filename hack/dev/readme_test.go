package main

import (
	"os"
	"regexp"
	"strings"
)

// readmeStep is one command of README.md's first five minutes with what it prints there.
type readmeStep struct {
	command string
	output  []string
	// refused is true where the document says that the registry refuses the command.
	refused bool
}

// reading is a command that changes nothing: it is repeated until it says what the document says, since Events and
// counts come a moment after what they are about.
func (s readmeStep) reading() bool {
	return regexp.MustCompile(`^(bin/kubectl (get|events|wait)|curl) `).MatchString(s.command)
}

// readmeSteps reads the commands of the section "First five minutes": the lines of its console blocks that begin with
// "$ ", those behind that begin with "> ", and the output that follows.
func readmeSteps(path string) ([]readmeStep, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	_, section, _ := strings.Cut(string(content), "\n## First five minutes\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var steps []readmeStep
	var block string
	for line := range strings.Lines(section) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			block = strings.TrimPrefix(line, "```")
		case !strings.HasPrefix(block, "console"):
		case strings.HasPrefix(line, "$ "):
			steps = append(steps, readmeStep{command: line[2:], refused: block == "console refused"})
		case strings.HasPrefix(line, "> "):
			steps[len(steps)-1].command += "\n" + line[2:]
		default:
			last := &steps[len(steps)-1]
			last.output = append(last.output, line)
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

// pattern is the expression that the output has to match: "…" stands for any text, and alone on a line for any lines.
func (s readmeStep) pattern() string {
	var b strings.Builder
	b.WriteString(`\A`)
	for _, line := range s.output {
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

// normal is output in the form that pattern matches.
func normal(output string) string {
	var b strings.Builder
	for line := range strings.Lines(output) {
		if line = plain(line); line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}
