package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

var (
	faultRow  = regexp.MustCompile(`(?m)^\| (\d+) \|.*$`)
	faultName = regexp.MustCompile("`([^`]+)`")
	testFunc  = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
)

// faults checks that all that migrate/FAULTS.md names is in the tree: tests as package.Name, files of migrate, scenarios of
// migrate/chaos as "chaos NAME"; and that it has a row for each fault and a mention of each fuzz target.
func faults() error {
	text, err := os.ReadFile("migrate/FAULTS.md")
	if err != nil {
		return err
	}
	tests, err := testNames()
	if err != nil {
		return err
	}
	chaos, err := os.ReadFile("migrate/chaos/scenario.go")
	if err != nil {
		return err
	}
	var errs []error
	rows := faultRow.FindAllStringSubmatch(string(text), -1)
	for i, row := range rows {
		if row[1] != strconv.Itoa(i+1) {
			errs = append(errs, fmt.Errorf("row %s is in the place of row %d", row[1], i+1))
		}
	}
	if len(rows) != 50 {
		errs = append(errs, fmt.Errorf("%d rows, not 50", len(rows)))
	}
	named := make(map[string]bool)
	for _, row := range rows {
		for _, m := range faultName.FindAllStringSubmatch(row[0], -1) {
			name := m[1]
			named[name] = true
			ok := tests[name]
			if scenario, is := strings.CutPrefix(name, "chaos "); is {
				ok = strings.Contains(string(chaos), "\t\""+scenario+"\":")
			} else if strings.HasSuffix(name, ".txt") {
				_, err := os.Stat(filepath.Join("migrate", name))
				ok = err == nil
			}
			if !ok {
				errs = append(errs, fmt.Errorf("row %s: there is no %s", row[1], name))
			}
		}
	}
	for name := range tests {
		if _, f, _ := strings.Cut(name, "."); strings.HasPrefix(f, "Fuzz") && !strings.Contains(string(text), "`"+name+"`") {
			errs = append(errs, fmt.Errorf("%s is not mentioned", name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("migrate/FAULTS.md:\n%w", err)
	}
	fmt.Printf("%d rows name %d tests, scenarios and files, which are all there\n", len(rows), len(named))
	return nil
}

// testNames lists the tests, fuzz targets and benchmarks of the tree, as directory.Name.
func testNames() (map[string]bool, error) {
	names := make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(src), -1) {
			names[filepath.Base(filepath.Dir(path))+"."+m[1]] = true
		}
		return nil
	})
	return names, err
}
