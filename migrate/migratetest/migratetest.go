// Package migratetest tests implementations of migrate.Migratable: whether copies of the service stay equal, and whether a
// snapshot is what it has to be.
//
// # What it does not see
//
// Of a state the suite sees what replies, errors, events, answers to Subject.Queries and [migrate.Hasher] show. What none of
// them shows may differ between copies, or be missing in a restored one, and Run succeeds all the same: the best that a
// service can do is a Hash of its whole state. Snapshots are not compared: equal states need not give equal bytes.
//
// All copies live in one process. What differs only from process to process is equal here, such as a seed of hash/maphash in
// a global variable, the environment, or the version of the program. State that instances share is not always noticed.
//
// It does not measure how long Snapshot and Hash take. A stack that overflows and a map that is written to by two goroutines
// end the test binary: nothing recovers from these.
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
	"testing"
	"time"

	"github.com/roam-go/roam/migrate"
)

// Subject is a service to be tested.
type Subject struct {
	// New makes an empty instance, another one each time.
	New func() migrate.Migratable
	// Commands are applied one after the other, two at least, and must not make Apply panic. Run fills in what is zero of
	// Index, Epoch, Time, Session and Seq. What a [migrate.Validator] refuses does not reach Apply, as it would not on a host.
	// After the last command the sessions end, for a [migrate.SessionCloser]. The more different things commands do, and the
	// more they depend on what went before, the more the tests see.
	Commands []migrate.Command
	// Queries, for a [migrate.Querier], are asked in between. Copies must give equal answers.
	Queries [][]byte
}

// Run tests a service. Each failure names the rule that is broken; a panic of the service is one, with its stack. Run it with
// the race detector, too: a snapshot is written while commands are applied. The package's doc says what Run does not see.
func Run(t *testing.T, s Subject) {
	if s.New == nil || len(s.Commands) < 2 {
		t.Fatal("migratetest: Subject needs New and two Commands at least")
	}
	c := newSuite(s)
	for _, r := range rules {
		ok := t.Run(r.name, func(t *testing.T) {
			t.Helper()
			if err := c.check(r); err != nil {
				t.Errorf("rule broken: %s: %v", r.rule, err)
			}
		})
		if !ok && (r.name == "new" || r.name == "panics") {
			return // the others would fail for the same reason, and say less of it
		}
	}
}

type rule struct {
	name, rule string
	check      func(*suite) error
}

// rules are what Run tests. They return errors so that the tests of this package can see them fail.
var rules = []rule{
	{"new", "New makes another instance each time", instances},
	{"panics", "no method panics, and two commands pass Validate at least", panics},
	{"deterministic", "equal commands give equal replies and events", deterministic},
	{"hash", "instances that have applied the same commands have the same hash", sameHash},
	{"answers", "instances that have applied the same commands give the same answers to queries", sameAnswers},
	{"restore", "a restored copy goes on like the original", restore},
	{"hashrestore", "a restored copy has the hash of the original, at once and after further commands", restoredHash},
	{"answersrestore", "a restored copy gives the answers of the original, at once and after further commands", restoredAnswers},
	{"pointintime", "a snapshot holds the state of the moment at which it was taken, whatever is applied before it is written",
		pointInTime},
	{"concurrent", "a snapshot may be written while commands are applied", concurrent},
	{"release", "a snapshot may be released without being written", release},
	{"end", "Restore reads to the end", readsToEnd},
	{"broken", "Restore returns the error of its reader", brokenStream},
	{"query", "a query changes nothing", queries},
	{"hashquiet", "Hash changes nothing, and is the same when it is called again", hashes},
	{"validate", "Validate changes nothing", validate},
}

// suite is a Subject and what happens to it.
type suite struct {
	Subject
	steps  []step
	judged bool // steps say what is refused
}

// step is an entry of the log.
type step struct {
	migrate.Command
	name    string
	end     bool // of the session
	refused bool
}

// newSuite makes steps of the commands, and after them of the ends of their sessions.
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

// judge asks Validate once which commands reach Apply: on hosts, too, only the active one asks, and the log says the rest.
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
		return fmt.Errorf("%d of %d commands are refused", len(s.Commands)-left, len(s.Commands))
	}
	return nil
}

// refuses asks a Validator about command number i. The error is a panic.
func (s *suite) refuses(m migrate.Migratable, i int) (bool, error) {
	cmd := s.steps[i].Command
	cmd.Index, cmd.Epoch, cmd.Body = 0, 0, bytes.Clone(cmd.Body) // it has no place yet
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

// call calls into the service and makes an error of a panic.
func call(method string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicked{method, v, debug.Stack()}
		}
	}()
	return f()
}

// outcome is all that a client sees of a command.
type outcome struct {
	reply  []byte
	err    string
	events [][]byte
}

func (o outcome) String() string {
	return fmt.Sprintf("reply %q, error %q, events %q", o.reply, o.err, o.events)
}

// apply takes the steps from number from on, and returns what came of them. The error is a panic.
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

// same compares what came of the steps from number from on.
func (s *suite) same(from int, want, got []outcome) error {
	for i := range want {
		if w, g := want[i].String(), got[i].String(); w != g {
			return fmt.Errorf("%s: %s; the other copy: %s", s.steps[from+i].name, w, g)
		}
	}
	return nil
}

// cuts are the points at which snapshots are taken.
func (s *suite) cuts() []int {
	n := len(s.Commands)
	return slices.Compact([]int{0, 1, n / 2, n - 1, n})
}

func (s *suite) fresh() (m migrate.Migratable, err error) {
	if err := call("New", func() error { m = s.New(); return nil }); err != nil {
		return nil, err
	}
	if m == nil {
		return nil, errors.New("no instance: New returned nil")
	}
	if v := reflect.ValueOf(m); v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, fmt.Errorf("no instance: New returned a nil %T", m)
	}
	return m, nil
}

func capture(m migrate.Migratable) (snap migrate.Snapshot, err error) {
	err = call("Snapshot", func() (err error) { snap, err = m.Snapshot(); return err })
	switch {
	case err != nil:
		return nil, fmt.Errorf("taking a snapshot: %w", err)
	case snap == nil:
		return nil, errors.New("taking a snapshot: Snapshot returned none")
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
		return nil, fmt.Errorf("the snapshot said that it wrote %d bytes, and wrote %d", n, b.Len())
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

// view is what is seen of a state in one way: nothing where the service has none. The error is a panic.
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
		var answer []byte
		err := call("Query", func() (err error) { answer, err = q.Query(bytes.Clone(question)); return err })
		if p, ok := errors.AsType[*panicked](err); ok {
			return "", fmt.Errorf("query %q: %w", question, p)
		}
		fmt.Fprintf(&all, "query %q: answer %q, error %q\n", question, answer, fmt.Sprint(err))
	}
	return all.String(), nil
}

// look adds to an error at which point it was: before step number i.
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

// trail is what is seen of m now, before step number from, and after each further step.
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

// follow compares the trail of m, which stands before step number from, with that of an instance that has seen all steps.
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

// pristine is the trail of an instance that nothing else happens to.
func (s *suite) pristine(v view) ([]string, error) {
	m, err := s.fresh()
	if err != nil {
		return nil, err
	}
	return s.trail(m, 0, v)
}

// alike compares what is seen of new instances.
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

// restored compares what is seen of a copy: of a snapshot that is written when the original has gone on.
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

// quiet finds out whether touch, called for one instance before each step and after the last, changes anything.
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
		// What differs anyway says nothing of touch, and breaks another rule.
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

// snapshots takes a snapshot at each cut, lets during run between taking and writing it, and compares what comes of the
// remaining steps.
func (s *suite) snapshots(during func(m migrate.Migratable, snap migrate.Snapshot, cut int) ([]byte, []outcome, error)) error {
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

// instances finds instances that are one. Things without a size may share an address.
func instances(s *suite) error {
	var all []reflect.Value
	for i := range 4 {
		m, err := s.fresh()
		if err != nil {
			return err
		}
		v := reflect.ValueOf(m)
		if v.Kind() != reflect.Map && (v.Kind() != reflect.Pointer || v.Type().Elem().Size() == 0) {
			return nil
		}
		for j, other := range all {
			if other.Type() == v.Type() && other.Pointer() == v.Pointer() {
				return fmt.Errorf("calls %d and %d of New returned the same instance", j+1, i+1)
			}
		}
		all = append(all, v)
	}
	return nil
}

// panics calls all methods; Validate was called by judge. What panics later only is found by the other rules.
func panics(s *suite) error {
	for _, v := range []view{hash, answers} {
		if _, err := s.pristine(v); err != nil {
			return err
		}
	}
	b, err := s.saved()
	if err == nil {
		_, err = s.load(bytes.NewReader(b))
	}
	return err
}

func deterministic(s *suite) error {
	n := len(s.steps)
	var want []outcome
	for i := range 5 {
		m, err := s.fresh()
		if err != nil {
			return err
		}
		got, err := s.apply(m, 0, n)
		if err != nil {
			return err
		}
		if i == 0 {
			want = got
		}
		if err := s.same(0, want, got); err != nil {
			return err
		}
	}
	return nil
}

func sameHash(s *suite) error        { return s.alike(hash) }
func sameAnswers(s *suite) error     { return s.alike(answers) }
func restoredHash(s *suite) error    { return s.restored(hash) }
func restoredAnswers(s *suite) error { return s.restored(answers) }

func restore(s *suite) error {
	return s.snapshots(func(m migrate.Migratable, snap migrate.Snapshot, cut int) ([]byte, []outcome, error) {
		b, err := save(snap)
		if err != nil {
			return nil, nil, err
		}
		want, err := s.apply(m, cut, len(s.steps))
		return b, want, err
	})
}

func pointInTime(s *suite) error {
	return s.snapshots(func(m migrate.Migratable, snap migrate.Snapshot, cut int) ([]byte, []outcome, error) {
		want, err := s.apply(m, cut, len(s.steps))
		if err != nil {
			return nil, nil, err
		}
		b, err := save(snap)
		return b, want, err
	})
}

func concurrent(s *suite) error {
	return s.snapshots(func(m migrate.Migratable, snap migrate.Snapshot, cut int) (b []byte, want []outcome, err error) {
		var failed error
		done := make(chan struct{})
		go func() {
			defer close(done)
			b, failed = save(snap)
		}()
		want, err = s.apply(m, cut, len(s.steps))
		<-done
		return b, want, errors.Join(err, failed)
	})
}

func release(s *suite) error {
	return s.quiet(func(m migrate.Migratable, i int) error {
		if !slices.Contains(s.cuts(), i) {
			return nil
		}
		snap, err := capture(m)
		if err == nil {
			err = drop(snap)
		}
		if err != nil {
			return fmt.Errorf("a snapshot after %d commands: %w", i, err)
		}
		return nil
	})
}

// watched tells whether its end was seen.
type watched struct {
	io.Reader
	end bool
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.end = w.end || err == io.EOF
	return n, err
}

// saved is a snapshot after the last command: when all sessions have ended there may be little in it.
func (s *suite) saved() ([]byte, error) {
	m, err := s.fresh()
	if err != nil {
		return nil, err
	}
	if _, err := s.apply(m, 0, len(s.Commands)); err != nil {
		return nil, err
	}
	snap, err := capture(m)
	if err != nil {
		return nil, err
	}
	return save(snap)
}

func readsToEnd(s *suite) error {
	b, err := s.saved()
	if err != nil {
		return err
	}
	w := &watched{Reader: bytes.NewReader(b)}
	if _, err := s.load(w); err != nil {
		return err
	}
	if !w.end {
		return errors.New("it returned without having seen io.EOF, before which the bytes are not known to be whole")
	}
	return nil
}

var errBroken = errors.New("the connection broke")

// broken is a stream that ends with an error.
type broken struct{ r io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = errBroken
	}
	return n, err
}

func brokenStream(s *suite) error {
	b, err := s.saved()
	if err != nil {
		return err
	}
	for _, n := range []int{0, len(b) / 2, max(len(b)-1, 0), len(b)} {
		_, err := s.load(broken{bytes.NewReader(b[:n])})
		if err == nil {
			return fmt.Errorf("it succeeded, though the stream of %d bytes broke after %d", len(b), n)
		}
		if p, ok := errors.AsType[*panicked](err); ok {
			return fmt.Errorf("the stream of %d bytes broke after %d: %w", len(b), n, p)
		}
	}
	return nil
}

// twice looks at an instance twice, and must see the same.
func (s *suite) twice(v view) func(m migrate.Migratable, i int) error {
	return func(m migrate.Migratable, i int) error {
		first, err := s.look(m, i, v)
		if err != nil {
			return err
		}
		second, err := s.look(m, i, v)
		if err == nil && first != second {
			err = fmt.Errorf("%s: %s; the second time: %s", s.point(i), first, second)
		}
		return err
	}
}

func queries(s *suite) error { return s.quiet(s.twice(answers)) }

func hashes(s *suite) error { return s.quiet(s.twice(hash)) }

// validate asks about a command, and about the one after it: a host does not wait for commands to be applied.
func validate(s *suite) error {
	return s.quiet(func(m migrate.Migratable, i int) error {
		if _, ok := m.(migrate.Validator); !ok {
			return nil
		}
		for j := i; j < min(i+2, len(s.Commands)); j++ {
			if _, err := s.refuses(m, j); err != nil {
				return err
			}
		}
		return nil
	})
}
