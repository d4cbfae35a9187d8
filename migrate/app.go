package migrate

import (
	"io"

	"github.com/roam-go/roam/migrate/internal/machine"
)

// adapter adapts a Migratable, with the optional interfaces it implements, to [machine.App].
type adapter struct{ Migratable }

func (a adapter) Apply(cmd machine.Command) ([]byte, error) { return a.Migratable.Apply(command(cmd)) }

func (a adapter) Snapshot() (machine.Snapshot, error) { return a.Migratable.Snapshot() }

func (a adapter) Restore(r io.Reader) error { return a.Migratable.Restore(r) }

func (a adapter) Query(q machine.Query) ([]byte, error) {
	if s, ok := a.Migratable.(Querier); ok {
		return s.Query(Query(q))
	}
	return nil, machine.ErrNoQuery
}

func (a adapter) Validate(cmd machine.Command) error {
	if s, ok := a.Migratable.(Validator); ok {
		return s.Validate(command(cmd))
	}
	return nil
}

func (a adapter) SessionClosed(cmd machine.Command) {
	if s, ok := a.Migratable.(SessionCloser); ok {
		s.SessionClosed(command(cmd))
	}
}

func (a adapter) Hash() (sum uint64, ok bool) {
	if s, ok := a.Migratable.(Hasher); ok {
		return s.Hash(), true
	}
	return 0, false
}

// validates reports whether the service of m is a Validator.
func validates(m *machine.Machine) bool {
	_, ok := m.App().(adapter).Migratable.(Validator)
	return ok
}

// concurrentQueries reports whether the service of m is a ConcurrentQuerier.
func concurrentQueries(m *machine.Machine) bool {
	_, ok := m.App().(adapter).Migratable.(ConcurrentQuerier)
	return ok
}

// publicQueries reports whether the service of m is a PublicQuerier.
func publicQueries(m *machine.Machine) bool {
	_, ok := m.App().(adapter).Migratable.(PublicQuerier)
	return ok
}

func command(c machine.Command) Command {
	return Command{
		Index: c.Index, Epoch: c.Epoch, Time: c.Time, Session: c.Session, Seq: c.Seq, Key: c.Key, Body: c.Body, emit: c.Emit,
	}
}
