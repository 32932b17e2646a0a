package doctor_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/mosaicstack/gateway/internal/doctor"
)

// row is one of docs/doctor.md: name, meaning, remedy.
var row = regexp.MustCompile("(?m)^\\| `([a-z0-9_.]+)` \\| ([^|]+) \\| ([^|]+) \\|$")

// TestEveryCheckIsDescribed holds docs/doctor.md to the names, and the names to a form that an alert can hang on.
func TestEveryCheckIsDescribed(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	var described []string
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		described = append(described, m[1])
	}
	names := doctor.Names()
	shape := regexp.MustCompile(`^[a-z]+(\.[a-z_]+)?$`)
	for i, name := range names {
		if !shape.MatchString(name) || slices.Index(names, name) != i {
			t.Errorf("%q is no name, or there twice", name)
		}
		if !slices.Contains(described, name) {
			t.Errorf("docs/doctor.md does not describe %s", name)
		}
	}
	for i, name := range described {
		if !slices.Contains(names, name) || slices.Index(described, name) != i {
			t.Errorf("docs/doctor.md describes %q, which is no check or there twice", name)
		}
	}
}
