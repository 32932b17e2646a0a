package cli

import (
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

func (a *app) resources() *cobra.Command {
	return a.group("resource", "Rows that this gateway holds", a.resourceImport())
}

func (a *app) resourceImport() *cobra.Command {
	var owner, team string
	cmd := a.leaf("import", []string{"RESOURCE", "FILE"}, "Import rows from a file of JSON lines (- reads stdin): all of them, or none",
		func(cmd *cobra.Command, args []string) error {
			c, err := a.connect(cmd)
			if err != nil {
				return err
			}
			file, err := a.open(cmd, "FILE", args[1])
			if err != nil {
				return err
			}
			defer file.Close()
			query := url.Values{"owner": {owner}}
			if team != "" {
				query.Set("team", team)
			}
			doc, err := c.do(cmd.Context(), request{
				method: http.MethodPost, path: []string{"api", "resources", args[0], "import"}, query: query, lines: file,
			})
			if err != nil {
				return err
			}
			return show(a, doc, func(d struct{ Imported int64 }) { a.say("imported %d %s", d.Imported, args[0]) })
		})
	cmd.Flags().StringVar(&owner, "owner", "", "whose rows, by id or email")
	cmd.Flags().StringVar(&team, "team", "", "the team they belong to, by id or name (default: personal rows)")
	return require(cmd, "owner")
}
