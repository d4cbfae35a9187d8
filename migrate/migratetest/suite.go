package migratetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/roam-go/roam/migrate"
)

// suite is a test of a Subject.
type suite struct {
	Subject
	steps  []step
	judged bool // step.refused is set
}

// step is an entry of the log.
type step struct {
	migrate.Command
	name    string
	end     bool // of the session
	refused bool
}

// newSuite makes steps from the commands, followed by the ends of their sessions.
func newSuite(subject Subject) *suite {
	s := &suite{Subject: subject}
	var ends []step
	var last uint64
	for i, cmd := range s.Commands {
		if cmd.Index == 0 {
			cmd.Index = uint64(i + 2)
		}
		if cmd.Epoch == 0 {
			cmd.Epoch = 1
		}
		if cmd.Time.IsZero() {
			cmd.Time = time.UnixMilli(1e12 + int64(i))
		}
		if cmd.Session == 0 {
			cmd.Session = 1
		}
		if cmd.Seq == 0 {
			cmd.Seq = uint64(i + 1)
		}
		last = max(last, cmd.Index)
		s.steps = append(s.steps, step{Command: cmd, name: fmt.Sprintf("command %d", i)})
		if !slices.ContainsFunc(ends, func(e step) bool { return e.Session == cmd.Session }) {
			ends = append(ends, step{Command: cmd, name: fmt.Sprintf("end of session %d", cmd.Session), end: true})
		}
	}
	latest := s.steps[len(s.steps)-1]
	for i, e := range ends {
		e.Index, e.Epoch, e.Time, e.Seq, e.Body = last+uint64(i+1), latest.Epoch, latest.Time, 0, nil
		s.steps = append(s.steps, e)
	}
	return s
}

func (s *suite) check(r rule) error {
	if r.name != "new" && !s.judged {
		if err := s.judge(); err != nil {
			return err
		}
		s.judged = true
	}
	return r.check(s)
}

// judge calls Validate once for each command to find the refused ones. On hosts, too, only the active one calls it.
func (s *suite) judge() error {
	m, err := s.fresh()
	if err != nil {
		return err
	}
	if _, ok := m.(migrate.Validator); !ok {
		return nil
	}
	left := 0
	for i := range s.Commands {
		if s.steps[i].refused, err = s.refuses(m, i); err != nil {
			return err
		}
		if !s.steps[i].refused {
			left++
		}
		if _, err := s.apply(m, i, i+1); err != nil {
			return err
		}
	}
	if left < 2 {
		return fmt.Errorf("the service's Validate refuses %d of %d commands", len(s.Commands)-left, len(s.Commands))
	}
	return nil
}

// refuses reports whether the Validator refuses command i. The error is a panic.
func (s *suite) refuses(m migrate.Migratable, i int) (bool, error) {
	cmd := s.steps[i].Command
	cmd.Index, cmd.Epoch, cmd.Body = 0, 0, bytes.Clone(cmd.Body) // not ordered yet
	err := call("Validate", func() error { return m.(migrate.Validator).Validate(cmd) })
	if p, ok := errors.AsType[*panicked](err); ok {
		return false, fmt.Errorf("%s: %w", s.steps[i].name, p)
	}
	return err != nil, nil
}

// panicked is a panic in the service's code.
type panicked struct {
	method string
	value  any
	stack  []byte
}

func (p *panicked) Error() string {
	return fmt.Sprintf("%s panicked: %v\n\n%s", p.method, p.value, p.stack)
}

// call calls the service and turns a panic into an error.
func call(method string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicked{method, v, debug.Stack()}
		}
	}()
	return f()
}

// outcome is the result of a command that clients see.
type outcome struct {
	reply  []byte
	err    string
	events [][]byte
}

func (o outcome) String() string {
	return fmt.Sprintf("reply %q, error %q, events %q", o.reply, o.err, o.events)
}

// apply executes the steps from..to and returns their outcomes. The error is a panic.
func (s *suite) apply(m migrate.Migratable, from, to int) ([]outcome, error) {
	var all []outcome
	for _, st := range s.steps[from:to] {
		var o outcome
		cmd := st.Command
		cmd.Body = bytes.Clone(cmd.Body)
		cmd = migrate.NewCommand(cmd, func(body []byte) { o.events = append(o.events, bytes.Clone(body)) })
		var err error
		switch closer, ok := m.(migrate.SessionCloser); {
		case st.refused, st.end && !ok:
		case st.end:
			err = call("SessionClosed", func() error { closer.SessionClosed(cmd); return nil })
		default:
			err = call("Apply", func() error {
				reply, err := m.Apply(cmd)
				o.reply = bytes.Clone(reply)
				if err != nil {
					o.err = err.Error()
				}
				return nil
			})
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", st.name, err)
		}
		all = append(all, o)
	}
	return all, nil
}

// same compares the outcomes of the steps from number from on.
func (s *suite) same(from int, want, got []outcome) error {
	for i := range want {
		if w, g := want[i].String(), got[i].String(); w != g {
			return fmt.Errorf("%s: %s; the other copy: %s", s.steps[from+i].name, w, g)
		}
	}
	return nil
}

// cuts returns the points for snapshots.
func (s *suite) cuts() []int {
	n := len(s.Commands)
	return slices.Compact([]int{0, 1, n / 2, n - 1, n})
}

func (s *suite) fresh() (m migrate.Migratable, err error) {
	if err := call("New", func() error { m = s.New(); return nil }); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, errors.New("the function New returned nil")
	}
	if v := reflect.ValueOf(m); v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, fmt.Errorf("the function New returned a nil %T", m)
	}
	return m, nil
}

func capture(m migrate.Migratable) (snap migrate.Snapshot, err error) {
	err = call("Snapshot", func() (err error) { snap, err = m.Snapshot(); return err })
	switch {
	case err != nil:
		return nil, fmt.Errorf("taking a snapshot: %w", err)
	case snap == nil:
		return nil, errors.New("taking a snapshot: Snapshot returned nil")
	}
	return snap, nil
}

func drop(snap migrate.Snapshot) error {
	return call("Release", func() error { snap.Release(); return nil })
}

func save(snap migrate.Snapshot) ([]byte, error) {
	var b bytes.Buffer
	var n int64
	err := call("WriteTo", func() (err error) { n, err = snap.WriteTo(&b); return err })
	if err := errors.Join(err, drop(snap)); err != nil {
		return nil, fmt.Errorf("writing the snapshot: %w", err)
	}
	if n != int64(b.Len()) {
		return nil, fmt.Errorf("WriteTo returned %d bytes, but wrote %d", n, b.Len())
	}
	return b.Bytes(), nil
}

func (s *suite) load(r io.Reader) (migrate.Migratable, error) {
	m, err := s.fresh()
	if err != nil {
		return nil, err
	}
	if err := call("Restore", func() error { return m.Restore(r) }); err != nil {
		return nil, fmt.Errorf("restoring: %w", err)
	}
	return m, nil
}

// view shows a state in one way; it is empty if the service does not support that. The error is a panic.
type view func(*suite, migrate.Migratable) (string, error)

func hash(_ *suite, m migrate.Migratable) (string, error) {
	h, ok := m.(migrate.Hasher)
	if !ok {
		return "", nil
	}
	var sum uint64
	err := call("Hash", func() error { sum = h.Hash(); return nil })
	return fmt.Sprintf("hash %#x", sum), err
}

func answers(s *suite, m migrate.Migratable) (string, error) {
	q, ok := m.(migrate.Querier)
	if !ok {
		return "", nil
	}
	var all strings.Builder
	for _, question := range s.Queries {
		asked := question
		asked.Body = bytes.Clone(question.Body) // which the service may keep
		var answer []byte
		err := call("Query", func() (err error) { answer, err = q.Query(asked); return err })
		if p, ok := errors.AsType[*panicked](err); ok {
			return "", fmt.Errorf("query %q: %w", question.Body, p)
		}
		fmt.Fprintf(&all, "query %q: answer %q, error %q\n", question.Body, answer, fmt.Sprint(err))
	}
	return all.String(), nil
}

// look views m before step i and adds that point to an error.
func (s *suite) look(m migrate.Migratable, i int, v view) (string, error) {
	seen, err := v(s, m)
	if err != nil {
		err = fmt.Errorf("%s: %w", s.point(i), err)
	}
	return seen, err
}

func (s *suite) point(i int) string {
	if i == 0 {
		return "before the first command"
	}
	return "after " + s.steps[i-1].name
}

// trail returns the views of m before step from and after each further step.
func (s *suite) trail(m migrate.Migratable, from int, v view) ([]string, error) {
	var all []string
	for i := from; ; i++ {
		seen, err := s.look(m, i, v)
		if err != nil {
			return nil, err
		}
		all = append(all, seen)
		if i == len(s.steps) {
			return all, nil
		}
		if _, err := s.apply(m, i, i+1); err != nil {
			return nil, err
		}
	}
}

// follow compares the trail of m from step from on with want, the trail of an instance from the first step on.
func (s *suite) follow(want []string, m migrate.Migratable, from int, v view) error {
	got, err := s.trail(m, from, v)
	if err != nil {
		return err
	}
	for i, g := range got {
		if w := want[from+i]; w != g {
			return fmt.Errorf("%s: %s; the other copy: %s", s.point(from+i), w, g)
		}
	}
	return nil
}

// pristine returns the trail of an undisturbed instance.
func (s *suite) pristine(v view) ([]string, error) {
	m, err := s.fresh()
	if err != nil {
		return nil, err
	}
	return s.trail(m, 0, v)
}

// alike compares the trails of several instances.
func (s *suite) alike(v view) error {
	want, err := s.pristine(v)
	if err != nil {
		return err
	}
	for range 4 {
		m, err := s.fresh()
		if err != nil {
			return err
		}
		if err := s.follow(want, m, 0, v); err != nil {
			return err
		}
	}
	return nil
}

// restored compares the trail of a restored copy, whose snapshot is written after the original has continued.
func (s *suite) restored(v view) error {
	want, err := s.pristine(v)
	if err != nil {
		return err
	}
	return s.captured(func(m migrate.Migratable, snap migrate.Snapshot, cut int) error {
		went := s.follow(want, m, cut, v)
		b, err := save(snap)
		if err := errors.Join(went, err); err != nil {
			return err
		}
		restored, err := s.load(bytes.NewReader(b))
		if err != nil {
			return err
		}
		return s.follow(want, restored, cut, v)
	})
}

// quiet checks that touch, called before each step and after the last, changes nothing.
func (s *suite) quiet(touch func(m migrate.Migratable, i int) error) error {
	m, err := s.fresh()
	if err != nil {
		return err
	}
	n := len(s.steps)
	var got []outcome
	for i := range n {
		if err := touch(m, i); err != nil {
			return err
		}
		o, err := s.apply(m, i, i+1)
		if err != nil {
			return err
		}
		got = append(got, o...)
	}
	if err := touch(m, n); err != nil {
		return err
	}
	var others [2]migrate.Migratable
	for i := range others {
		if others[i], err = s.fresh(); err != nil {
			return err
		}
		want, err := s.apply(others[i], 0, n)
		if err != nil {
			return err
		}
		if err := s.same(0, want, got); err != nil {
			return err
		}
	}
	for _, v := range []view{hash, answers} {
		var seen [3]string
		for i, m := range []migrate.Migratable{m, others[0], others[1]} {
			if seen[i], err = s.look(m, n, v); err != nil {
				return err
			}
		}
		// If undisturbed copies differ, that breaks another rule.
		if seen[1] == seen[2] && seen[0] != seen[1] {
			return fmt.Errorf("%s: %s; the other copy: %s", s.point(n), seen[1], seen[0])
		}
	}
	return nil
}

// captured takes a snapshot at each cut.
func (s *suite) captured(do func(m migrate.Migratable, snap migrate.Snapshot, cut int) error) error {
	for _, cut := range s.cuts() {
		m, err := s.fresh()
		if err != nil {
			return err
		}
		if _, err := s.apply(m, 0, cut); err != nil {
			return err
		}
		snap, err := capture(m)
		if err == nil {
			err = do(m, snap, cut)
		}
		if err != nil {
			return fmt.Errorf("snapshot after %d commands: %w", cut, err)
		}
	}
	return nil
}

// snapshots takes a snapshot at each cut, calls during to write it, and compares the outcomes of the remaining steps.
func (s *suite) snapshots(
	during func(m migrate.Migratable, snap migrate.Snapshot, cut int) ([]byte, []outcome, error),
) error {
	return s.captured(func(m migrate.Migratable, snap migrate.Snapshot, cut int) error {
		b, want, err := during(m, snap, cut)
		if err != nil {
			return err
		}
		restored, err := s.load(bytes.NewReader(b))
		if err != nil {
			return err
		}
		got, err := s.apply(restored, cut, len(s.steps))
		if err != nil {
			return err
		}
		return s.same(cut, want, got)
	})
}
