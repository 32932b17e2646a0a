package cli

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// app is one run of the program.
type app struct {
	env Env

	// The flags that every command has.
	url, token, dir string
	json            bool

	out        bytes.Buffer // what goes to stdout when the command has succeeded
	started    bool         // the command line was readable and the command's own code ran
	stdinTaken string       // which argument reads standard input: only one can
}

const defaultDir = ".mosaic"

func (a *app) root() *cobra.Command {
	root := a.group("mosaic", "A federation gateway: ask another gateway now, and leave nothing behind",
		a.gateway(), a.users(), a.teams(), a.tokens(), a.resources(), a.federation(), a.mcp(), a.stacks(), a.version())
	root.Version = a.env.Version
	root.SetVersionTemplate("mosaic {{.Version}}\n")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetArgs(append([]string{}, a.env.Args...)) // never nil: cobra would take those of the process
	root.SetIn(a.env.Stdin)
	root.SetOut(&a.out)
	root.SetErr(a.env.Stderr)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(a.help())
	root.InitDefaultCompletionCmd() // after SetOut: it keeps the writer
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		a.asGroup(completion)
	}
	// A group can be run, only to say that it needs a command: its usage does not offer that.
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}", 1))

	flags := root.PersistentFlags()
	flags.StringVar(&a.url, "url", "", "the gateway's address (MOSAIC_URL); without it, the admin socket in --dir")
	flags.StringVar(&a.token, "token", "", "API token for --url: the token itself, a FILE that holds it, or - for stdin (MOSAIC_TOKEN, MOSAIC_TOKEN_FILE)")
	flags.StringVar(&a.dir, "dir", defaultDir, "the gateway's directory (MOSAIC_DIR)")
	flags.BoolVar(&a.json, "json", false, "print one JSON document")
	return root
}

// group is a command that only holds others.
func (a *app) group(name, short string, children ...*cobra.Command) *cobra.Command {
	cmd := a.asGroup(&cobra.Command{Use: name, Short: short})
	cmd.AddCommand(children...)
	return cmd
}

// asGroup makes cmd refuse what is none of its commands, and nothing at all, where cobra would show help and succeed.
func (a *app) asGroup(cmd *cobra.Command) *cobra.Command {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		fmt.Fprintln(a.env.Stderr, cmd.UsageString())
		return misuse(cmd, "a command is missing after %q", cmd.CommandPath())
	}
	return cmd
}

// leaf is a command that does something. params names its arguments; those in brackets may be left out.
func (a *app) leaf(name string, params []string, short string, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use:   strings.Join(append([]string{name}, params...), " "),
		Short: short,
		Args:  takes(params),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := refuseEmptyFlags(cmd); err != nil {
				return err
			}
			a.started = true
			return run(cmd, args)
		},
	}
}

// takes checks the number of arguments. Arguments become parts of a path, where empty ones and dots would mean
// something else. The message repeats none of them: they may be secrets in the wrong place.
func takes(params []string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) > len(params) && len(params) == 0:
			return misuse(cmd, "%s takes no arguments", cmd.CommandPath())
		case len(args) > len(params):
			return misuse(cmd, "too many arguments: %s takes %s", cmd.CommandPath(), strings.Join(params, " "))
		case len(args) < len(params) && !strings.HasPrefix(params[len(args)], "["):
			return misuse(cmd, "%s is missing", params[len(args)])
		}
		if missing := missingFlags(cmd); len(missing) > 0 {
			return misuse(cmd, "%s must be given", strings.Join(missing, " and "))
		}
		for i, arg := range args {
			if arg == "" || arg == "." || arg == ".." {
				return misuse(cmd, "%q cannot be %s", arg, strings.Trim(params[i], "[]"))
			}
		}
		return nil
	}
}

// refuseEmptyFlags stops what an unset shell variable does: --expires "$TTL" must not become a grant without end.
func refuseEmptyFlags(cmd *cobra.Command) error {
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if err == nil && f.Value.String() == "" {
			err = misuse(cmd, "--%s is empty", f.Name)
		}
	})
	return err
}

// missingFlags lists the required flags that were not given. Cobra would find them too, later and in its own words.
func missingFlags(cmd *cobra.Command) []string {
	var missing []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if _, required := f.Annotations[cobra.BashCompOneRequiredFlag]; required && !f.Changed {
			missing = append(missing, "--"+f.Name)
		}
	})
	return missing
}

// require marks flags without which a command makes no sense.
func require(cmd *cobra.Command, names ...string) *cobra.Command {
	for _, name := range names {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag does not exist
		}
	}
	return cmd
}

// given repeats the flags, of those named, that the person typed: a command that is suggested to them then means the
// same gateway. --token is never among them.
func given(cmd *cobra.Command, names ...string) string {
	var typed strings.Builder
	for _, name := range names {
		if f := cmd.Flags().Lookup(name); f.Changed {
			typed.WriteString(" --" + name + " " + quoted(f.Value.String()))
		}
	}
	return typed.String()
}

// here is given for a command that has no other flags.
func here(cmd *cobra.Command) string { return given(cmd, "dir", "url") }

// misuse is the error of a command line that cannot be read.
func misuse(cmd *cobra.Command, format string, args ...any) error {
	return errUsage.With(format, args...).Advise("see: %s --help", cmd.CommandPath())
}

func unknownCommand(cmd *cobra.Command, name string) error {
	f := errUsage.With("there is no command %q", cmd.CommandPath()+" "+name).Advise("see: %s --help", cmd.CommandPath())
	if similar := cmd.SuggestionsFor(name); len(similar) > 0 {
		for i := range similar {
			similar[i] = cmd.CommandPath() + " " + similar[i]
		}
		f = f.Advise("did you mean: %s", strings.Join(similar, ", or "))
	}
	return f
}

// flagError says what is wrong with a flag. When the flag belongs to a mistyped command, the command is what is
// wrong: the group that was found instead does not know its flags.
func flagError(cmd *cobra.Command, err error) error {
	if rest := cmd.Flags().Args(); cmd.HasSubCommands() && len(rest) > 0 {
		return unknownCommand(cmd, rest[0])
	}
	if bad := (*pflag.InvalidValueError)(nil); errors.As(err, &bad) {
		kinds := map[string]string{"int": "a whole number", "int64": "a whole number", "bool": "true or false"}
		return misuse(cmd, "--%s takes %s, not %q", bad.GetFlag().Name, cmp.Or(kinds[bad.GetFlag().Value.Type()], "another value"), bad.GetValue())
	}
	return misuse(cmd, "%s", err)
}

// help is "mosaic help COMMAND"; unlike cobra's own, it refuses a command that does not exist.
func (a *app) help() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "Show the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil {
				return misuse(cmd, "%s", err)
			}
			if len(rest) > 0 {
				return unknownCommand(found, rest[0])
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}

func (a *app) version() *cobra.Command {
	return a.leaf("version", nil, "Print the version", func(*cobra.Command, []string) error {
		if a.json {
			return a.printJSON(map[string]string{"version": a.env.Version})
		}
		fmt.Fprintln(&a.out, "mosaic", a.env.Version)
		return nil
	})
}
