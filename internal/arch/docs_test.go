package arch

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/fault"
)

const (
	root         = "../.."
	errorsFile   = "docs/errors.md"
	faultPackage = module + "internal/fault"
)

// errorRow is one row of a table in docs/errors.md: a code, and the statuses it is answered with. Codes that never
// reach HTTP have the command's exit code there instead.
var errorRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| ([^|]+) \\| ([^|]+) \\|$")

var codeShape = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// kinds are the names of the constants, as they stand in the code that is read here.
var kinds = map[string]fault.Kind{
	"Internal": fault.Internal, "Malformed": fault.Malformed, "Unauthenticated": fault.Unauthenticated,
	"Forbidden": fault.Forbidden, "NotFound": fault.NotFound, "NotAllowed": fault.NotAllowed, "Conflict": fault.Conflict,
	"Gone": fault.Gone, "TooLarge": fault.TooLarge, "Unsupported": fault.Unsupported, "Invalid": fault.Invalid,
	"RateLimited": fault.RateLimited, "Unavailable": fault.Unavailable, "BadGateway": fault.BadGateway,
	"GatewayTimeout": fault.GatewayTimeout,
}

// declared is where in the code a fault is made, and what it says.
type declared struct {
	code   string
	status int
	at     token.Position
}

// TestErrorCodesAreDocumented holds docs/errors.md to the code: whoever meets a code finds it there, with the
// statuses it comes with, and nothing is there that the product no longer says.
func TestErrorCodesAreDocumented(t *testing.T) {
	t.Parallel()
	inCode := map[string][]int{}
	where := map[string]token.Position{}
	for _, f := range declaredFaults(t) {
		if !codeShape.MatchString(f.code) {
			t.Errorf("%s: the code %q is not snake_case", f.at, f.code)
		}
		if !slices.Contains(inCode[f.code], f.status) {
			inCode[f.code] = append(inCode[f.code], f.status)
		}
		where[f.code] = f.at
	}
	if len(inCode) < 100 {
		t.Fatalf("only %d codes were found in the code: the search does not work any more", len(inCode))
	}
	documented := documentedCodes(t)
	for code, want := range inCode {
		slices.Sort(want)
		got, ok := documented[code]
		if !ok {
			t.Errorf("%s makes the code %q, which %s does not document: add a row | `%s` | %s | meaning | what to do |",
				where[code], code, errorsFile, code, statusCell(want))
			continue
		}
		if got != nil && !slices.Equal(got, want) {
			t.Errorf("%s documents %q with status %s; the code answers with %s (%s)", errorsFile, code, statusCell(got), statusCell(want), where[code])
		}
	}
	for code := range documented {
		if _, ok := inCode[code]; !ok {
			t.Errorf("%s documents %q, which no code makes any more: remove its row", errorsFile, code)
		}
	}
}

// documentedCodes reads the tables: for each code its statuses, ascending, or nil for one that never reaches HTTP.
func documentedCodes(t *testing.T) map[string][]int {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join(root, errorsFile))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]int{}
	rows := errorRow.FindAllStringSubmatch(string(doc), -1)
	// A row that is written in another way would be skipped, and its code reported as missing: say why instead.
	if n := strings.Count(string(doc), "\n| `"); n != len(rows) {
		t.Errorf("%s has %d rows that begin with a code, of which %d can be read as | `code` | status | meaning | what to do |", errorsFile, n, len(rows))
	}
	for _, row := range rows {
		code, cell := row[1], row[2]
		if _, twice := out[code]; twice {
			t.Errorf("%s documents %q twice", errorsFile, code)
		}
		if out[code], err = statuses(cell); err != nil {
			t.Errorf("%s: %q: %v", errorsFile, code, err)
		}
	}
	return out
}

// statuses reads "410, 403", or "exit 1" as none.
func statuses(cell string) ([]int, error) {
	if cell == "exit 1" || cell == "exit 2" {
		return nil, nil
	}
	var out []int
	for part := range strings.SplitSeq(cell, ", ") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 400 || n > 599 {
			return nil, fmt.Errorf("%q is neither a list of statuses nor exit 1 or exit 2", cell)
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

func statusCell(list []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ", "), "[]")
}

// declaredFaults reads every Go file of the product that is not a test.
func declaredFaults(t *testing.T) []declared {
	t.Helper()
	set := token.NewFileSet()
	var out []declared
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another process made and removed it; no file of the product goes away meanwhile
		}
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() {
			if name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".") && p != root {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(set, p, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		s := search{t: t, set: set, name: nameOfFault(file)}
		if s.name != "" {
			ast.Inspect(file, s.visit)
			out = append(out, s.found...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// nameOfFault is how a file calls the type fault.Fault; empty when it cannot.
func nameOfFault(file *ast.File) string {
	if file.Name.Name == path.Base(faultPackage) {
		return "Fault"
	}
	for _, imp := range file.Imports {
		if imp.Path.Value != strconv.Quote(faultPackage) {
			continue
		}
		switch {
		case imp.Name == nil:
			return path.Base(faultPackage) + ".Fault"
		case imp.Name.Name == ".":
			return "Fault"
		default:
			return imp.Name.Name + ".Fault"
		}
	}
	return ""
}

// testName is a test as the docs name it: `TestX`, or `package/directory.TestX`, or that with `/part` behind it.
var testName = regexp.MustCompile("`(?:((?:internal|cmd)/[a-z0-9/]+)\\.)?((?:Test|Fuzz)[A-Z][A-Za-z0-9]*)(?:/([^`]+))?`")

// TestDocsNameTestsThatExist keeps a claim from outliving the test that shows it.
func TestDocsNameTestsThatExist(t *testing.T) {
	t.Parallel()
	named := 0
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".md") {
			return err
		}
		doc, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, m := range testName.FindAllStringSubmatch(string(doc), -1) {
			named++
			if !testExists(t, m[1], m[2], m[3]) {
				t.Errorf("%s names the test %s, which is not there", p, m[0])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if named < 50 {
		t.Errorf("only %d names of tests were found in docs: the search does not work any more", named)
	}
}

// testExists looks in one directory, or in all when dir is empty. A part of a test is a literal in the same file.
func testExists(t *testing.T, dir, name, part string) bool {
	t.Helper()
	pattern := []string{"internal/*/*_test.go", "internal/*/*/*_test.go", "cmd/*/*_test.go"}
	if dir != "" {
		pattern = []string{dir + "/*_test.go"}
	}
	for _, p := range pattern {
		files, err := filepath.Glob(filepath.Join(root, p))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(source), "\nfunc "+name+"(") && (part == "" || strings.Contains(string(source), strconv.Quote(part))) {
				return true
			}
		}
	}
	return false
}

// search gathers the faults of one file.
type search struct {
	t     *testing.T
	set   *token.FileSet
	name  string
	found []declared
}

func (s *search) visit(n ast.Node) bool {
	lit, ok := n.(*ast.CompositeLit)
	if !ok {
		return true
	}
	if s.isFault(lit.Type) {
		s.read(lit)
	}
	// In a list or a map of faults the type is left out of each.
	var elem ast.Expr
	switch typ := lit.Type.(type) {
	case *ast.ArrayType:
		elem = typ.Elt
	case *ast.MapType:
		elem = typ.Value
	}
	if s.isFault(elem) {
		for _, e := range lit.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				e = kv.Value
			}
			if inner, ok := e.(*ast.CompositeLit); ok && inner.Type == nil {
				s.read(inner)
			}
		}
	}
	return true
}

func (s *search) isFault(e ast.Expr) bool {
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == s.name
	case *ast.SelectorExpr:
		x, ok := e.X.(*ast.Ident)
		return ok && x.Name+"."+e.Sel.Name == s.name
	}
	return false
}

// read takes code and kind out of a literal. A code that is copied from something's field Code is that one's; every
// other code has to be a literal, so that it can be found here and by whoever searches for it.
func (s *search) read(lit *ast.CompositeLit) {
	s.t.Helper()
	f := declared{at: s.set.Position(lit.Pos()), status: fault.Internal.Status()}
	for _, e := range lit.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			s.t.Errorf("%s: a fault without the names of its fields", f.at)
			return
		}
		switch key, _ := kv.Key.(*ast.Ident); key.Name {
		case "Code":
			switch v := kv.Value.(type) {
			case *ast.BasicLit:
				f.code, _ = strconv.Unquote(v.Value)
			case *ast.SelectorExpr:
				if v.Sel.Name == "Code" {
					return
				}
			}
			if f.code == "" {
				s.t.Errorf("%s: the code of a fault must be a literal string", f.at)
				return
			}
		case "Kind":
			name := ""
			switch v := kv.Value.(type) {
			case *ast.Ident:
				name = v.Name
			case *ast.SelectorExpr:
				name = v.Sel.Name
			}
			kind, ok := kinds[name]
			if !ok {
				s.t.Errorf("%s: the kind of a fault must be one of the constants, and known to this test", f.at)
			}
			f.status = kind.Status()
		}
	}
	if f.code == "" {
		s.t.Errorf("%s: a fault without a code", f.at)
		return
	}
	s.found = append(s.found, f)
}
