package replica

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/apply"
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/resolver"
)

// app is a service without state.
type app struct{ machine.App }

func (app) Apply(machine.Command) ([]byte, error) { return nil, nil }
func (app) Snapshot() (machine.Snapshot, error)   { return nil, machine.ErrNoQuery }
func (app) SessionClosed(machine.Command)         {}
func (app) Hash() (sum uint64, ok bool)           { return 0, false }

// testEnv records what a replica asks for.
type testEnv struct {
	now     time.Duration
	started []*apply.Applier
	posted  []func()
	cas     *core.CAS
	applied []uint64
}

func (e *testEnv) Now() time.Duration        { return e.now }
func (e *testEnv) Wall() int64               { return 0 }
func (e *testEnv) Send(core.Outgoing)        {}
func (e *testEnv) Save(core.Save)            {}
func (e *testEnv) CompareAndSwap(c core.CAS) { e.cas = &c }
func (e *testEnv) Get()                      {}
func (e *testEnv) Seek()                     {}
func (e *testEnv) Ask([]resolver.Host)       {}
func (e *testEnv) Fetch(core.Fetch)          {}
func (e *testEnv) Moved(core.MoveEvent)      {}
func (e *testEnv) Machine() (*machine.Machine, error) {
	return machine.New("svc", app{}, machine.Limits{}), nil
}
func (e *testEnv) Start(a *apply.Applier)                       { e.started = append(e.started, a) }
func (e *testEnv) Wake(*apply.Applier)                          {}
func (e *testEnv) Post(f, _ func())                             { e.posted = append(e.posted, f) }
func (e *testEnv) Offer(resolver.Host, *machine.Capture) uint64 { return 0 }
func (e *testEnv) Activated(bool)                               {}
func (e *testEnv) Deposed()                                     {}
func (e *testEnv) Applied(r *machine.Result)                    { e.applied = append(e.applied, r.At) }
func (e *testEnv) Read(uint64)                                  {}
func (e *testEnv) ReadsFailed()                                 {}
func (e *testEnv) Resent(uint64)                                {}
func (e *testEnv) Diverged(uint64)                              {}
func (e *testEnv) CaptureFailed(string, error)                  {}
func (e *testEnv) Report(error)                                 {}

// serving is a replica that has made its service, with its first entry at the applier.
func serving(t *testing.T) (*Replica, *testEnv) {
	env := new(testEnv)
	r := New(env, core.New(resolver.Host{ID: "a", Incarnation: 1}, core.Config{Name: "svc"}))
	r.Step(core.Create{})
	require.NoError(t, r.Settle())
	require.NotNil(t, env.cas)
	rec := env.cas.Next
	rec.Version, rec.Generation = 1, 1
	r.Step(core.CASDone{Nonce: rec.Nonce, Record: rec, Outcome: core.CASOK})
	require.NoError(t, r.Settle())
	require.Equal(t, core.Serving, r.Core().Role())
	require.Len(t, env.started, 1)
	return r, env
}

// retire ends the service, which makes the core drop the copy.
func retire(t *testing.T, r *Replica, env *testEnv) {
	r.Step(core.Retire{})
	require.NoError(t, r.Settle())
	rec := env.cas.Next
	rec.Version, rec.Generation = 2, 1
	r.Step(core.CASDone{Nonce: rec.Nonce, Record: rec, Outcome: core.CASOK})
	require.False(t, r.Core().HasState())
}

func TestCollectApplied(t *testing.T) {
	r, env := serving(t)
	a := env.started[0]
	require.True(t, a.Step())
	require.NoError(t, r.Align())
	require.NoError(t, r.Collect(a))
	require.Equal(t, []uint64{1}, env.applied)
	require.Zero(t, r.Core().Unapplied())
}

// Results that come when the core has dropped the copy, and the replica has not yet, belong to nothing.
func TestCollectAfterDrop(t *testing.T) {
	env := new(testEnv)
	r := New(env, core.New(resolver.Host{ID: "a", Incarnation: 1}, core.Config{Name: "svc"}))
	b := resolver.Host{ID: "b", Incarnation: 1}
	rec := resolver.Record{Version: 1, Generation: 1, Epoch: 1, Active: b, ISR: []resolver.Host{b}}
	recv := func(m core.Msg) {
		m.From, m.Term = b, core.TermOf(rec)
		r.Step(core.Recv{Msg: m})
	}
	start := core.Entry{Index: 1, Epoch: 1, Kind: core.EpochStart}

	r.Step(core.Told{Record: rec})
	recv(core.Msg{Type: core.MsgInvite, Record: &rec, Round: 1, Index: 1})
	recv(core.Msg{Type: core.MsgSnapshot, Round: 7, Index: 1, PrevEpoch: 1, Prev: 1})
	require.NoError(t, r.Settle())
	m, err := env.Machine()
	require.NoError(t, err)
	m.Apply(start)
	require.True(t, r.Restored(core.Fetch{From: b, ID: 7, Index: 1, Epoch: 1}, m))
	check := core.Entry{Index: 2, Epoch: 1, Kind: core.HashCheck}
	recv(core.Msg{Type: core.MsgAppend, Prev: 1, PrevEpoch: 1, Entries: []core.Entry{check}, Commit: 2, Round: 1, Index: 1})
	require.NoError(t, r.Settle())
	require.Len(t, env.started, 1)
	a := env.started[0]
	require.True(t, a.Step())

	recv(core.Msg{Type: core.MsgInvite, Record: &rec, Round: 2, Index: 1})
	recv(core.Msg{Type: core.MsgSnapshot, Round: 8, Index: 2, PrevEpoch: 1, Prev: 2})
	require.False(t, r.Core().HasState())
	require.NoError(t, r.Align())
	require.NoError(t, r.Collect(a))
	require.Empty(t, env.applied)
	require.Nil(t, r.Machine())
}

// A copy that is dropped is not captured any more, and whoever waits for that is told.
func TestCaptureAfterDrop(t *testing.T) {
	r, env := serving(t)
	var got []error
	require.True(t, r.Capture(func(c *machine.Capture, _, _ uint64, err error) {
		require.Nil(t, c)
		got = append(got, err)
	}))
	retire(t, r, env)
	require.NoError(t, r.Align())
	require.Equal(t, []error{ErrDropped}, got)
	for env.started[0].Step() {
	}
	require.Empty(t, env.posted)
	require.False(t, r.Capture(nil))
}

// The outcome of a capture that has begun, and ends when the copy is dropped, is reported once.
func TestCaptureDuringDrop(t *testing.T) {
	r, env := serving(t)
	var got []error
	require.True(t, r.Capture(func(_ *machine.Capture, _, _ uint64, err error) { got = append(got, err) }))
	for env.started[0].Step() {
	}
	require.Len(t, env.posted, 1)
	retire(t, r, env)
	require.NoError(t, r.Align())
	env.posted[0]()
	require.Equal(t, []error{ErrDropped}, got)
}
