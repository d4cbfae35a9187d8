package main

import (
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// api prints the public API in the format of Go's api/go1.txt: one line per name, so that a diff shows what changes for
// importers.
func api() error {
	pkgs, exports, err := public()
	if err != nil {
		return err
	}
	imp := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})
	for _, p := range pkgs {
		tp, err := imp.Import(p.path)
		if err != nil {
			return err
		}
		l := listing{pkg: p.short(), qualify: func(o *types.Package) string {
			if o.Path() == p.path {
				return ""
			}
			return o.Name()
		}}
		l.names(tp.Scope())
		slices.Sort(l.lines)
		for _, line := range l.lines {
			fmt.Println(line)
		}
	}
	return nil
}

type listing struct {
	pkg     string
	qualify types.Qualifier
	lines   []string
}

func (l *listing) add(format string, args ...any) {
	l.lines = append(l.lines, "pkg "+l.pkg+", "+fmt.Sprintf(format, args...))
}

func (l *listing) typ(t types.Type) string { return types.TypeString(t, l.qualify) }

// signature formats the type of a function without parameter names, which may change.
func (l *listing) signature(s *types.Signature) string {
	anon := func(t *types.Tuple) *types.Tuple {
		var vs []*types.Var
		for v := range t.Variables() {
			vs = append(vs, types.NewVar(token.NoPos, nil, "", v.Type()))
		}
		return types.NewTuple(vs...)
	}
	tps := slices.Collect(s.TypeParams().TypeParams())
	head := ""
	if len(tps) > 0 {
		var names []string
		for _, tp := range tps {
			names = append(names, tp.Obj().Name()+" "+l.typ(tp.Constraint()))
		}
		head = "[" + strings.Join(names, ", ") + "]"
	}
	plain := types.NewSignatureType(nil, nil, nil, anon(s.Params()), anon(s.Results()), s.Variadic())
	return head + strings.TrimPrefix(l.typ(plain), "func")
}

func (l *listing) names(scope *types.Scope) {
	for _, name := range scope.Names() {
		if !token.IsExported(name) {
			continue
		}
		switch o := scope.Lookup(name).(type) {
		case *types.Const:
			l.add("const %s %s = %s", name, l.typ(o.Type()), o.Val())
		case *types.Var:
			l.add("var %s %s", name, l.typ(o.Type()))
		case *types.Func:
			l.add("func %s%s", name, l.signature(o.Signature()))
		case *types.TypeName:
			l.typeName(o)
		}
	}
}

func (l *listing) typeName(o *types.TypeName) {
	name := o.Name()
	if o.IsAlias() {
		l.add("type %s = %s", name, l.typ(o.Type()))
		return
	}
	named := o.Type().(*types.Named)
	switch u := named.Underlying().(type) {
	case *types.Struct:
		l.add("type %s struct", name)
		for f := range u.Fields() {
			if f.Exported() {
				l.add("type %s struct, %s %s", name, f.Name(), l.typ(f.Type()))
			}
		}
	case *types.Interface:
		var methods []string
		for m := range u.Methods() {
			methods = append(methods, m.Name())
			l.add("type %s interface, %s%s", name, m.Name(), l.signature(m.Signature()))
		}
		l.add("type %s interface { %s }", name, strings.Join(methods, ", "))
	default:
		l.add("type %s %s", name, l.typ(u))
	}
	if types.IsInterface(named) {
		return
	}
	// Include promoted methods.
	methods := make(map[string]string)
	for _, recv := range []types.Type{named, types.NewPointer(named)} {
		set := types.NewMethodSet(recv)
		for sel := range set.Methods() {
			f := sel.Obj().(*types.Func)
			if _, have := methods[f.Name()]; f.Exported() && !have {
				methods[f.Name()] = fmt.Sprintf("method (%s) %s%s", l.typ(recv), f.Name(), l.signature(f.Signature()))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		l.add("%s", methods[name])
	}
}
