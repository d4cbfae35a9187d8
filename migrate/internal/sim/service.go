package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/wire"
)

// counter is the simulated service: it counts commands and hashes them in order.
type counter struct{ count, sum uint64 }

// chain adds a command to the hash of those executed before it.
func chain(sum, session uint64, body []byte) uint64 {
	sum = (sum ^ session) * 0x9e3779b97f4a7c15
	for _, b := range body {
		sum = sum*31 + uint64(b)
	}
	return sum ^ sum>>32
}

// emits reports whether a command emits an event, which is its body.
func emits(seq uint64) bool { return seq%3 == 0 }

// Apply implements [machine.App]. The reply is the number of commands, this one included.
func (s *counter) Apply(cmd machine.Command) ([]byte, error) {
	s.count++
	s.sum = chain(s.sum, cmd.Session, cmd.Body)
	if emits(cmd.Seq) {
		cmd.Emit(cmd.Body)
	}
	return binary.BigEndian.AppendUint64(nil, s.count), nil
}

// Snapshot implements [machine.App].
func (s *counter) Snapshot() (machine.Snapshot, error) {
	return captured(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.count), s.sum)), nil
}

// Restore implements [machine.App].
func (s *counter) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil || len(b) != 16 {
		return fmt.Errorf("%d bytes: %w", len(b), err)
	}
	s.count, s.sum = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	return nil
}

// Query implements [machine.App].
func (s *counter) Query(machine.Query) ([]byte, error) { return nil, machine.ErrNoQuery }

// Validate implements [machine.App].
func (s *counter) Validate(machine.Command) error { return nil }

// SessionClosed implements [machine.App].
func (s *counter) SessionClosed(machine.Command) {}

// Hash implements [machine.App].
func (s *counter) Hash() (uint64, bool) { return chain(s.sum, s.count, nil), true }

// captured is a counter's state.
type captured []byte

// WriteTo implements [machine.Snapshot].
func (c captured) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(c)
	return int64(n), err
}

// Release implements [machine.Snapshot].
func (c captured) Release() {}

// eventBytes bounds the events that a machine keeps; eventOverhead is added to each for that.
const (
	eventBytes    = 4 << 10
	eventOverhead = 32
)

// kept is how many of events, all there were, a machine still has: the last one, and those before it for which there is room.
func kept(events [][]byte) (n int) {
	for room := eventBytes; n < len(events); n++ {
		if room -= len(events[len(events)-1-n]) + eventOverhead; room < 0 && n > 0 {
			break
		}
	}
	return n
}

func newMachine() *machine.Machine {
	return machine.New(service, new(counter), machine.Limits{EventBytes: eventBytes})
}

// snapshot is a captured machine. The zero value is that of an empty one.
type snapshot struct{ stream []byte }

// newSnapshot reads and releases what was captured.
func newSnapshot(c *machine.Capture) (snapshot, error) {
	var b bytes.Buffer
	_, err := c.WriteTo(&b)
	c.Release()
	return snapshot{b.Bytes()}, err
}

func (s snapshot) restore() (*machine.Machine, error) {
	if s.stream == nil {
		return newMachine(), nil
	}
	return machine.Restore(service, new(counter), machine.Limits{EventBytes: eventBytes}, bytes.NewReader(s.stream))
}

// state describes a machine: the index of the last entry applied, a hash of everything, and the counter.
func state(m *machine.Machine) (index, hash uint64, c counter) {
	c = *m.App().(*counter)
	index, _ = m.Applied()
	return index, chain(m.Hash(), c.sum, nil), c
}

// code is the outcome of a command.
type code uint8

const (
	codeOK code = iota
	codeExpired
	codeOutOfOrder
	codeRetry
	codeNotActive
	codeOther
)

func (c code) String() string {
	return [...]string{"ok", "session expired", "out of order", "retry", "not active", "other"}[c]
}

func codeOf(err error) code {
	switch {
	case errors.Is(err, wire.ErrSessionExpired):
		return codeExpired
	case errors.Is(err, wire.ErrOutOfOrder):
		return codeOutOfOrder
	case errors.Is(err, wire.ErrRetry):
		return codeRetry
	}
	return codeOther
}

// result is the outcome of an entry. count is the reply: the number of commands executed, this one included.
type result struct {
	index, count uint64
	code         code
	duplicate    bool
}

func resultOf(r *machine.Result) result {
	v := result{index: r.Index, duplicate: r.Duplicate}
	if r.Err != nil {
		v.code = codeOf(r.Err)
	} else if len(r.Reply) == 8 {
		v.count = binary.BigEndian.Uint64(r.Reply)
	}
	return v
}
