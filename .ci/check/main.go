// Check holds the checks of the repository that no ordinary tool makes. Run it in the root:
//
//	go run ./.ci/check api        prints the public API, one line a name
//	go run ./.ci/check docs       fails if an exported name has no documentation
//	go run ./.ci/check examples   fails if a constructor or interface has no runnable example with output
//	go run ./.ci/check faults     fails if migrate/FAULTS.md names a test or scenario that is not there
//	go run ./.ci/check readme     fails if the program in README.md is not the one in doc_test.go; prints it
//	go run ./.ci/check output     prints what README.md says that the program prints
//	go run ./.ci/check commands SECTION [BLOCK]
//	                              prints the command lines of a section of README.md, or of one of its blocks
//	go run ./.ci/check tour FILE MOVES FAILOVERS
//	                              fails unless FILE ends with the summary of a tour that lost nothing, doubled nothing,
//	                              kept the order, and had at least so many moves and failovers
//	go run ./.ci/check chat N NAME=FILE...
//	                              fails unless each file holds N lines of each NAME, once each, in one order
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

func main() {
	if len(os.Args) < 2 {
		fail("want the name of a check")
	}
	var err error
	switch args := os.Args[2:]; os.Args[1] {
	case "api":
		err = api()
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
		fail("no check " + os.Args[1])
	}
	if err != nil {
		fail(err.Error())
	}
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, "check: "+why)
	os.Exit(1)
}

// pkg is a package that programs outside the repository can import.
type pkg struct{ path, dir, name, export string }

// short is the package's path inside the module.
func (p pkg) short() string {
	_, s, ok := strings.Cut(strings.TrimPrefix(p.path, "github.com/roam-go/"), "/")
	if !ok {
		return p.name
	}
	return s
}

// public lists the root module's packages, without internal ones and programs, and the export data of all that they import.
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
