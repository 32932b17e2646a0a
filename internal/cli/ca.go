package cli

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

type rootDoc struct {
	Fingerprint  string    `json:"fingerprint"`
	Subject      string    `json:"subject"`
	NotAfter     time.Time `json:"not_after"`
	Current      bool      `json:"current"`
	Certificates int64     `json:"certificates"`
}

func (a *app) ca() *cobra.Command {
	return a.group("ca", "The root of the gateway's certificate authority, and its rollover", a.caShow(), a.caRotate(), a.caFinish())
}

func (a *app) caShow() *cobra.Command {
	return a.leaf("show", nil, "List the roots in trust and how many certificates in use lead to each", func(cmd *cobra.Command, _ []string) error {
		_, doc, err := a.ask(cmd, get("api", "federation", "ca", "roots"))
		if err != nil {
			return err
		}
		return showList(a, doc, listing[rootDoc]{
			none:   "no roots",
			header: []string{"FINGERPRINT", "SUBJECT", "STATE", "CERTIFICATES", "ENDS"},
			columns: func() func(rootDoc) []string {
				return func(r rootDoc) []string {
					state := "in trust"
					if r.Current {
						state = "signs"
					}
					return []string{r.Fingerprint, r.Subject, state, strconv.FormatInt(r.Certificates, 10), r.NotAfter.UTC().Format(time.DateOnly)}
				}
			},
		})
	})
}

func (a *app) caRotate() *cobra.Command {
	return a.leaf("rotate", nil, "Make a new root and sign under it; the old one stays in trust", func(cmd *cobra.Command, _ []string) error {
		if _, _, err := a.ask(cmd, post(nil, "api", "federation", "ca", "rotate")); err != nil {
			return err
		}
		return a.done("certificates come from a new root from now on; peers learn of it within an hour and renew within two. " +
			"When mosaic gateway ca show counts no certificates under the old one: mosaic gateway ca finish")
	})
}

func (a *app) caFinish() *cobra.Command {
	var force bool
	cmd := a.leaf("finish", nil, "Take the old root out of trust", func(cmd *cobra.Command, _ []string) error {
		if _, _, err := a.ask(cmd, post(map[string]bool{"force": force}, "api", "federation", "ca", "finish")); err != nil {
			return err
		}
		return a.done("the old root is out of trust")
	})
	cmd.Flags().BoolVar(&force, "force", false, "also when certificates are in use that only the old root vouches for: their peers have to enrol again")
	return cmd
}
