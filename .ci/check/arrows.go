package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

const (
	module   = "github.com/roam-go/roam"
	face     = module + "/migrate"
	internal = face + "/internal"

	// maxLines is the maximum length of a .go file.
	maxLines      = 700
	longFilesFail = true
)

// clientImports lists the packages of this module that the client may import: it must not depend on the code of the host.
var clientImports = []string{
	internal + "/wire", internal + "/hooks", module + "/transport", module + "/transport/msgpack", module + "/resolver",
}

// arrows fails if a package depends on a package above it, and lists files that are too long.
func arrows() error {
	out, err := goList("-json=ImportPath,Imports", "./...")
	if err != nil {
		return err
	}
	imports := make(map[string][]string) // by importing package, without its tests
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); err != nil {
			return err
		}
		imports[p.ImportPath] = p.Imports
	}
	wrong := wrongArrows(imports)
	long, err := longFiles(os.DirFS("."))
	if err != nil {
		return err
	}
	if longFilesFail {
		wrong = append(wrong, long...)
	} else {
		for _, l := range long {
			fmt.Println("warning:", l)
		}
	}
	if len(wrong) > 0 {
		return errors.Join(wrong...)
	}
	fmt.Printf("%d packages import no package above them\n", len(imports))
	return nil
}

// wrongArrows returns an error for each import that violates the layout of package migrate. The map contains the imports of
// each package.
func wrongArrows(imports map[string][]string) (wrong []error) {
	for _, p := range slices.Sorted(maps.Keys(imports)) {
		for _, to := range imports[p] {
			ours := to == module || strings.HasPrefix(to, module+"/")
			switch {
			case below(p, internal) && to == face:
				wrong = append(wrong, fmt.Errorf("%s imports %s: internal packages must not depend on the public one", p, to))
			case below(p, internal+"/client") && ours && !below(to, internal+"/client") && !slices.Contains(clientImports, to):
				wrong = append(wrong, fmt.Errorf("%s imports %s: of this module, the client imports only %s", p, to,
					strings.Join(clientImports, ", ")))
			}
		}
	}
	return wrong
}

// below reports whether p is the package at root or below it.
func below(p, root string) bool { return p == root || strings.HasPrefix(p, root+"/") }

var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// longFiles returns an error for each .go file, tests included, that is not generated and has more than maxLines lines.
func longFiles(tree fs.FS) (long []error, err error) {
	err = fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		src, err := fs.ReadFile(tree, path)
		if err != nil {
			return err
		}
		if n := strings.Count(string(src), "\n"); n > maxLines && !generated.Match(src) {
			long = append(long, fmt.Errorf("%s has %d lines, want at most %d", path, n, maxLines))
		}
		return nil
	})
	return long, err
}
