package config

import (
	"fmt"
	"slices"
	"strings"
)

// Explained is a setting with the value that is in force and where it comes from.
type Explained struct {
	Name  string `json:"name"`
	Value string `json:"value"` // of a secret: [sealed]
	From  string `json:"from"`  // environment, default, the file or the other name that gave it; empty when it is not set
}

// Explain gives every setting that a tier reads, as Load would find it in environ. It does not judge them: that is
// for Load.
func Explain(environ []string, tier Tier) []Explained {
	l := newLoader(environ)
	if tier == "" {
		tier = Tier(l.given["MOSAIC_TIER"])
	}
	before := len(l.given["MOSAIC_PUBLIC_URL"])
	l.alias("BETTER_AUTH_URL", "MOSAIC_PUBLIC_URL")
	var out []Explained
	for _, s := range Settings() {
		if len(s.Tiers) > 0 && !slices.Contains(s.Tiers, tier) {
			continue
		}
		e := Explained{Name: s.Name, Value: l.given[s.Name]}
		file := l.given[s.Name+"_FILE"]
		switch {
		case e.Value != "":
			e.From = "environment"
			if s.Name == "MOSAIC_PUBLIC_URL" && before == 0 {
				e.From = "BETTER_AUTH_URL"
			}
		case s.Secret && file != "":
			e.Value, e.From = file, "file "+file
		case s.Default != "":
			e.Value, e.From = s.Default, "default"
		}
		if s.Secret && e.Value != "" {
			e.Value = "[sealed]"
		}
		out = append(out, e)
	}
	return out
}

// Markdown is docs/configuration.md: what the struct says of itself.
func Markdown() string {
	var b strings.Builder
	b.WriteString(`# Configuration

Every setting comes from the environment. ` + "`mosaic gateway config`" + ` prints what is in force, where it comes from and what is
wrong with it; a start with anything wrong is refused and names all of it. This page is written from the code: change
` + "`internal/config`" + `, then run ` + "`go test ./internal/config -update`" + `.

A secret is also read from the file that ` + "`NAME_FILE`" + ` names, without its line end. Set one of the two. A name that begins
with ` + "`MOSAIC_`" + ` and is not here stops the start. An empty value counts as none.

`)
	for _, section := range []struct {
		title string
		tiers []Tier
	}{
		{"Every tier", nil},
		{"Standalone and federated (`mosaic gateway serve`)", []Tier{Standalone, Federated}},
		{"Federated only", []Tier{Federated}},
	} {
		fmt.Fprintf(&b, "## %s\n\n| name | default | meaning |\n| --- | --- | --- |\n", section.title)
		for _, s := range Settings() {
			if !slices.Equal(s.Tiers, section.tiers) {
				continue
			}
			name, def := "`"+s.Name+"`", ""
			if s.Secret {
				name += " (secret)"
			}
			if s.Default != "" {
				def = "`" + s.Default + "`"
			}
			fmt.Fprintf(&b, "| %s | %s | %s |\n", name, def, strings.ToUpper(s.Doc[:1])+s.Doc[1:]+".")
		}
		b.WriteString("\n")
	}
	b.WriteString("The command line reads `MOSAIC_URL`, `MOSAIC_TOKEN` (or `MOSAIC_TOKEN_FILE`) and `MOSAIC_DIR`; compose reads names that end in\n`_HOST_PORT`. The gateway leaves these alone.\n")
	return b.String()
}
