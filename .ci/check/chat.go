package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// tour checks the summary in the last line of the output of tour --json.
func tour(args []string) error {
	if len(args) != 3 {
		return errors.New("want FILE MOVES FAILOVERS")
	}
	moves, err1 := strconv.Atoi(args[1])
	failovers, err2 := strconv.Atoi(args[2])
	out, err := os.ReadFile(args[0])
	if err := errors.Join(err1, err2, err); err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	last := lines[len(lines)-1]
	// Pointers distinguish a missing field from 0.
	var sum struct {
		Sent, Acknowledged, Lost, Duplicated, Reordered, Moves, Failovers *int
	}
	if err := json.Unmarshal([]byte(last), &sum); err != nil {
		return fmt.Errorf("the last line is not a summary: %w: %s", err, last)
	}
	const any = 1 << 40
	for _, c := range []struct {
		name     string
		value    *int
		min, max int
	}{
		{"sent", sum.Sent, 1, any}, {"acknowledged", sum.Acknowledged, 1, any},
		{"lost", sum.Lost, 0, 0}, {"duplicated", sum.Duplicated, 0, 0}, {"reordered", sum.Reordered, 0, 0},
		{"moves", sum.Moves, moves, any}, {"failovers", sum.Failovers, failovers, any},
	} {
		if c.value == nil || *c.value < c.min || *c.value > c.max {
			return fmt.Errorf("%q is missing or not in %d to %d: %s", c.name, c.min, c.max, last)
		}
	}
	if *sum.Sent != *sum.Acknowledged {
		return fmt.Errorf("%d commands were sent but %d acknowledged", *sum.Sent, *sum.Acknowledged)
	}
	return nil
}

// chat checks the outputs of several runs of console --json. FILE is the output of the console of user NAME. Each user sent
// the lines "NAME 1" to "NAME N". Each console must have received every line once, in the same order, over at least two
// moves.
func chat(args []string) error {
	if len(args) < 3 {
		return errors.New("want N and at least two NAME=FILE")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	names := make(map[string]string)
	for _, a := range args[1:] {
		name, file, ok := strings.Cut(a, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=FILE", a)
		}
		names[name] = file
	}
	var first []string
	for name, file := range names {
		lines, moves, err := received(file)
		if err != nil {
			return err
		}
		next := make(map[string]int)
		for _, line := range lines {
			from, text, _ := strings.Cut(line, ": ")
			if _, ok := names[from]; !ok {
				return fmt.Errorf("%s received a line from an unknown user: %s", name, line)
			}
			next[from]++
			if want := fmt.Sprintf("%s %d", from, next[from]); text != want {
				return fmt.Errorf("%s received %q, want %q: lost, duplicated or reordered", name, text, want)
			}
		}
		for from := range names {
			if next[from] != n {
				return fmt.Errorf("%s received %d lines from %s, want %d", name, next[from], from, n)
			}
		}
		if moves < 2 {
			return fmt.Errorf("%s saw %d moves, want at least 2", name, moves)
		}
		if first == nil {
			first = lines
		}
		if !slices.Equal(first, lines) {
			return errors.New("two consoles received the lines in different orders")
		}
		fmt.Printf("%s received %d lines, each once and in order, over %d moves\n", name, len(lines), moves)
	}
	return nil
}

// received returns the messages in a console's output and the number of moves.
func received(file string) (lines []string, moves int, err error) {
	out, err := os.ReadFile(file)
	if err != nil {
		return nil, 0, err
	}
	for line := range strings.Lines(string(out)) {
		var m struct{ Kind, From, Text string }
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			return nil, 0, fmt.Errorf("%s: %w: %s", file, err, line)
		}
		switch m.Kind {
		case "message":
			lines = append(lines, m.From+": "+m.Text)
		case "moved":
			moves++
		case "gap", "error":
			return nil, 0, fmt.Errorf("%s: %s", file, line)
		}
	}
	return lines, moves, nil
}
