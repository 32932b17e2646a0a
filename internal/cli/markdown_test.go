package cli_test

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mosaicstack/gateway/internal/cli"
)

var update = flag.Bool("update", false, "write docs/ADMIN-CLI.md")

func TestThePageOfCommandsIsWrittenFromThem(t *testing.T) {
	t.Parallel()
	var all cli.Gateway // with every command there is
	for f := range reflect.ValueOf(&all).Elem().NumField() {
		field := reflect.ValueOf(&all).Elem().Field(f)
		field.Set(reflect.MakeFunc(field.Type(), nil))
	}
	want := cli.Markdown(cli.Env{Version: "test", Gateway: all})
	page := filepath.Join("..", "..", "docs", "ADMIN-CLI.md")
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil { //nolint:gosec // a page of the repository
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/ADMIN-CLI.md is not what the commands say; run: go test ./internal/cli -run Commands -update\n%s", diff)
	}
}
