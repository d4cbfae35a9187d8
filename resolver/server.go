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
	// Transport accepts the clients. Where it proves keys, a client proposes changes and announces hosts only with the key
	// that it proved.
	Transport transport.Transport

	// File is where the records are kept; it is made if there is none. A change is answered once it is on the disk. Beside
	// it are File.lock, which keeps a second Server away, and File.tmp while it is written. "": records live in memory
	// only and are gone with the Server, for tests.
	File string

	// Allow says whether the holder of a key may propose changes of a service and announce a host for it; nil: everyone
	// may. It must not block and is called from many goroutines.
	Allow func(service string, key transport.Key) bool

	// AllowReset says whether the holder of a key may, in addition, give up the state of a running or lost service (the
	// reset of [Check]); nil: everyone whom Allow allows. It must not block.
	AllowReset func(service string, key transport.Key) bool

	// MaxRecords limits the services with a record. It defaults to 65,536. Beyond it, creating a record fails with
	// [ErrRefused].
	MaxRecords int

	// Logger is told of refused changes and of storage that fails; nil discards.
	Logger *slog.Logger

	limits limits // set by tests only
}

// limits are the limits of a server that nobody had to change yet. Zero ones become the default.
type limits struct {
	conns   int // connections
	watches int // watches in progress on one connection; watchedBy times as many on all together
	hosts   int // hosts present
	names   int // services that all present hosts together announce
}

func (l *limits) fill() {
	l.conns = cmp.Or(l.conns, 1<<16)
	l.watches = cmp.Or(l.watches, 1<<16)
	l.hosts = cmp.Or(l.hosts, 1<<10)
	l.names = cmp.Or(l.names, 1<<21)
}

// Server is the name service as others reach it: what [Client] talks to. Records are kept in a file; presence is not,
// because hosts renew it. It is safe for concurrent use.
//
// The file is written as a whole for each change, or once for all changes that arrive meanwhile: some milliseconds for a
// thousand services on a disk that syncs as fast.
type Server struct {
	cfg   ServerConfig
	store *store
	file  *stateFile // nil: none
	done  chan struct{}

	watching atomic.Int64 // watches of all connections

	mu        sync.Mutex // guards what follows
	listeners []transport.Listener
	conns     map[transport.Conn]struct{}
	closing   bool
	sessions  sync.WaitGroup // one for each of conns
	err       error          // why done was closed

	closed sync.Once
}

// NewServer makes a server with what cfg.File holds. A file that is not complete to the last bit is refused with
// [ErrStore]: it never starts with less than it promised to keep. Where there is no file, all records have another Gen
// than before, by which hosts see that the memory was lost.
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
	s := &Server{cfg: cfg, store: newStore(), done: make(chan struct{}), conns: make(map[transport.Conn]struct{})}
	s.store.maxRecords, s.store.limits = cmp.Or(cfg.MaxRecords, defaultMaxRecords), cfg.limits
	s.store.allowReset = cfg.AllowReset
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

// save writes changes to the file, and ends the server's service when that fails.
func (s *Server) save(changed map[string]Record) error {
	begin := time.Now()
	err := s.file.save(changed)
	if err != nil {
		s.cfg.Logger.Error("resolver storage failed", "file", s.cfg.File, "err", err)
		s.end(err)
		return err
	}
	s.cfg.Logger.Debug("records saved", "file", s.cfg.File, "changed", len(changed), "took", time.Since(begin))
	return nil
}

// end lets Wait return.
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

// Listen begins to serve clients at addr and returns the address at which they reach it, with the port that was really
// bound. It may be called for several addresses.
func (s *Server) Listen(addr string) (string, error) {
	l, err := s.cfg.Transport.Listen(addr, s.accept)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	closing := s.closing
	if !closing {
		s.listeners = append(s.listeners, l)
	}
	s.mu.Unlock()
	if closing {
		l.Close() // Not under the lock: it may wait for accept.
		return "", errClosed
	}
	return l.Addr(), nil
}

// accept makes the handler of a new connection.
func (s *Server) accept(c transport.Conn) transport.Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil
	}
	if len(s.conns) >= s.cfg.limits.conns {
		s.cfg.Logger.Warn("connection refused: the resolver has as many as it may", "peer", c.Peer().Addr, "conns", len(s.conns))
		return nil
	}
	s.conns[c] = struct{}{}
	s.sessions.Add(1)
	return newSession(s, c)
}

// leave forgets a connection that has ended.
func (s *Server) leave(c transport.Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.sessions.Done()
}

// Wait blocks until the server is closed, and then returns nil, or until its file can't be trusted any more ([ErrStore]):
// then it answers nothing but errors, and should be closed and started again.
func (s *Server) Wait() error {
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the server: changes that were taken up are finished and answered, connections are closed, the file is
// released. It returns when all that is done, always nil, and may be called twice and from many goroutines.
func (s *Server) Close() error {
	s.closed.Do(func() {
		s.mu.Lock()
		s.closing = true
		listeners := s.listeners
		s.mu.Unlock()
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

// allowed checks a client's right to speak for a host and a service.
func (s *Server) allowed(conn transport.Conn, h Host, services ...string) error {
	if err := validateHost(h); err != nil {
		return err
	}
	key := h.Key
	if !s.cfg.Transport.Key().IsZero() {
		if key = conn.Peer().Key; h.Key != key {
			return transport.Errorf(CodeRefused, "resolver: host %s has key %q, but the connection proved key %q",
				h.label(), h.Key, key)
		}
	}
	if s.cfg.Allow == nil {
		return nil
	}
	for _, name := range services {
		if !s.cfg.Allow(name, key) {
			return transport.Errorf(CodeRefused, "resolver: service %q: host %s with key %q has no right to it",
				name, h.label(), key)
		}
	}
	return nil
}
