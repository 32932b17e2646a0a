package cli

import (
	"strconv"

	"github.com/spf13/cobra"
)

type keyDoc struct {
	ID      uint32 `json:"id"`
	Primary bool   `json:"primary"`
	Enabled bool   `json:"enabled"`
	Rows    int64  `json:"rows"`
}

func (a *app) keyring() *cobra.Command {
	return a.group("keyring", "The keys that secrets are sealed with at rest", a.keyringShow(), a.keyringRotate(), a.keyringRetire())
}

func (a *app) keyringShow() *cobra.Command {
	return a.leaf("show", nil, "List the sealing keys and how many rows each still holds", func(cmd *cobra.Command, _ []string) error {
		_, doc, err := a.ask(cmd, get("api", "keyring"))
		if err != nil {
			return err
		}
		return showList(a, doc, listing[keyDoc]{
			none:   "no keys",
			header: []string{"ID", "STATE", "ROWS"},
			columns: func() func(keyDoc) []string {
				return func(k keyDoc) []string {
					state := "opens old values"
					switch {
					case k.Primary:
						state = "seals new values"
					case !k.Enabled:
						state = "retired"
					}
					return []string{strconv.FormatUint(uint64(k.ID), 10), state, strconv.FormatInt(k.Rows, 10)}
				}
			},
		})
	})
}

func (a *app) keyringRotate() *cobra.Command {
	return a.leaf("rotate", nil, "Add a fresh key; what is sealed moves to it in the background", func(cmd *cobra.Command, _ []string) error {
		if _, _, err := a.ask(cmd, post(nil, "api", "keyring", "rotate")); err != nil {
			return err
		}
		return a.done("a fresh key seals from now on; retire the old one when mosaic gateway keyring show counts no rows under it")
	})
}

func (a *app) keyringRetire() *cobra.Command {
	return a.leaf("retire", []string{"ID"}, "Retire a key that no row is sealed with", func(cmd *cobra.Command, args []string) error {
		id, err := strconv.ParseUint(args[0], 10, 32)
		if err != nil {
			return misuse(cmd, "a key's id is a number, as mosaic gateway keyring show lists it")
		}
		if _, _, err := a.ask(cmd, post(map[string]uint64{"id": id}, "api", "keyring", "retire")); err != nil {
			return err
		}
		return a.done("key %d is retired", id)
	})
}
