package migrate

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/transport"
)

// fullService implements every optional interface.
type fullService struct {
	Migratable
	closed []Command
}

func (s *fullService) Query(q Query) ([]byte, error) { return q.Body, nil }
func (s *fullService) SessionClosed(cmd Command)     { s.closed = append(s.closed, cmd) }
func (s *fullService) Hash() uint64                  { return 7 }
func (s *fullService) Validate(cmd Command) error {
	cmd.Emit(nil) // does nothing here
	return transport.Errorf(1001, "%d %s", cmd.Session, cmd.Body)
}

// The adapter shows the machine the optional interfaces that a service implements, and only those.
func TestAdapter(t *testing.T) {
	plain := adapter{struct{ Migratable }{}}
	_, err := plain.Query(machine.Query{})
	require.Equal(t, machine.ErrNoQuery, err)
	_, err = machine.New("plain", plain, machine.Limits{}).Query(machine.Query{})
	require.ErrorIs(t, err, ErrNoQuery)
	require.NoError(t, plain.Validate(machine.Command{}))
	_, ok := plain.Hash()
	require.False(t, ok)
	plain.SessionClosed(machine.Command{})

	s := &fullService{}
	full := adapter{s}
	b, err := full.Query(machine.Query{Body: []byte("q")})
	require.NoError(t, err)
	require.Equal(t, "q", string(b))
	sum, ok := full.Hash()
	require.True(t, ok)
	require.EqualValues(t, 7, sum)
	err = machine.New("full", full, machine.Limits{}).Validate(core.Entry{Session: 9, Body: []byte("x")})
	require.EqualError(t, err, "9 x")

	var emitted []byte
	full.SessionClosed(machine.Command{
		Index: 1, Epoch: 2, Time: time.UnixMilli(3), Session: 4, Seq: 5, Key: transport.Key{6}, Body: []byte("b"),
		Emit: func(body []byte) { emitted = body },
	})
	cmd := s.closed[0]
	cmd.Emit([]byte("event"))
	require.Equal(t, "event", string(emitted))
	cmd.emit = nil
	require.Equal(t, Command{
		Index: 1, Epoch: 2, Time: time.UnixMilli(3), Session: 4, Seq: 5, Key: transport.Key{6}, Body: []byte("b"),
	}, cmd)
}

func BenchmarkAdapter(b *testing.B) {
	a := adapter{nothing{}}
	b.ReportAllocs()
	for b.Loop() {
		a.Apply(machine.Command{Index: 1, Emit: func([]byte) {}})
	}
}

type nothing struct{ Migratable }

func (nothing) Apply(Command) ([]byte, error) { return nil, nil }
