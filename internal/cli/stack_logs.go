package cli

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"sync"

	"github.com/spf13/cobra"

	"github.com/mosaicstack/gateway/internal/portainer"
)

func (a *app) stackLogs() *cobra.Command {
	var endpoint, tail string
	var follow bool
	cmd := a.stackLeaf("logs", []string{"NAME", "[SERVICE]"}, "Show the logs of a stack's services, or of one", func(cmd *cobra.Command, p *portainer.Client, args []string) error {
		o := portainer.LogOptions{Follow: follow}
		if tail != "all" {
			n, err := strconv.Atoi(tail)
			if err != nil || n < 1 {
				return misuse(cmd, "--tail takes a whole number from 1 on, or all")
			}
			o.Tail = n
		}
		if len(args) == 2 {
			o.Service = args[1]
		}
		var one sync.Mutex // stderr may be the same terminal for several services
		o.Notice = func(text string) {
			one.Lock()
			defer one.Unlock()
			a.warn("%s", text)
		}
		s, err := p.Stack(cmd.Context(), args[0], endpoint)
		if err != nil {
			return err
		}
		return p.Logs(cmd.Context(), s, o, a.writeLine)
	})
	cmd.Long = cmd.Short + ".\n\nWhat the services wrote goes to stdout, a line each, with --json as one object a line. Lines of several services\n" +
		"are ordered by time, but for --follow, which shows them as they come."
	whichEndpoint(cmd, &endpoint)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until Ctrl-C; a connection that ends is taken up again, which is told on stderr")
	cmd.Flags().StringVar(&tail, "tail", "100", "how many lines of each service: a number, or all")
	return cmd
}

// styling is what programs write for a terminal to colour their output: sequences that begin with ESC. plain would
// leave all but the ESC.
var styling = regexp.MustCompile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[ -/]*[0-Z\\\\^-~])")

// writeLine writes a line at once: somebody may be watching.
func (a *app) writeLine(l portainer.Line) error {
	doc := []byte(fmt.Sprintf("%s | %s%s\n", plain(l.Task), plain(styling.ReplaceAllString(l.Text, "")), cutMark(l.Cut)))
	if a.json {
		object, err := json.Marshal(l)
		if err != nil {
			return fmt.Errorf("cli: log: %w", err)
		}
		doc = append(escapeHidden(object), '\n')
	}
	if _, err := a.env.Stdout.Write(doc); err != nil {
		return errOutput.With("the log cannot be written").Advise("nothing was changed").Because(err)
	}
	return nil
}

func cutMark(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" … (%d more bytes)", n)
}
