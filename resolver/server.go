package resolver

import (
	"cmp"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/transport"
)

// ServerConfig configures a [Server]. Only Transport is required.
type ServerConfig struct {
	// Transport accepts the clients. If it proves keys, a client can propose changes and announce hosts only with the key that
	// it proved. If it has a realm, that needs the role of a host as well, and a pass that includes the service; every member
	// may read.
	Transport transport.Transport

	// File stores the records. It is created if it does not exist. A change is acknowledged once it is on the disk. File.lock
	// excludes a second Server, and File.tmp exists while the file is written. If File is "", records are kept in memory
	// only, for tests.
	File string

	// Allow reports whether the holder of a key may propose changes of a service and announce a host for it. nil allows
	// everyone. For an announcement without services it is called with the name "". It is called from several goroutines and
	// must not block.
	Allow func(service string, key transport.Key) bool

	// AllowReset reports whether the holder of a key may also make a change that can discard a service's state (see
	// [Check]): a reset, a restore by a host that the present record does not name as a member, and a restore of a missing
	// record. Without the right, the hosts of a service cannot restore a record that the server has lost. nil allows these
	// changes to everyone that Allow allows. It must not block.
	AllowReset func(service string, key transport.Key) bool

	// MaxRecords limits the services with a record. It defaults to 65,536. Beyond it, creating a record fails with
	// [ErrRefused].
	MaxRecords int

	// Logger logs refused changes and storage failures. It defaults to none.
	Logger *slog.Logger

	limits limits // set by tests only
}

// limits are the fixed limits of a server. Zero means the default.
type limits struct {
	conns   int // connections
	watches int // watches in progress on one connection; watchedBy times as many on all together
	hosts   int // hosts present
	names   int // services that all present hosts together announce

	// The share of one key, if the transport proves keys: a single member cannot use up the limits above. A process needs one
	// connection, and another one while it replaces a broken one; several processes may have one key.
	keyConns   int // connections
	keyWatches int // watches in progress on all its connections
	keyHosts   int // host IDs present

	hostsDelay time.Duration // how long calls of Hosts are held at the start; negative: not at all
}

func (l *limits) fill() {
	l.conns = cmp.Or(l.conns, 1<<16)
	l.watches = cmp.Or(l.watches, 1<<16)
	l.hosts = cmp.Or(l.hosts, 1<<10)
	l.names = cmp.Or(l.names, 1<<21)
	l.keyConns = cmp.Or(l.keyConns, 1<<8)
	l.keyWatches = cmp.Or(l.keyWatches, 1<<16)
	l.keyHosts = cmp.Or(l.keyHosts, 1<<6)
	l.hostsDelay = cmp.Or(l.hostsDelay, hostsDelay)
}

// Server is a name service for [Client] values. It stores the records in a file. It is safe for concurrent use.
//
// The Server does not store presence, which hosts renew. In the first second after it has begun to listen, it holds calls of
// Hosts and answers them when that second has passed: until then, a [Client] announces its hosts again. Other calls do not
// wait.
//
// The Server writes the whole file for each change, or once for all changes that arrive during a write. With a thousand
// services this takes a few milliseconds on a fast disk. It keeps the descriptors open that it needs for that. If it has
// none all the same, it refuses the change, and a [Client] repeats it.
//
// If the transport proves keys, each key has at most 256 connections, 65,536 watches on all of them, and 64 hosts present.
// All processes with one key share these. They need few: the clients in a process can share one [Client].
type Server struct {
	cfg   ServerConfig
	store *store
	file  *stateFile // nil: none
	done  chan struct{}
	stop  chan struct{} // closed when Close begins
	early early

	watching atomic.Int64 // watches of all connections

	// Logs of what others can cause at any rate.
	unsaved, full, noConn, noWatch, noChange, noAnnouncement rare

	mu        sync.Mutex // guards what follows
	listeners []transport.Listener
	conns     map[transport.Conn]struct{}
	used      map[transport.Key]*usage // by the keys that the connections proved
	closing   bool
	sessions  sync.WaitGroup // one for each of conns, and one for awaitHosts
	err       error          // why done was closed

	closed sync.Once
}

// usage is what the connections of one key use.
type usage struct {
	conns   int          // guarded by Server.mu
	watches atomic.Int64 // in progress on all of them
}

// NewServer returns a server with the records in cfg.File. It returns [ErrStore] if the file is damaged anywhere, so it
// never starts without acknowledged records. If the file does not exist, the Generation changes, by which hosts detect the
// loss.
func NewServer(cfg ServerConfig) (*Server, error) { return newServer(cfg, osFS{}) }

func newServer(cfg ServerConfig, fsys filesystem) (*Server, error) {
	if cfg.Transport == nil {
		return nil, invalid("ServerConfig.Transport is nil")
	}
	if cfg.MaxRecords < 0 {
		return nil, invalid("ServerConfig.MaxRecords is %d: it must not be negative", cfg.MaxRecords)
	}
	cfg.limits.fill()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, store: newStore(), done: make(chan struct{}), stop: make(chan struct{}),
		conns: make(map[transport.Conn]struct{}), used: make(map[transport.Key]*usage),
	}
	s.store.maxRecords, s.store.limits = cmp.Or(cfg.MaxRecords, defaultMaxRecords), cfg.limits
	s.store.allowReset = cfg.AllowReset
	if s.proves() {
		s.store.keyHosts = cfg.limits.keyHosts
	}
	s.early.over = cfg.limits.hostsDelay < 0
	if cfg.File != "" {
		file, records, err := openFile(fsys, cfg.File)
		if err != nil {
			return nil, err
		}
		s.file = file
		s.store.gen, s.store.records = file.gen, records
		s.store.save = s.save
	}
	return s, nil
}

// save writes changes to the file, and ends the service when that fails for good.
func (s *Server) save(changed map[string]Record) error {
	begin := time.Now()
	err := s.file.save(changed)
	if transport.CodeOf(err) == codeRetry {
		s.unsaved.warn(s.cfg.Logger, "records not saved: the changes are refused for now", "file", s.cfg.File, "err", err)
		return err
	}
	if err != nil {
		s.cfg.Logger.Error("resolver storage failed", "file", s.cfg.File, "err", err)
		s.end(err)
		return err
	}
	s.cfg.Logger.Debug("records saved", "file", s.cfg.File, "changed", len(changed), "took", time.Since(begin))
	return nil
}

// end makes Wait return.
func (s *Server) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
	default:
		s.err = err
		close(s.done)
	}
}

// Listen begins to serve clients at addr and returns the address at which they reach it, with the port that is actually in
// use. It can be called for several addresses.
func (s *Server) Listen(addr string) (string, error) {
	l, err := s.cfg.Transport.Listen(addr, s.accept)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	closing := s.closing
	if !closing {
		s.listeners = append(s.listeners, l)
		if len(s.listeners) == 1 {
			s.sessions.Go(s.awaitHosts)
		}
	}
	s.mu.Unlock()
	if closing {
		l.Close() // not under the lock: it may wait for accept
		return "", errClosed
	}
	return l.Addr(), nil
}

// accept returns the handler of a new connection.
func (s *Server) accept(c transport.Conn) transport.Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil
	}
	if len(s.conns) >= s.cfg.limits.conns {
		s.full.warn(s.cfg.Logger, "connection refused: too many connections", "peer", c.Peer().Addr, "conns", len(s.conns))
		return nil
	}
	var u *usage
	if key := c.Peer().Key; s.proves() && !key.IsZero() {
		if u = s.used[key]; u == nil {
			u = new(usage)
			s.used[key] = u
		}
		if u.conns >= s.cfg.limits.keyConns {
			s.noConn.warn(s.cfg.Logger, "connection refused: too many connections of one key", "peer", c.Peer().Addr, "key", key,
				"conns", u.conns)
			return nil
		}
		u.conns++
	}
	s.conns[c] = struct{}{}
	s.sessions.Add(1)
	return newSession(s, c, u)
}

// proves reports whether the transport proves keys.
func (s *Server) proves() bool { return !s.cfg.Transport.Key().IsZero() }

// leave removes a connection that has ended. u is that of its key, or nil.
func (s *Server) leave(c transport.Conn, u *usage) {
	s.mu.Lock()
	delete(s.conns, c)
	if u != nil {
		if u.conns--; u.conns == 0 {
			delete(s.used, c.Peer().Key)
		}
	}
	s.mu.Unlock()
	s.sessions.Done()
}

// Wait blocks until the server is closed, and returns nil, or until it cannot store changes any more, and returns
// [ErrStore]: then the server answers every call with an error, and should be closed and started again.
func (s *Server) Wait() error {
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close finishes the changes in progress, closes the connections, releases the file, and returns nil. It is safe to call
// several times and from several goroutines.
func (s *Server) Close() error {
	s.closed.Do(func() {
		s.mu.Lock()
		s.closing = true
		listeners := s.listeners
		s.mu.Unlock()
		close(s.stop)
		for _, l := range listeners {
			l.Close()
		}
		s.store.close()
		s.mu.Lock()
		conns := make([]transport.Conn, 0, len(s.conns))
		for c := range s.conns {
			conns = append(conns, c)
		}
		s.mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		s.sessions.Wait()
		if s.file != nil {
			s.file.close()
		}
		s.end(nil)
	})
	return nil
}

// allowed checks whether a client may act for a host and services.
func (s *Server) allowed(conn transport.Conn, h Host, services ...string) error {
	if err := validateHost(h); err != nil {
		return err
	}
	key := h.Key
	if s.proves() {
		if key = conn.Peer().Key; h.Key != key {
			return transport.Errorf(CodeRefused, "resolver: host %s has key %q, but the connection proved key %q",
				h.label(), h.Key, key)
		}
	}
	p := conn.Peer()
	if p.Role == transport.RoleGuest {
		return transport.Errorf(transport.CodeNotMember, "resolver: host %s has the pass of a guest, which may not host services",
			h.label())
	}
	for _, name := range services {
		if name != "" && !p.May(transport.RoleHost, name) {
			return transport.Errorf(transport.CodeNotMember, "resolver: service %q: the pass of host %s does not include it",
				name, h.label())
		}
		if s.cfg.Allow != nil && !s.cfg.Allow(name, key) {
			return transport.Errorf(CodeRefused, "resolver: service %q: host %s with key %q is not allowed",
				name, h.label(), key)
		}
	}
	return nil
}
