//go:build unix

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/resolver"
)

const resolverID = "resolver"

func recordsFile(dir string) string { return filepath.Join(dir, "records") }

type resolverRole struct {
	*child
	server *resolver.Server
}

func (r *resolverRole) start(context.Context) (string, error) {
	server, err := resolver.NewServer(resolver.ServerConfig{
		Transport: r.tr, File: recordsFile(r.Dir), Logger: r.log,
	})
	if err != nil {
		return "", err
	}
	r.server = server
	return server.Listen(r.Listen)
}

func (r *resolverRole) order(o *order, _ *report) error {
	return fmt.Errorf("a resolver does not handle the order %q", o.Op)
}

func (r *resolverRole) close() { r.server.Close() }

type hostRole struct {
	*child
	trap    *trap
	board   board
	node    *migrate.Node
	service *migrate.Service
	beside  *migrate.Service // nil: there is none
	stuck   atomic.Bool
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
	take := node.Standby
	if h.Create {
		take = node.Host
	}
	if h.service, err = take(ctx, h.Service, fresh, policy); err != nil {
		return "", err
	}
	if h.Beside {
		other := func() migrate.Migratable { return newLedger(new(board), 0) }
		if h.beside, err = take(ctx, beside, other, policy); err != nil {
			return "", err
		}
	}
	return node.Self().Addr, nil
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
	if h.service != nil && h.service.Status().Role == migrate.Halted {
		rep.Wrong = err.Error()
	}
	h.out.send(rep)
}

func (h *hostRole) order(o *order, rep *report) error {
	service := h.service
	if o.Service != "" {
		service = h.beside
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
	h.node.Close()
}
