package cli

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/mosaicstack/gateway/internal/portainer"
	"github.com/mosaicstack/gateway/internal/seal"
)

const maxStackFile = 1 << 20

// stackFile reads a Compose file. What is in it, Docker says.
func (a *app) stackFile(cmd *cobra.Command, name string) (string, error) {
	text, err := a.read(cmd, "--file", name, maxStackFile)
	switch {
	case err != nil:
		return "", err
	case len(text) > maxStackFile:
		return "", errFileUnreadable.With("the stack's file is larger than 1 MiB")
	case len(bytes.TrimSpace(text)) == 0 || !utf8.Valid(text):
		return "", errFileUnreadable.With("the stack's file is empty, or no text")
	}
	return string(text), nil
}

func envFlags(cmd *cobra.Command, env *[]string, file *string, more string) {
	cmd.Flags().StringArrayVar(env, "env", nil, "a variable of the stack, NAME=VALUE; secrets go in --env-file, because others can read a command line"+more)
	cmd.Flags().StringVar(file, "env-file", "", "variables of the stack, NAME=VALUE a line: a FILE, or - for stdin")
}

// variables are those of --env-file, and of --env, which wins. No error repeats a value.
func (a *app) variables(cmd *cobra.Command, env []string, file string) ([]portainer.Variable, error) {
	var out []portainer.Variable
	set := func(line string) bool {
		name, value, ok := strings.Cut(line, "=")
		if !ok || !isVariable(name) {
			return false
		}
		v := portainer.Variable{Name: name, Value: seal.NewSecret(value)}
		if i := slices.IndexFunc(out, func(o portainer.Variable) bool { return o.Name == name }); i >= 0 {
			out[i] = v
			return true
		}
		out = append(out, v)
		return true
	}
	if file != "" {
		text, err := a.read(cmd, "--env-file", file, maxStackFile)
		if err != nil {
			return nil, err
		}
		if len(text) > maxStackFile || !utf8.Valid(text) {
			return nil, errFileUnreadable.With("--env-file is larger than 1 MiB, or no text")
		}
		for n, line := range strings.Split(string(text), "\n") {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' {
				continue
			}
			if name, value, ok := strings.Cut(line, "="); ok {
				line = strings.TrimSpace(name) + "=" + unquoted(strings.TrimSpace(value))
			}
			if !set(line) {
				return nil, errFileUnreadable.With("line %d of --env-file is not NAME=VALUE", n+1).Advise("a name is of letters, digits and _; a line that begins with # is passed over")
			}
		}
	}
	for _, pair := range env {
		if !set(pair) {
			return nil, misuse(cmd, "--env takes NAME=VALUE")
		}
	}
	return out, nil
}

// unquoted takes off the quotes around a whole value, as Compose does.
func unquoted(s string) string {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		return s[1 : n-1]
	}
	return s
}

func isVariable(name string) bool {
	for i, r := range name {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}
