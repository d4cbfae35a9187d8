package serve

import (
	"errors"
	"maps"
	"slices"

	"github.com/roam-go/roam/migrate/internal/machine"
)

// requests holds the requests without an answer.
type requests struct {
	validating map[*Request]struct{}      // commands that the service validates
	commands   map[commandKey]sameCommand // commands in the log
	opening    map[uint64][]*Request      // by session
	closing    map[uint64][]*Request      // by session

	queries   map[uint64]query
	lastQuery uint64
}

type commandKey struct{ session, seq uint64 }

// sameCommand holds the requests for the same command: nearly always one.
type sameCommand struct {
	first *Request
	more  []*Request
}

func (w *sameCommand) add(r *Request) {
	if w.first == nil {
		w.first = r
	} else {
		w.more = append(w.more, r)
	}
}

func (w *sameCommand) each(f func(*Request)) {
	f(w.first)
	for _, r := range w.more {
		f(r)
	}
}

type query struct {
	req *Request
	machine.Query
}

// addCommand keeps a request until its command is applied.
func (q *requests) addCommand(k commandKey, r *Request) {
	w := q.commands[k]
	w.add(r)
	put(&q.commands, k, w)
}

// takeCommand removes the requests for a command; ok is false if there are none.
func (q *requests) takeCommand(k commandKey) (w sameCommand, ok bool) {
	w, ok = q.commands[k]
	if ok {
		delete(q.commands, k)
	}
	return w, ok
}

func (q *requests) addValidation(r *Request) { put(&q.validating, r, struct{}{}) }

// takeValidation removes a command, and returns false if it was answered meanwhile.
func (q *requests) takeValidation(r *Request) bool {
	_, ok := q.validating[r]
	delete(q.validating, r)
	return ok
}

func (q *requests) addOpen(session uint64, r *Request) {
	put(&q.opening, session, append(q.opening[session], r))
}

// isOpening reports whether a session is about to be opened.
func (q *requests) isOpening(session uint64) bool { return len(q.opening[session]) > 0 }

func (q *requests) takeOpens(session uint64) []*Request {
	rs := q.opening[session]
	delete(q.opening, session)
	return rs
}

func (q *requests) addClose(session uint64, r *Request) {
	put(&q.closing, session, append(q.closing[session], r))
}

func (q *requests) takeCloses(session uint64) []*Request {
	rs := q.closing[session]
	delete(q.closing, session)
	return rs
}

// addQuery keeps a query and returns its number.
func (q *requests) addQuery(r *Request, ask machine.Query) uint64 {
	q.lastQuery++
	put(&q.queries, q.lastQuery, query{r, ask})
	return q.lastQuery
}

func (q *requests) query(id uint64) (v query, ok bool) {
	v, ok = q.queries[id]
	return v, ok
}

// takeQuery removes a query, and returns false if it was answered meanwhile.
func (q *requests) takeQuery(id uint64) bool {
	_, ok := q.queries[id]
	delete(q.queries, id)
	return ok
}

func (q *requests) failQueries(err func() error) {
	for _, v := range q.queries {
		v.req.Reply(nil, err())
	}
	q.queries = nil
}

// errGone is the answer to requests whose connection is closed: nobody receives it.
var errGone = errors.New("the connection has ended")

// dropClosed removes the requests of connections that are closed.
func (q *requests) dropClosed() {
	drop := func(r *Request) bool {
		closed := r.conn.isClosed()
		if closed {
			r.Reply(nil, errGone)
		}
		return closed
	}
	for k, w := range q.commands {
		var left sameCommand
		w.each(func(r *Request) {
			if !drop(r) {
				left.add(r)
			}
		})
		if q.commands[k] = left; left.first == nil {
			delete(q.commands, k)
		}
	}
	for _, m := range []map[uint64][]*Request{q.opening, q.closing} {
		for session, rs := range m {
			if m[session] = slices.DeleteFunc(rs, drop); len(m[session]) == 0 {
				delete(m, session)
			}
		}
	}
	maps.DeleteFunc(q.validating, func(r *Request, _ struct{}) bool { return drop(r) })
	maps.DeleteFunc(q.queries, func(_ uint64, v query) bool { return drop(v.req) })
}

// refuse answers all requests with err and removes them. It returns how many of them were for commands.
func (q *requests) refuse(err error) (commands uint64) {
	for _, w := range q.commands {
		w.each(func(r *Request) {
			commands++
			r.Reply(nil, err)
		})
	}
	for _, m := range []map[uint64][]*Request{q.opening, q.closing} {
		for _, rs := range m {
			for _, r := range rs {
				r.Reply(nil, err)
			}
		}
	}
	for r := range q.validating {
		commands++
		r.Reply(nil, err)
	}
	for _, v := range q.queries {
		v.req.Reply(nil, err)
	}
	*q = requests{lastQuery: q.lastQuery}
	return commands
}
