package resolver

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// maxChanges limits the changes of one connection that wait for the disk. Then the connection is not read until one is done.
const maxChanges = 64

// watchedBy is how many connections together can reach the limit of watches of one.
const watchedBy = 16

// session serves one connection. Its methods run on the connection's reading goroutine, except for callbacks of the store.
type session struct {
	server  *Server
	conn    transport.Conn
	usage   *usage               // of the connection's key; nil if it proved none
	changes chan struct{}        // holds a token for each change in progress
	lists   map[string]*listPart // by host ID: incomplete announcements

	mu      sync.Mutex // guards watches
	watches map[uint64]*pendingWatch
}

// listPart is the first part of an announcement. All parts of a session have at most maxServices names.
type listPart struct {
	digest   string
	services []string
}

type pendingWatch struct {
	req    *transport.Request
	cancel func()
}

func newSession(s *Server, c transport.Conn, u *usage) *session {
	return &session{server: s, conn: c, usage: u, changes: make(chan struct{}, maxChanges),
		watches: make(map[uint64]*pendingWatch)}
}

// Handle implements [transport.Handler].
func (ss *session) Handle(_ transport.Conn, r *transport.Request) {
	switch r.Method {
	case methodGet:
		if p, ok := params[nameParams](r); ok {
			rec, err := ss.server.store.get(p.Name)
			replyRecord(r, rec, err)
		}
	case methodCAS:
		if p, ok := params[casParams](r); ok {
			ss.cas(r, p)
		}
	case methodWatch:
		if p, ok := params[watchParams](r); ok {
			ss.watch(r, p)
		}
	case methodUnwatch:
		if p, ok := params[unwatchParams](r); ok {
			ss.unwatch(p.ID)
			r.Reply(nil, nil)
		}
	case methodAnnounce:
		if p, ok := params[announceParams](r); ok {
			known, err := ss.announce(p)
			if err != nil {
				s := ss.server
				s.noAnnouncement.warn(s.cfg.Logger, "announcement refused", "peer", ss.conn.Peer().Addr, "err", err)
			}
			reply(r, known, err)
		}
	case methodHosts:
		if p, ok := params[nameParams](r); ok {
			ss.hosts(hostsCall{r, p.Name})
		}
	default:
		r.Reply(nil, transport.Errorf(transport.CodeNoMethod, "resolver: no method %.100q", r.Method))
	}
}

// Closed implements [transport.Handler]. It ends the connection's watches.
func (ss *session) Closed(transport.Conn, error) {
	ss.mu.Lock()
	ids := slices.Collect(maps.Keys(ss.watches))
	ss.mu.Unlock()
	for _, id := range ids {
		ss.unwatch(id)
	}
	ss.server.leave(ss.conn, ss.usage)
}

// hosts answers a call of Hosts, later if the server has just started.
func (ss *session) hosts(c hostsCall) {
	if CheckName(c.name) == nil {
		switch held, err := ss.server.early.hold(c, watchedBy*ss.server.cfg.limits.watches); {
		case held:
			return
		case err != nil:
			c.req.Reply(nil, err)
			return
		}
	}
	ss.server.replyHosts(c)
}

func (ss *session) cas(r *transport.Request, p casParams) {
	if err := ss.server.allowed(ss.conn, p.Next.Proposer, p.Next.Name); err != nil {
		ss.refused(p.Next, err)
		r.Reply(nil, err)
		return
	}
	ss.changes <- struct{}{}
	ss.server.store.cas(p.Expect, p.Next, func(rec Record, err error) {
		<-ss.changes
		if code := transport.CodeOf(err); code == CodeConflict && rec.Version > 0 {
			e := transport.Errorf(code, "%s", err)
			e.Data, _ = transport.Marshal(rec.onWire())
			err = e
		}
		ss.refused(p.Next, err)
		replyRecord(r, rec, err)
	})
}

// refused logs a change that was not allowed. Conflicts are normal and not logged.
func (ss *session) refused(next Record, err error) {
	if code := transport.CodeOf(err); code != CodeRefused && code != CodeAmnesia {
		return
	}
	ss.server.noChange.warn(ss.server.cfg.Logger, "change refused", "service", next.Name, "by", next.Proposer.ID,
		"peer", ss.conn.Peer().Addr, "err", err)
}

func (ss *session) watch(r *transport.Request, p watchParams) {
	w := &pendingWatch{req: r}
	if err := ss.addWatch(p, w); err != nil {
		if transport.CodeOf(err) == CodeRefused {
			ss.server.noWatch.warn(ss.server.cfg.Logger, "watch refused", "peer", ss.conn.Peer().Addr, "err", err)
		}
		r.Reply(nil, err)
		return
	}
	// Only this goroutine cancels, so w.cancel needs no lock.
	w.cancel = ss.server.store.watch(p.Name, p.After, func(rec Record, err error) {
		if ss.drop(p.ID, w) != nil {
			replyRecord(r, rec, err)
		}
	})
}

// addWatch enters a watch in ss.watches, within the limits.
func (ss *session) addWatch(p watchParams, w *pendingWatch) error {
	l := &ss.server.cfg.limits
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if _, used := ss.watches[p.ID]; used {
		return invalid("service %q: watch %d is in progress on this connection", p.Name, p.ID)
	}
	if len(ss.watches) >= l.watches || !take(&ss.server.watching, watchedBy*l.watches) {
		return transport.Errorf(CodeRefused, "resolver: service %q: too many watches: the limits are %d on one connection "+
			"and %d on all", p.Name, l.watches, watchedBy*l.watches)
	}
	if ss.usage != nil && !take(&ss.usage.watches, l.keyWatches) {
		ss.server.watching.Add(-1)
		return transport.Errorf(CodeRefused, "resolver: service %q: too many watches: the limit is %d for key %q",
			p.Name, l.keyWatches, ss.conn.Peer().Key)
	}
	ss.watches[p.ID] = w
	return nil
}

// take adds one to n unless n is at its limit.
func take(n *atomic.Int64, limit int) bool {
	if n.Add(1) > int64(limit) {
		n.Add(-1)
		return false
	}
	return true
}

// drop removes a watch and returns it, or nil if the session does not have it. A nil w matches any.
func (ss *session) drop(id uint64, w *pendingWatch) *pendingWatch {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	found := ss.watches[id]
	if found == nil || w != nil && found != w {
		return nil
	}
	delete(ss.watches, id)
	ss.server.watching.Add(-1)
	if ss.usage != nil {
		ss.usage.watches.Add(-1)
	}
	return found
}

func (ss *session) unwatch(id uint64) {
	if w := ss.drop(id, nil); w != nil {
		w.cancel()
		w.req.Reply(nil, transport.Errorf(transport.CodeClosed, "resolver: the watch was withdrawn"))
	}
}

// announce handles one part of an announcement. It returns false if the client must send the whole list.
func (ss *session) announce(p announceParams) (bool, error) {
	h := p.Host
	if p.TTL > uint64(maxTTL/time.Millisecond) {
		return false, invalid("host %q: ttl %d ms is not in 0..%d", h.ID, p.TTL, maxTTL/time.Millisecond)
	}
	ttl := time.Duration(p.TTL) * time.Millisecond
	if len(p.Digest) > maxDigest {
		return false, invalid("host %q: a digest of %d bytes, more than %d", h.ID, len(p.Digest), maxDigest)
	}
	if err := ss.server.allowed(ss.conn, h, p.Services...); err != nil {
		return false, err
	}
	digest := string(p.Digest)
	services := p.Services
	if old := ss.lists[h.ID]; old != nil {
		delete(ss.lists, h.ID)
		if old.digest == digest && p.Part != partRenew {
			services = append(old.services, services...)
		}
	}
	switch p.Part {
	case partRenew:
		if digest == "" {
			return false, nil
		}
		return ss.server.store.renew(h, digest, ttl)
	case partMore:
		n := len(services)
		for _, l := range ss.lists {
			n += len(l.services)
		}
		if n > maxServices || len(ss.lists) >= ss.server.cfg.limits.hosts {
			return false, invalid("host %q: %d services announced, more than %d", h.ID, n, maxServices)
		}
		if ss.lists == nil {
			ss.lists = make(map[string]*listPart)
		}
		ss.lists[h.ID] = &listPart{digest, services}
		return true, CheckAnnouncement(h, p.Services, ttl)
	case partLast:
		if len(services) == 0 && ttl > 0 {
			if err := ss.server.allowed(ss.conn, h, ""); err != nil {
				return false, err
			}
		}
		return true, ss.server.store.announce(h, services, digest, ttl)
	default:
		return false, invalid("host %q: announcement part %d is unknown", h.ID, p.Part)
	}
}

// params decodes a request's params. If they are malformed, it replies the error.
func params[P any](r *transport.Request) (p P, ok bool) {
	read := msgpack.UnmarshalSmall
	if r.Method == methodAnnounce {
		read = transport.Unmarshal
	}
	if err := read(r.Params, &p); err != nil {
		r.Reply(nil, transport.Errorf(CodeInvalid, "resolver: %s: %v", r.Method, err))
		return p, false
	}
	return p, true
}

func reply(r *transport.Request, v any, err error) {
	if err != nil {
		r.Reply(nil, err)
		return
	}
	r.Reply(transport.Marshal(v))
}

func replyRecord(r *transport.Request, rec Record, err error) { reply(r, rec.onWire(), err) }
