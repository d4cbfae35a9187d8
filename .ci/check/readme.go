package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

var outputComment = regexp.MustCompile(`(?ms)^\s*// Output:.*?^}`)

// commands prints the shell commands of a section of README.md, or only those of its n-th block, counted from 1.
func commands(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errors.New("want SECTION [BLOCK]")
	}
	text, err := os.ReadFile("README.md")
	if err != nil {
		return err
	}
	here, lang, block, n := false, "", 0, 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && lang != "":
			lang = ""
		case isFence:
			lang = fence + "\n" // not "" even without a language
			if here && fence == "sh" {
				block++
			}
		case lang == "":
			if title, ok := strings.CutPrefix(line, "#"); ok {
				here = strings.TrimLeft(title, "# ") == args[0]
			}
		case here && lang == "sh\n" && line != "" && (len(args) == 1 || args[1] == strconv.Itoa(block)):
			fmt.Println(line)
			n++
		}
	}
	if n == 0 {
		return fmt.Errorf("README.md has no commands in %s", strings.Join(args, ", block "))
	}
	return nil
}

// readme prints the program in README.md. It fails unless the program equals the example in doc_test.go, which go test runs.
func readme() error {
	text, err := os.ReadFile("README.md")
	if err != nil {
		return err
	}
	_, after, ok := strings.Cut(string(text), "```go\n")
	program, _, ok2 := strings.Cut(after, "```\n")
	if !ok || !ok2 {
		return errors.New("README.md has no Go program")
	}
	test, err := os.ReadFile("doc_test.go")
	if err != nil {
		return err
	}
	want := strings.Replace(string(test), "package roam_test", "package main", 1)
	want = strings.Replace(want, "func Example() {", "func main() {", 1)
	want = outputComment.ReplaceAllString(want, "}")
	if program != want {
		return errors.New("the program in README.md differs from doc_test.go")
	}
	fmt.Print(program)
	return nil
}

// output prints the output that README.md states for its program.
func output() error {
	text, err := os.ReadFile("README.md")
	if err != nil {
		return err
	}
	_, after, ok := strings.Cut(string(text), "It prints:\n\n```\n")
	want, _, ok2 := strings.Cut(after, "```\n")
	if !ok || !ok2 {
		return errors.New("README.md has no output after \"It prints:\"")
	}
	fmt.Print(want)
	return nil
}
