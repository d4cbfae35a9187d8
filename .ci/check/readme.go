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

// commands prints the command lines of a section of README.md, or those of its n'th block alone, counted from 1.
func commands(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errors.New("want the title of a section, and perhaps the number of a block")
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
			lang = fence + "\n" // also without a language it is not ""
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
		return fmt.Errorf("README.md has no such commands: %s", strings.Join(args, ", block "))
	}
	return nil
}

// readme prints the program in README.md, after making sure that it is the example in doc_test.go, which go test runs.
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
		return errors.New("README.md's program is not the one in doc_test.go")
	}
	fmt.Print(program)
	return nil
}

// output prints what README.md says that its program prints.
func output() error {
	text, err := os.ReadFile("README.md")
	if err != nil {
		return err
	}
	_, after, ok := strings.Cut(string(text), "It prints:\n\n```\n")
	want, _, ok2 := strings.Cut(after, "```\n")
	if !ok || !ok2 {
		return errors.New("README.md does not say what its program prints")
	}
	fmt.Print(want)
	return nil
}
