package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
)

// errAuditDamaged is what verify says of a log that is not what was signed.
var errAuditDamaged = &fault.Fault{
	Kind: fault.Conflict, Code: "audit_log_changed", Detail: "the audit log is not what was signed",
	Hint: "keep this export and the checkpoint: they are the evidence",
}

// stream copies the body of a success to w as it comes. What is cut off is an error: the gateway breaks the connection
// when it cannot go on.
func (c *client) stream(ctx context.Context, r request, w io.Writer) error {
	req, err := c.build(ctx, r)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "*/*")
	resp, err := c.http.Do(req)
	if err != nil {
		return c.failed(ctx, err, c.unreachable)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
		if err != nil {
			return c.failed(ctx, err, func(err error) error { return errConnectionLost.Because(err) })
		}
		return c.refused(answer{resp.StatusCode, resp.Header, text})
	}
	out := &outlet{to: w}
	if _, err := io.Copy(out, resp.Body); err != nil {
		if out.err != nil {
			return out.err
		}
		return c.failed(ctx, err, func(err error) error {
			return errConnectionLost.With("the export is cut off").Advise("export again; the gateway's log says why it stopped").Because(err)
		})
	}
	return nil
}

// outlet tells an error of the one who writes from an error of the one who is read.
type outlet struct {
	to  io.Writer
	err error
}

func (o *outlet) Write(p []byte) (int, error) {
	n, err := o.to.Write(p)
	if err != nil {
		o.err = errOutput.With("the export cannot be written").Advise("nothing was changed").Because(err)
	}
	return n, err
}

func exportRequest(format, since, until string, proof bool) request {
	r := get("api", "federation", "audit", "export")
	r.query = url.Values{"format": {format}}
	for name, value := range map[string]string{"since": since, "until": until} {
		if value != "" {
			r.query.Set(name, value)
		}
	}
	if proof {
		r.query.Set("proof", "true")
	}
	return r
}

func (a *app) auditExport() *cobra.Command {
	var format, since, until string
	var proof bool
	cmd := a.leaf("export", nil, "Write the audit log to stdout, oldest first, one row a line", func(cmd *cobra.Command, _ []string) error {
		if proof && format != audit.FormatLines {
			return misuse(cmd, "--with-proof goes with --format jsonl")
		}
		c, err := a.connect(cmd)
		if err != nil {
			return err
		}
		return c.stream(cmd.Context(), exportRequest(format, since, until, proof), a.env.Stdout)
	})
	cmd.Flags().StringVar(&format, "format", audit.FormatLines, "jsonl or csv")
	cmd.Flags().StringVar(&since, "since", "", "only rows from this time on (RFC 3339)")
	cmd.Flags().StringVar(&until, "until", "", "only rows before this time (RFC 3339)")
	cmd.Flags().BoolVar(&proof, "with-proof", false, "add what mosaic federation audit verify needs: lines with the key \"proof\"")
	return cmd
}

func (a *app) auditCheckpoint() *cobra.Command {
	return a.leaf("checkpoint", nil, "Print a signed statement of how far the audit log has come, to be kept elsewhere", func(cmd *cobra.Command, _ []string) error {
		_, doc, err := a.ask(cmd, get("api", "federation", "audit", "checkpoint"))
		if err != nil {
			return err
		}
		return show(a, doc, func(c struct {
			Checkpoint string `json:"checkpoint"`
		},
		) {
			for _, line := range plainLines(c.Checkpoint) {
				fmt.Fprintln(&a.out, line)
			}
		})
	})
}

func (a *app) auditKey() *cobra.Command {
	return a.leaf("key", nil, "Print the key that checkpoints are signed with, to be kept elsewhere", func(cmd *cobra.Command, _ []string) error {
		_, doc, err := a.ask(cmd, get("api", "federation", "audit", "key"))
		if err != nil {
			return err
		}
		return show(a, doc, func(k struct {
			Key string `json:"key"`
		},
		) {
			fmt.Fprintln(&a.out, plain(k.Key))
		})
	})
}

func (a *app) auditVerify() *cobra.Command {
	var checkpoint, key, since, until, dropped string
	cmd := a.leaf("verify", []string{"[FILE]"}, "Recompute the audit log and find every row that is not what was signed", func(cmd *cobra.Command, args []string) error {
		var o audit.VerifyOptions
		var err error
		if o.Key, err = a.verifierKey(cmd, key); err != nil {
			return err
		}
		if o.Since, err = moment(cmd, "since", since); err != nil {
			return err
		}
		if o.Until, err = moment(cmd, "until", until); err != nil {
			return err
		}
		if o.DroppedBefore, err = moment(cmd, "dropped-before", dropped); err != nil {
			return err
		}
		if checkpoint != "" {
			note, err := a.read(cmd, "--checkpoint", checkpoint, maxAnswerBytes)
			if err != nil {
				return err
			}
			o.Earlier = string(note)
		}
		var report audit.Report
		if len(args) == 1 {
			report, err = a.verifyFile(cmd, args[0], o)
		} else {
			report, err = a.verifyGateway(cmd, exportRequest(audit.FormatLines, since, until, true), o)
		}
		if err != nil {
			return err
		}
		return a.verified(report)
	})
	cmd.Long = cmd.Short + ".\n\nFILE is what mosaic federation audit export --with-proof wrote, or - for stdin; no gateway is needed then.\n" +
		"Without FILE the gateway is asked for everything, and what it says is recomputed here.\n\n" +
		"Only what is kept where the gateway cannot reach it shows that nothing was cut off or written anew:\n" +
		"--key, which mosaic federation audit key prints, and --checkpoint, which mosaic federation audit checkpoint prints."
	cmd.Flags().StringVar(&checkpoint, "checkpoint", "", "an earlier checkpoint that was kept elsewhere: a FILE, or - for stdin")
	cmd.Flags().StringVar(&key, "key", "", "the verifier key, kept elsewhere: its text, a FILE, or - for stdin; without it the export's own")
	cmd.Flags().StringVar(&since, "since", "", "the range that the export was asked for (RFC 3339)")
	cmd.Flags().StringVar(&until, "until", "", "the range that the export was asked for (RFC 3339)")
	cmd.Flags().StringVar(&dropped, "dropped-before", "", "retention may have dropped rows from before this time, and no later ones (RFC 3339)")
	return cmd
}

func moment(cmd *cobra.Command, name, value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, value)
	if err != nil {
		return t, misuse(cmd, "--%s takes a time such as 2026-01-31T00:00:00Z", name)
	}
	return t.UTC().Truncate(time.Microsecond), nil
}

// verifierKey takes the text of a key, or the file that it is in.
func (a *app) verifierKey(cmd *cobra.Command, value string) (string, error) {
	if value == "" || audit.IsKey(value) {
		return value, nil
	}
	if _, err := os.Stat(value); value != "-" && errors.Is(err, fs.ErrNotExist) {
		return "", audit.ErrKey.With("--key is neither a key nor a file that is there")
	}
	text, err := a.read(cmd, "--key", value, maxAnswerBytes)
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(text))
	if !audit.IsKey(key) {
		return "", audit.ErrKey.With("what --key names holds no key")
	}
	return key, nil
}

func (a *app) verifyFile(cmd *cobra.Command, name string, o audit.VerifyOptions) (audit.Report, error) {
	in, err := a.open(cmd, "FILE", name)
	if err != nil {
		return audit.Report{}, err
	}
	defer in.Close()
	return audit.Verify(in, o)
}

// verifyGateway reads the export while it comes.
func (a *app) verifyGateway(cmd *cobra.Command, r request, o audit.VerifyOptions) (audit.Report, error) {
	c, err := a.connect(cmd)
	if err != nil {
		return audit.Report{}, err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	in, out := io.Pipe()
	asked := make(chan error, 1)
	go func() {
		err := c.stream(ctx, r, out)
		asked <- err
		_ = out.CloseWithError(err)
	}()
	report, err := audit.Verify(in, o)
	_ = in.CloseWithError(errStopped) // an export that is wrong at its beginning is not read to its end
	if from := <-asked; from != nil && !errors.Is(from, errStopped) {
		return report, from
	}
	return report, err
}

var errStopped = errors.New("verification has ended")

// verified shows a report. A log that is not what was signed is exit 1, and with --json the report is still the
// document on stdout.
func (a *app) verified(r audit.Report) error {
	if a.json {
		if err := a.printJSON(r); err != nil {
			return err
		}
	}
	if r.OwnKey {
		a.warn("the key is the export's own: give --key, from where the gateway cannot reach it")
	}
	if !r.OK {
		if err := a.flush(); err != nil {
			return err
		}
		f := errAuditDamaged
		for _, p := range r.Problems {
			f = f.Listing(append(f.Problems, fault.Problem{Path: p.Kind, Detail: where(p)}))
		}
		if r.More > 0 {
			f = f.With("%s: %d more problems are not listed", f.Detail, r.More)
		}
		return f
	}
	if a.json {
		return nil
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%d rows in %d logs are what was signed at %s", r.Rows, r.Logs, stamp(*r.Checkpoint))
	if r.Earlier != nil {
		fmt.Fprintf(&s, ", and they continue the checkpoint of %s", stamp(*r.Earlier))
	}
	if r.Dropped > 0 {
		fmt.Fprintf(&s, "\n%d rows from before %s are known by time and hash only: retention dropped them", r.Dropped, stamp(*r.DroppedTo))
	}
	if r.Outside > 0 {
		fmt.Fprintf(&s, "\n%d rows outside of the range are known by time and hash only", r.Outside)
	}
	fmt.Fprintln(&a.out, s.String())
	return nil
}

// where says which row a problem is about.
func where(p audit.Problem) string {
	s := p.Detail
	if p.RequestID != "" {
		s += fmt.Sprintf("; request id %s", p.RequestID)
	}
	if p.LogID != nil && p.LeafIndex != nil {
		s += fmt.Sprintf("; leaf %d of log %s", *p.LeafIndex, p.LogID)
	}
	if p.Line > 0 {
		s += fmt.Sprintf("; line %d", p.Line)
	}
	return s
}
