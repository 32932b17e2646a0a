package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/mosaicstack/gateway/internal/seal"
)

// maxNamed is how many values that do not open are told by name: a keyset that lost a key may have a million of them.
const maxNamed = 3

type keysetFacts struct{ ring *seal.Keyring }

func (e *examination) keysetChecks() []check {
	if e.Keys == nil {
		return nil
	}
	list := []check{{name: KeysetUsable, settings: []string{"MOSAIC_SEAL_KEYSET", "BETTER_AUTH_SECRET"}, run: e.keysetUsable}}
	if e.Rows == nil {
		return list
	}
	return append(list, check{name: KeysetOpens, after: []string{KeysetUsable, DatabaseMigrations}, patience: 6, run: e.keysetOpens})
}

func (e *examination) keysetUsable(context.Context) Finding {
	ring, err := e.Keys()
	if err != nil {
		return blamed(err)
	}
	if ring == nil {
		return fine("there is no keyset yet: the first start makes one")
	}
	const at = "doctor"
	probe := []byte("a value of no meaning")
	sealed, err := ring.Seal(probe, at, at, at)
	if err == nil {
		var back []byte
		if back, err = ring.Open(sealed, at, at, at); err == nil && !bytes.Equal(back, probe) {
			err = errors.New("another value came back")
		}
	}
	if err != nil {
		return blamed(err).remedy("restore the keyset from a backup")
	}
	e.keyset.ring = ring
	return fine("the keyset seals and opens; its primary key is %d", ring.Primary())
}

// keysetOpens opens every sealed value there is, and keeps none.
func (e *examination) keysetOpens(ctx context.Context) Finding {
	var opened, shut int64
	var named []string
	err := e.Rows.Sealed(ctx, func(v Sealed) error {
		plain, err := e.keyset.ring.Open(v.Value, v.Table, v.Column, v.RowID)
		clear(plain)
		if err == nil {
			opened++
			return nil
		}
		if shut++; len(named) < maxNamed {
			named = append(named, fmt.Sprintf("%s.%s of row %s (key %d)", v.Table, v.Column, v.RowID, seal.KeyID(v.Value)))
		}
		return nil
	})
	remedy := "give back the keyset that sealed them (MOSAIC_SEAL_KEYSET or BETTER_AUTH_SECRET of before, or the backup that belongs to this database); what was edited has to be entered again"
	switch {
	case shut > 0:
		more := ""
		if rest := shut - int64(len(named)); rest > 0 {
			more = fmt.Sprintf(" and %d more", rest)
		}
		return failed("%d of %s cannot be opened: %s%s", shut, counted(opened+shut, "sealed value"), strings.Join(named, ", "), more).remedy("%s", remedy)
	case err != nil && ctx.Err() != nil:
		return warned("%s opened, then the time was up: the rest was not looked at", counted(opened, "sealed value")).
			remedy("run again when the database has less to do")
	case err != nil:
		return blamed(err)
	}
	return fine("%s opened, of every table that holds one", counted(opened, "sealed value"))
}
