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

// minFaults is the minimum number of rows in migrate/FAULTS.md.
const minFaults = 50

// faults checks that everything that migrate/FAULTS.md names exists: tests as package.Name, files of migrate, and scenarios
// of migrate/chaos as "chaos NAME". It also checks that the rows are numbered, and that every fuzz target is mentioned.
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
			errs = append(errs, fmt.Errorf("row %s where row %d is expected", row[1], i+1))
		}
	}
	if len(rows) < minFaults {
		errs = append(errs, fmt.Errorf("%d rows, want at least %d", len(rows), minFaults))
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
				errs = append(errs, fmt.Errorf("row %s: %s does not exist", row[1], name))
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
	fmt.Printf("%d rows name %d tests, scenarios and files, which all exist\n", len(rows), len(named))
	return nil
}

// testNames returns all tests, fuzz targets and benchmarks as directory.Name.
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
