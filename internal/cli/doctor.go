package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/mosaicstack/gateway/internal/doctor"
)

func (a *app) doctor() *cobra.Command {
	cmd := a.leaf("doctor", nil, "Look at everything the gateway stands on, and say what is wrong and what to do", func(cmd *cobra.Command, _ []string) error {
		report, err := a.env.Gateway.Doctor(cmd.Context(), DoctorOptions{Dir: a.directory(cmd), Local: cmd.Flags().Changed("dir")})
		switch {
		case cmd.Context().Err() != nil:
			return errInterrupted
		case err != nil:
			return err
		}
		if err := a.showReport(report); err != nil {
			return err
		}
		n := report.Failed()
		if n == 0 {
			return nil
		}
		if err := a.flush(); err != nil { // what was found is the point, all the more now
			return err
		}
		return errDoctor.With("%d of %d checks failed", n, len(report.Checks))
	})
	cmd.Long = `Doctor reads the environment as "gateway serve" does. Without MOSAIC_TIER and DATABASE_URL, or with --dir, it looks at
the directory of "gateway dev". It changes nothing; it has the CA sign certificates that are thrown away and revoked.

It exits 1 when a check failed. Warnings, and checks that were skipped because another one failed, leave 0.`
	return cmd
}

func (a *app) showReport(report doctor.Report) error {
	if a.json {
		return a.printJSON(report)
	}
	skipped := map[string][]string{}
	var because []string // in the order of their first mention
	w := tabwriter.NewWriter(&a.out, 0, 0, 2, ' ', 0)
	for _, f := range report.Checks {
		if f.Because != "" {
			if skipped[f.Because] == nil {
				because = append(because, f.Because)
			}
			skipped[f.Because] = append(skipped[f.Because], f.Name)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Status, plain(f.Name), plain(f.Detail))
		if f.Remedy != "" {
			fmt.Fprintf(w, "\t\tremedy: %s\n", plain(f.Remedy))
		}
	}
	for _, name := range because {
		fmt.Fprintf(w, "skip\t%s\tis not ok, so these were not looked at: %s\n", plain(name), strings.Join(skipped[name], ", "))
	}
	return w.Flush()
}
