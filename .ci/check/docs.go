package main

import (
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// parse parses a package with its tests.
func (p pkg) parse() (*token.FileSet, *doc.Package, error) {
	const names = `{{range .GoFiles}}{{.}} {{end}}{{range .TestGoFiles}}{{.}} {{end}}{{range .XTestGoFiles}}{{.}} {{end}}`
	out, err := goList("-f", names, p.path)
	if err != nil {
		return nil, nil, err
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range strings.Fields(out) {
		f, err := parser.ParseFile(fset, filepath.Join(p.dir, name), nil, parser.ParseComments)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, f)
	}
	d, err := doc.NewFromFiles(fset, files, p.path, doc.PreserveAST)
	return fset, d, err
}

// docs fails if a package or an exported name lacks documentation: a constant, variable, type, function, method, struct
// field or interface method. Constants and variables can share the comment of their group. Fields and interface methods can
// be documented by name in the comment of their type or of another member.
func docs() error {
	pkgs, _, err := public()
	if err != nil {
		return err
	}
	names, missing := 0, 0
	for _, p := range pkgs {
		fset, d, err := p.parse()
		if err != nil {
			return err
		}
		check := func(pos token.Pos, name string, ok bool) {
			names++
			if !ok {
				missing++
				fmt.Fprintf(os.Stderr, "%s: %s has no documentation\n", fset.Position(pos), name)
			}
		}
		values := func(vs []*doc.Value) {
			for _, v := range vs {
				for _, s := range v.Decl.Specs {
					s := s.(*ast.ValueSpec)
					for _, id := range s.Names {
						if id.IsExported() {
							check(id.Pos(), id.Name, text(s.Doc, s.Comment, v.Decl.Doc))
						}
					}
				}
			}
		}
		funcs := func(recv string, fs []*doc.Func) {
			for _, f := range fs {
				check(f.Decl.Pos(), recv+f.Name, f.Doc != "")
			}
		}
		check(token.NoPos, "package "+p.path, d.Doc != "")
		values(d.Consts)
		values(d.Vars)
		funcs("", d.Funcs)
		for _, t := range d.Types {
			check(t.Decl.Pos(), t.Name, t.Doc != "")
			values(t.Consts)
			values(t.Vars)
			funcs("", t.Funcs)
			funcs(t.Name+".", t.Methods)
			for _, s := range t.Decl.Specs {
				members(s.(*ast.TypeSpec), t.Doc, check)
			}
		}
	}
	fmt.Printf("%d of %d exported names are documented\n", names-missing, names)
	if missing > 0 {
		return fmt.Errorf("%d exported names have no documentation", missing)
	}
	return nil
}

// members checks the fields of a struct or the methods of an interface.
func members(s *ast.TypeSpec, comment string, check func(token.Pos, string, bool)) {
	var list *ast.FieldList
	switch t := s.Type.(type) {
	case *ast.StructType:
		list = t.Fields
	case *ast.InterfaceType:
		list = t.Methods
	default:
		return
	}
	for _, f := range list.List {
		comment += f.Doc.Text() + f.Comment.Text()
	}
	for _, f := range list.List {
		for _, id := range f.Names {
			if id.IsExported() {
				named, _ := regexp.MatchString(`\b`+id.Name+`\b`, comment)
				check(id.Pos(), s.Name.Name+"."+id.Name, text(f.Doc, f.Comment) || named)
			}
		}
	}
}

func text(groups ...*ast.CommentGroup) bool {
	for _, g := range groups {
		if strings.TrimSpace(g.Text()) != "" {
			return true
		}
	}
	return false
}

// constructor matches the functions that create a value, as opposed to conversions and lookups.
var constructor = regexp.MustCompile(`^(New|Dial|Join|Listen|Load|Open|Receive)`)

// examples fails if a constructor or interface has no runnable example with output. The example of a constructor can be
// named after the constructor or after its type.
func examples() error {
	pkgs, _, err := public()
	if err != nil {
		return err
	}
	names, missing := 0, 0
	for _, p := range pkgs {
		fset, d, err := p.parse()
		if err != nil {
			return err
		}
		check := func(pos token.Pos, name string, exs ...*doc.Example) {
			names++
			for _, e := range exs {
				if e.Output != "" || e.EmptyOutput {
					return
				}
			}
			missing++
			fmt.Fprintf(os.Stderr, "%s: %s.%s has no runnable example with output\n", fset.Position(pos), d.Name, name)
		}
		for _, f := range d.Funcs {
			if constructor.MatchString(f.Name) {
				check(f.Decl.Pos(), f.Name, f.Examples...)
			}
		}
		for _, t := range d.Types {
			if _, ok := t.Decl.Specs[0].(*ast.TypeSpec).Type.(*ast.InterfaceType); ok {
				check(t.Decl.Pos(), t.Name, t.Examples...)
			}
			for _, f := range t.Funcs {
				if constructor.MatchString(f.Name) {
					check(f.Decl.Pos(), f.Name, append(f.Examples, t.Examples...)...)
				}
			}
		}
	}
	fmt.Printf("%d of %d constructors and interfaces have a runnable example\n", names-missing, names)
	if missing > 0 {
		return fmt.Errorf("%d constructors or interfaces have no runnable example", missing)
	}
	return nil
}
