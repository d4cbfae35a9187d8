//go:build unix

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

const resolverID = "resolver"

// recordsName is the name of the resolver's file, unless a scenario gives it another one.
const recordsName = "records"

type resolverRole struct {
	*child
	server *resolver.Server
	doors  doors
}

func (r *resolverRole) start(context.Context) (string, error) {
	r.doors.Transport = r.tr
	server, err := resolver.NewServer(resolver.ServerConfig{
		Transport: &r.doors, File: filepath.Join(r.Dir, r.Records), Logger: r.log,
	})
	if err != nil {
		return "", err
	}
	r.server = server
	return server.Listen(r.Listen)
}

func (r *resolverRole) order(o *order, _ *report) error {
	if o.Op == "unlisten" {
		r.doors.close()
		return nil
	}
	return fmt.Errorf("a resolver does not handle the order %q", o.Op)
}

// doors is a transport that can stop accepting connections while the accepted ones stay.
type doors struct {
	transport.Transport
	mu   sync.Mutex // guards open
	open []transport.Listener
}

func (d *doors) Listen(addr string, accept func(transport.Conn) transport.Handler) (transport.Listener, error) {
	l, err := d.Transport.Listen(addr, accept)
	if err == nil {
		d.mu.Lock()
		d.open = append(d.open, l)
		d.mu.Unlock()
	}
	return l, err
}

func (d *doors) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.open {
		l.Close()
	}
}

func (r *resolverRole) close() { r.server.Close() }

type hostRole struct {
	*child
	trap    *trap
	board   board
	node    *migrate.Node
	service atomic.Pointer[migrate.Service] // nil: not hosted yet
	beside  *migrate.Service                // nil: there is none
	stuck   atomic.Bool
	reset   func(context.Context) error
	joins   sync.WaitGroup // of a newcomer
	giveUp  func()         // nil: not a newcomer
}

func (h *hostRole) start(ctx context.Context) (string, error) {
	store := ""
	if h.Durable {
		store = filepath.Join(h.Dir, h.ID+".store")
	}
	h.trap = &trap{Resolver: h.res, caught: func() { h.out.send(report{Caught: true}) }}
	node, err := migrate.NewNode(migrate.NodeConfig{
		Resolver: h.trap, Transport: h.transport(), ID: h.ID, Listen: h.Listen, Logger: h.log, Dir: store,
		Hooks: migrate.Hooks{Changed: h.changed, Failed: h.failed},
	})
	if err != nil {
		return "", err
	}
	h.node = node
	fresh := func() migrate.Migratable {
		l := newLedger(&h.board, h.Ballast)
		l.takes, l.stall, l.stuck = h.Apply, h.Stall, &h.stuck
		return l
	}
	policy := migrate.Policy{Copies: h.Standbys + 1, EventBytes: h.EventBytes}
	h.reset = func(ctx context.Context) error {
		_, err := node.Reset(ctx, h.Service, fresh, policy)
		return err
	}
	if h.Newcomer {
		var joining context.Context
		joining, h.giveUp = context.WithCancel(context.Background())
		h.joins.Go(func() { h.join(joining, fresh, policy) })
		return node.Self().Addr, nil
	}
	take := node.Standby
	if h.Create {
		take = node.Host
	}
	s, err := take(ctx, h.Service, fresh, policy)
	if err != nil {
		return "", err
	}
	h.service.Store(s)
	if h.Beside {
		other := func() migrate.Migratable { return newLedger(new(board), 0) }
		if h.beside, err = take(ctx, beside, other, policy); err != nil {
			return "", err
		}
	}
	return node.Self().Addr, nil
}

// join calls Host until it succeeds, as a program does.
func (h *hostRole) join(ctx context.Context, fresh func() migrate.Migratable, policy migrate.Policy) {
	for {
		s, err := h.node.Host(ctx, h.Service, fresh, policy)
		if err == nil {
			h.service.Store(s)
			return
		}
		h.log.Warn("Host failed", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (h *hostRole) changed(st migrate.Status) {
	if st.Service != h.Service {
		return
	}
	h.out.send(report{Status: h.status(st)})
}

func (h *hostRole) status(st migrate.Status) *statusReport {
	rep := &statusReport{
		At: time.Now().UnixNano(), Role: st.Role, Loss: st.Record.Loss, Epoch: st.Record.Epoch, Active: st.Record.Active.ID,
		Place: h.board.get(), Susp: st.Suspended,
	}
	for _, m := range st.Record.ISR {
		rep.ISR = append(rep.ISR, member{m.ID, m.Incarnation})
	}
	return rep
}

// failed records an error. Failed fetches of copies are expected when processes die; all other errors are not.
func (h *hostRole) failed(_ string, err error) {
	rep := report{Note: err.Error()}
	if s := h.service.Load(); s != nil && s.Status().Role == migrate.Halted {
		rep.Wrong = err.Error()
	}
	rep.Alone = strings.Contains(rep.Note, "Node.Reset on host "+h.ID+" continues")
	h.out.send(rep)
}

func (h *hostRole) order(o *order, rep *report) error {
	service := h.service.Load()
	if o.Service != "" {
		service = h.beside
	}
	if service == nil && slices.Contains([]string{"handoff", "state"}, o.Op) {
		return fmt.Errorf("host %s does not host the service yet", h.ID)
	}
	switch o.Op {
	case "stick":
		h.stuck.Store(true)
		return nil
	case "shutdown":
		rep.Stop = h.shutdown(o.Timeout)
		return nil
	case "handoff":
		ctx, cancel := context.WithTimeout(context.Background(), o.Timeout)
		defer cancel()
		r, err := service.Handoff(ctx, o.Target)
		rep.Move = &r
		return err
	case "reset":
		ctx, cancel := context.WithTimeout(context.Background(), o.Timeout)
		defer cancel()
		return h.reset(ctx)
	case "trap":
		h.trap.set(o.Target)
		return nil
	case "state":
		st := service.Status()
		rep.Status, rep.Busy = h.status(st), st.Busy
		rep.Leaks = h.count()
		return nil
	}
	return fmt.Errorf("a host does not handle the order %q", o.Op)
}

func (h *hostRole) inc() uint64 { return h.node.Self().Incarnation }

func (h *hostRole) close() {
	h.trap.set("")
	if h.giveUp != nil {
		h.giveUp()
	}
	h.node.Close()
	h.joins.Wait()
}
