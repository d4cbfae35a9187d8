// Command check runs the checks of this repository that no standard tool provides. Run it in the root directory:
//
//	go run ./.ci/check api        prints the public API, one line per name
//	go run ./.ci/check arrows     fails if a package imports one above it; lists .go files that are too long
//	go run ./.ci/check docs       fails if an exported name has no documentation
//	go run ./.ci/check examples   fails if a constructor or interface has no runnable example with output
//	go run ./.ci/check faults     fails if migrate/FAULTS.md names a test or scenario that does not exist
//	go run ./.ci/check readme     prints the program in README.md; fails if it differs from doc_test.go
//	go run ./.ci/check output     prints the output that README.md states for the program
//	go run ./.ci/check commands SECTION [BLOCK]
//	                              prints the shell commands of a section of README.md, or of one of its blocks
//	go run ./.ci/check tour FILE MOVES FAILOVERS
//	                              fails unless FILE ends with the summary of a tour without lost, duplicated or
//	                              reordered messages and with at least MOVES moves and FAILOVERS failovers
//	go run ./.ci/check chat N NAME=FILE...
//	                              fails unless each file contains N lines of each NAME, once each, in the same order
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

func main() {
	if len(os.Args) < 2 {
		fail("no check given")
	}
	var err error
	switch args := os.Args[2:]; os.Args[1] {
	case "api":
		err = api()
	case "arrows":
		err = arrows()
	case "docs":
		err = docs()
	case "examples":
		err = examples()
	case "faults":
		err = faults()
	case "readme":
		err = readme()
	case "output":
		err = output()
	case "commands":
		err = commands(args)
	case "tour":
		err = tour(args)
	case "chat":
		err = chat(args)
	default:
		fail("unknown check " + os.Args[1])
	}
	if err != nil {
		fail(err.Error())
	}
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, "check: "+why)
	os.Exit(1)
}

// pkg is a package that other modules can import.
type pkg struct{ path, dir, name, export string }

// short returns the package's path within the module.
func (p pkg) short() string {
	_, s, ok := strings.Cut(strings.TrimPrefix(p.path, "github.com/roam-go/"), "/")
	if !ok {
		return p.name
	}
	return s
}

// public returns the importable packages of the root module, and the export data files of all their dependencies.
func public() (pkgs []pkg, exports map[string]string, err error) {
	out, err := goList("-export", "-deps", "-f", "{{.ImportPath}}\t{{.Dir}}\t{{.Name}}\t{{.Export}}\t{{.DepOnly}}", "./...")
	if err != nil {
		return nil, nil, err
	}
	exports = make(map[string]string)
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		exports[f[0]] = f[3]
		internal := strings.Contains(f[0]+"/", "/internal/")
		if f[4] == "false" && f[2] != "main" && !internal {
			pkgs = append(pkgs, pkg{f[0], f[1], f[2], f[3]})
		}
	}
	return pkgs, exports, nil
}

func goList(args ...string) (string, error) {
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w", err)
	}
	return string(out), nil
}
