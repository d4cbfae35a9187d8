package serve

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

func TestRegistry(t *testing.T) {
	var r registry
	a, b := new(Conn), new(Conn)
	for id := range uint64(3) {
		r.add(a, id+1)
	}
	r.add(b, 4)
	require.Equal(t, 4, r.len())
	require.Equal(t, 3, r.onConn(a))
	require.Equal(t, 1, r.onConn(b))

	require.True(t, r.remove(r.find(a, 2), 7*time.Second), "in the middle of the list")
	require.Equal(t, 2, r.onConn(a))
	require.Nil(t, r.session(2))
	require.Equal(t, 7*time.Second, r.detachedAt[2])
	r.add(b, 2)
	require.Same(t, r.find(b, 2), r.session(2))
	require.Zero(t, r.detachedAt[2], "it is attached again")

	last := r.end(4)
	require.Same(t, r.find(b, 4), last)
	require.False(t, r.remove(last, time.Second), "it has ended")
	require.Zero(t, r.detachedAt[4])
	require.Nil(t, r.end(4))

	for _, conn := range []*Conn{a, b} {
		for at := r.first(conn); at != nil; at = r.first(conn) {
			require.True(t, r.remove(at, time.Second))
		}
	}
	require.Zero(t, r.len())
	require.Empty(t, r.byConn)
	require.Empty(t, r.bySession)
	require.Len(t, r.detachedAt, 3)
}

// A connection whose client has seen a higher term is served when this host has reached that term, not before.
func TestRegistryTerms(t *testing.T) {
	var r registry
	conn, other := new(Conn), new(Conn)
	mine := core.Term{Epoch: 5}
	r.sawTerm(conn, core.Term{Epoch: 5}, mine)
	require.False(t, r.isAhead(conn, mine))
	r.sawTerm(conn, core.Term{Epoch: 7}, mine)
	r.sawTerm(conn, core.Term{Epoch: 6}, mine)
	require.True(t, r.isAhead(conn, mine))
	require.False(t, r.isAhead(other, mine))
	require.True(t, r.isAhead(conn, core.Term{Epoch: 6}), "the higher one counts")
	require.False(t, r.isAhead(conn, core.Term{Epoch: 7}))
	require.Empty(t, r.terms)
}

// asked holds requests by name, with the answers to them.
type asked struct {
	t       *testing.T
	answers map[string]error
}

func (a *asked) request(conn *Conn, name string) *Request {
	r := NewRequest(conn, transport.NewRequest(wire.MethodDo, nil, func(_ []byte, err error) {
		require.NotContains(a.t, a.answers, name)
		a.answers[name] = err
	}))
	require.True(a.t, conn.TryEnter(r.Size()))
	return r
}

func fill(q *requests, a *asked, conn *Conn, suffix string) {
	q.addCommand(commandKey{1, 1}, a.request(conn, "command"+suffix))
	q.addCommand(commandKey{1, 1}, a.request(conn, "repeated"+suffix))
	q.addValidation(a.request(conn, "validation"+suffix))
	q.addOpen(1, a.request(conn, "open"+suffix))
	q.addClose(1, a.request(conn, "close"+suffix))
	q.addQuery(a.request(conn, "query"+suffix), machine.Query{})
}

// The requests of a closed connection are removed; those of others stay.
func TestRequestsDropClosed(t *testing.T) {
	var q requests
	a := &asked{t, map[string]error{}}
	open, closed, alone := new(Conn), new(Conn), new(Conn)
	fill(&q, a, closed, " of closed")
	fill(&q, a, open, "")
	q.addCommand(commandKey{2, 1}, a.request(alone, "alone"))
	closed.Ended()
	alone.Ended()
	q.dropClosed()
	require.Len(t, a.answers, 7)
	for name, err := range a.answers {
		require.ErrorIs(t, err, errGone, name)
	}
	require.Len(t, q.commands, 1)
	calls, _ := open.InFlight()
	require.Equal(t, 6, calls)

	open.Ended()
	q.dropClosed()
	require.Len(t, a.answers, 13)
	for _, c := range []*Conn{open, closed, alone} {
		calls, _ := c.InFlight()
		require.Zero(t, calls)
	}
	require.Zero(t, len(q.commands)+len(q.validating)+len(q.opening)+len(q.closing)+len(q.queries))
}

func TestRequestsRefuse(t *testing.T) {
	var q requests
	a := &asked{t, map[string]error{}}
	conn := new(Conn)
	fill(&q, a, conn, "")
	id, err := q.lastQuery, errors.New("no")
	require.Equal(t, uint64(3), q.refuse(err), "the commands")
	require.Len(t, a.answers, 6)
	for name, got := range a.answers {
		require.Equal(t, err, got, name)
	}
	require.False(t, q.takeQuery(id))
	next := q.addQuery(a.request(conn, "next"), machine.Query{})
	require.Greater(t, next, id, "an old answer of the core is not mistaken for a new one")
}

// Parked clients are notified in portions, without those that have come or gone.
func TestCrowdTake(t *testing.T) {
	var w crowd
	conns := make([]*Conn, 5)
	for i := range conns {
		conns[i] = &Conn{Conn: new(notices)}
		w.park(conns[i])
	}
	w.enqueue()
	require.False(t, w.doubled(10*SpreadFrom), "parked clients wait")
	require.True(t, w.unpark(conns[3]))
	require.False(t, w.unpark(conns[3]))
	n := len(w.take(2))
	n += len(w.take(2))
	n += len(w.take(2))
	require.Equal(t, 4, n)
	require.Empty(t, w.take(1))
	require.True(t, w.doubled(10*SpreadFrom))
}

func TestSpread(t *testing.T) {
	for _, tc := range []struct {
		clients int
		want    time.Duration
	}{
		{0, 0}, {SpreadFrom, 0}, {SpreadFrom + 1, SpreadPerClient}, {SpreadFrom + 1000, time.Second}, {1 << 20, wire.MaxSpread},
	} {
		require.Equal(t, tc.want, spread(tc.clients), "%d clients", tc.clients)
	}
	w := crowd{}
	require.False(t, w.doubled(2*SpreadFrom-1))
	require.True(t, w.doubled(2*SpreadFrom))
	w.announced = 1000
	require.False(t, w.doubled(1999))
	require.True(t, w.doubled(2000))
}
