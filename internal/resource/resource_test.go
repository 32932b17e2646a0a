package resource_test

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/seal"
)

func names(fields []resource.Field) []string {
	var out []string
	for _, f := range fields {
		out = append(out, f.Name)
	}
	return out
}

func TestTheCatalogue(t *testing.T) {
	t.Parallel()
	for r, want := range map[scope.Resource][]string{
		scope.Tasks:       {"title", "body", "status"},
		scope.Notes:       {"title", "body"},
		scope.Memory:      {"content", "metadata"},
		scope.Credentials: {"name", "kind", "url", "username", "metadata", "secret"},
		scope.APIKeys:     {"name", "service", "key_prefix", "metadata", "secret"},
		"users":           nil,
	} {
		if diff := cmp.Diff(want, names(resource.Fields(r))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", r, diff)
		}
	}
}

func TestFieldsAreSound(t *testing.T) {
	t.Parallel()
	column := regexp.MustCompile(`^[a-z][a-z_]*$`)
	reserved := []string{"id", "owner_id", "team_id", "created_at", "updated_at", "source"}
	for _, r := range scope.All() {
		fields, required := resource.Fields(r), 0
		for i, f := range fields {
			if !column.MatchString(f.Name) || slices.Contains(reserved, f.Name) || slices.Contains(names(fields[:i]), f.Name) {
				t.Errorf("%s.%s is no name for a field", r, f.Name)
			}
			if f.MaxBytes < 1 || f.MaxBytes > resource.MaxLineBytes {
				t.Errorf("%s.%s: %d bytes", r, f.Name, f.MaxBytes)
			}
			if f.Default != "" && (f.Kind != resource.Text || f.Required || len(f.Default) > f.MaxBytes) {
				t.Errorf("%s.%s cannot have the default %q", r, f.Name, f.Default)
			}
			if f.Required {
				required++
			}
			if got, ok := resource.FieldOf(r, f.Name); !ok || !cmp.Equal(got, f) {
				t.Errorf("FieldOf(%s, %s) = %v, %v", r, f.Name, got, ok)
			}
		}
		if required == 0 {
			t.Errorf("%s: an empty object would be a row", r)
		}
		if _, ok := resource.FieldOf(r, "owner_id"); ok {
			t.Errorf("%s: owner_id is not for the caller to set", r)
		}
	}
}

func TestOnlySensitiveResourcesHaveSecretsAndTheyAreNeverShown(t *testing.T) {
	t.Parallel()
	for _, r := range scope.All() {
		f, ok := resource.FieldOf(r, resource.SecretField)
		if ok != r.Sensitive() || ok && !f.WriteOnly {
			t.Errorf("%s: secret field %v, %+v", r, ok, f)
		}
		for _, f := range resource.Shown(r) {
			if f.WriteOnly || f.Name == resource.SecretField {
				t.Errorf("%s shows %s", r, f.Name)
			}
		}
		want := len(resource.Fields(r))
		if r.Sensitive() {
			want--
		}
		if got := len(resource.Shown(r)); got != want {
			t.Errorf("%s shows %d fields, want %d", r, got, want)
		}
	}
}

func TestTheCatalogueCannotBeChangedByItsReaders(t *testing.T) {
	t.Parallel()
	fields := resource.Fields(scope.Tasks)
	fields[0].Name, fields[2].Default = "x", "y"
	if again := resource.Fields(scope.Tasks); again[0].Name != "title" || again[2].Default != "open" {
		t.Errorf("changed to %v", again)
	}
}

func TestParseNamesOfResources(t *testing.T) {
	t.Parallel()
	for _, r := range scope.All() {
		if got, err := resource.Parse(string(r)); err != nil || got != r {
			t.Errorf("Parse(%s) = %s, %v", r, got, err)
		}
	}
	for _, s := range []string{"", "Tasks", "users", "tasks/", "api-keys"} {
		if _, err := resource.Parse(s); !errors.Is(err, resource.ErrUnknown) || fault.From(err).Kind != fault.NotFound {
			t.Errorf("Parse(%q): %v", s, err)
		}
	}
}

func TestVerbs(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff([]resource.Verb{"list", "get", "search", "capabilities"}, resource.Verbs()); diff != "" {
		t.Error(diff)
	}
}

func TestKeyPrefixShowsAtMostAQuarter(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                       "",
		strings.Repeat("k", 31):  "",
		strings.Repeat("k", 32):  "kkkkkkkk",
		longKey:                  "sk-live-",
		strings.Repeat("ä", 100): strings.Repeat("ä", 8),
	} {
		if got := resource.KeyPrefix(seal.NewSecret(in)); got != want {
			t.Errorf("KeyPrefix of %d characters = %q, want %q", len(in), got, want)
		}
	}
}
