package cli

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Markdown is the page of commands, written from the commands themselves. Those whose function env lacks are not on it.
func Markdown(env Env) string {
	var b bytes.Buffer
	b.WriteString(`# Commands

This page is written from the commands: do not edit it. ` + "`mosaic help COMMAND`" + ` prints the same.

Every command takes ` + "`--json`" + `: one JSON document on stdout, and errors on stderr. It exits with 0 when it is done, 1 when it was
refused, 2 when the command line could not be read, and 70 for a bug in the program. A refusal names its code, and
[errors.md](errors.md) says what to do about each.

`)
	root := (&app{env: env}).root()
	b.WriteString("Commands that talk to a gateway find it like this:\n\n")
	flagTable(&b, root.PersistentFlags())
	b.WriteString("\nWhere a user, team or peer is wanted, an id does, or an email or name.\n")
	for _, cmd := range root.Commands() {
		document(&b, cmd, 2)
	}
	return b.String()
}

func document(b *bytes.Buffer, cmd *cobra.Command, level int) {
	if !cmd.IsAvailableCommand() || cmd.Name() == "completion" {
		return
	}
	text := cmd.Short + "."
	if cmd.Long != "" {
		text = cmd.Long
	}
	fmt.Fprintf(b, "\n%s %s\n\n%s\n", strings.Repeat("#", level), cmd.CommandPath(), text)
	if cmd.HasAvailableSubCommands() {
		for _, child := range cmd.Commands() {
			document(b, child, min(level+1, 4))
		}
		return
	}
	fmt.Fprintf(b, "\n    %s\n", cmd.UseLine())
	if cmd.HasAvailableLocalFlags() {
		b.WriteString("\n")
		flagTable(b, cmd.LocalNonPersistentFlags())
	}
}

func flagTable(b *bytes.Buffer, flags *pflag.FlagSet) {
	b.WriteString("| flag | default | |\n| --- | --- | --- |\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if value != "" {
			name += " " + strings.ToUpper(value)
		}
		def := f.DefValue
		if def == "false" || def == "[]" || def == "0s" || def == "0" {
			def = ""
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, def, strings.ReplaceAll(usage, "|", `\|`))
	})
}
