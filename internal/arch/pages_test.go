package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// Every page that another one sends its reader to is there.
func TestLinksBetweenPagesLeadSomewhere(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "deploy/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	if len(pages) < 10 {
		t.Fatalf("only %d pages", len(pages))
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), filepath.FromSlash(m[1]))); err != nil {
				t.Errorf("%s leads to %s: %v", page, m[1], err)
			}
		}
	}
}

var alertName = regexp.MustCompile(`- alert: (\w+)`)

// Whoever is woken by an alert finds it in the runbook.
func TestTheRunbookKnowsEveryAlert(t *testing.T) {
	t.Parallel()
	alerts, err := os.ReadFile(filepath.Join("..", "..", "deploy", "grafana", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	runbook, err := os.ReadFile(filepath.Join("..", "..", "docs", "OPERATIONS.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := alertName.FindAllSubmatch(alerts, -1)
	if len(names) == 0 {
		t.Fatal("there are no alerts")
	}
	for _, m := range names {
		if !strings.Contains(string(runbook), "`"+string(m[1])+"`") {
			t.Errorf("docs/OPERATIONS.md does not say what to do about %s", m[1])
		}
	}
}
