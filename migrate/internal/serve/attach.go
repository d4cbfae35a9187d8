package serve

import (
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
)

// MaxSessionsPerConn bounds the sessions of a service on one connection.
const MaxSessionsPerConn = 1024

// registry holds the sessions that are attached to a connection, and when the others were detached. A session is attached to
// the connection that resumed it last.
type registry struct {
	attached  map[attachmentKey]*attachment
	bySession map[uint64]*attachment
	byConn    map[*Conn]*attachment // the first of a list linked by sibling

	detachedAt map[uint64]time.Duration // by session that is not attached; may be before this host was active
	terms      map[*Conn]core.Term      // the highest term that a client has seen, if it is above this host's
}

type attachmentKey struct {
	conn    *Conn
	session uint64
}

// attachment is a session on a connection.
type attachment struct {
	attachmentKey
	sibling *attachment // another session on the connection; of registry

	// Of the pusher.
	listening bool
	busy      bool   // the client has not confirmed the last batch
	next      uint64 // the next event to send

	// Of a move from this host.
	prepared bool   // the client was asked to connect to the next host
	answered bool   // it has answered, or disconnected
	ready    bool   // it has connected
	missed   string // the ID of the last host that it could not reach
}

// put writes to a map, which it makes first if it is nil: an idle service has none.
func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

func (r *registry) find(conn *Conn, session uint64) *attachment {
	return r.attached[attachmentKey{conn, session}]
}

// session returns the attachment of a session; nil if its client is not connected.
func (r *registry) session(id uint64) *attachment { return r.bySession[id] }

// first returns an attachment of a connection; nil if it has none.
func (r *registry) first(conn *Conn) *attachment { return r.byConn[conn] }

func (r *registry) len() int { return len(r.attached) }

// each yields all attachments.
func (r *registry) each(yield func(*attachment) bool) {
	for _, a := range r.attached {
		if !yield(a) {
			return
		}
	}
}

// onConn counts the sessions of a connection.
func (r *registry) onConn(conn *Conn) (n int) {
	for a := r.byConn[conn]; a != nil; a = a.sibling {
		n++
	}
	return n
}

func (r *registry) add(conn *Conn, session uint64) {
	a := &attachment{attachmentKey: attachmentKey{conn, session}, sibling: r.byConn[conn]}
	put(&r.byConn, conn, a)
	put(&r.attached, a.attachmentKey, a)
	put(&r.bySession, session, a)
	delete(r.detachedAt, session)
}

// remove removes an attachment. It returns true if the session was attached until now, and has not ended.
func (r *registry) remove(a *attachment, now time.Duration) bool {
	delete(r.attached, a.attachmentKey)
	if first := r.byConn[a.conn]; first != a {
		for first.sibling != a {
			first = first.sibling
		}
		first.sibling = a.sibling
	} else if a.sibling != nil {
		r.byConn[a.conn] = a.sibling
	} else {
		delete(r.byConn, a.conn)
	}
	if r.bySession[a.session] != a {
		return false
	}
	delete(r.bySession, a.session)
	put(&r.detachedAt, a.session, now)
	return true
}

// end forgets a session that has ended, except for its attachment, which it returns: the caller removes it.
func (r *registry) end(session uint64) *attachment {
	a := r.bySession[session]
	delete(r.bySession, session)
	delete(r.detachedAt, session)
	return a
}

// forgetDetached forgets when a session was detached that is about to end.
func (r *registry) forgetDetached(session uint64) { delete(r.detachedAt, session) }

// sawTerm records the term that a client has seen when it opens a session.
func (r *registry) sawTerm(conn *Conn, t, mine core.Term) {
	if t.Compare(mine) > 0 && t.Compare(r.terms[conn]) > 0 {
		put(&r.terms, conn, t)
	}
}

// isAhead reports whether the client has seen a higher term than mine.
func (r *registry) isAhead(conn *Conn, mine core.Term) bool {
	t, ok := r.terms[conn]
	if ok && t.Compare(mine) <= 0 {
		delete(r.terms, conn)
		return false
	}
	return ok
}

// forgetTerm forgets the term of a connection that is closed.
func (r *registry) forgetTerm(conn *Conn) { delete(r.terms, conn) }

// attach attaches a session to a connection.
func (c *Clients) attach(conn *Conn, session uint64) {
	if c.registry.find(conn, session) != nil {
		return
	}
	if old := c.registry.session(session); old != nil {
		// Its client has left that connection. Or this is a late request that the client has given up: then it opens the
		// session again.
		c.detach(old)
		if c.registry.first(old.conn) == nil || old.conn.blocked.Load() {
			old.conn.Abort()
		}
	}
	c.registry.add(conn, session)
	c.back(session)
	c.announceSpread()
}

func (c *Clients) detach(a *attachment) {
	resumable := c.registry.remove(a, c.host.Now())
	c.pusher.remove(a)
	c.ready(a, Gone, "")
	if resumable {
		c.expireSoon()
	}
}
