package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mosaicstack/gateway/internal/devstack"
	"github.com/mosaicstack/gateway/internal/fault"
)

// completeFile lists what a directory held when its gateway first served. Before that, a missing part is one that
// was never made; after it, one that was lost.
const completeFile = "complete"

var errIncomplete = &fault.Fault{
	Kind: fault.Conflict, Code: "dir_incomplete", Detail: "a part of the directory is missing",
	Hint: "bring it back from where it went; a new one in its place would leave certificates, secrets or rows behind that nothing can use",
}

// dirParts are the parts that cannot be made anew without losing something.
func dirParts(k *keyring) []string {
	parts := []string{"postgres/PG_VERSION", "ca/config/ca.json", "ca/secrets/intermediate_ca_key"}
	if k.path != "" {
		parts = append(parts, keysetFile)
	}
	return parts
}

// checkComplete refuses a directory that has lost a part since its gateway first served.
func checkComplete(dir *devstack.Dir) error { return missingPart(dir.Path()) }

func missingPart(dir string) error {
	list, err := os.ReadFile(filepath.Join(dir, completeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for part := range strings.FieldsSeq(string(list)) {
		if _, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(part))); errors.Is(err, fs.ErrNotExist) {
			return errIncomplete.With("%s is missing in %s, where a gateway has served from it", part, dir)
		}
	}
	return nil
}

// noteComplete notes what the directory holds now.
func noteComplete(dir *devstack.Dir, k *keyring) error {
	return devstack.WriteFileAtomic(dir.Join(completeFile), []byte(strings.Join(dirParts(k), "\n")+"\n"), 0o600)
}
