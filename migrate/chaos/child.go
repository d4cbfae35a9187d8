//go:build unix

package main

import (
	"context"
	"encoding/gob"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
)

// roleEnv is the environment variable that marks a child process.
const roleEnv = "ROAM_CHAOS_CHILD"

// child is the common part of all roles.
type child struct {
	setup
	out        *pipe
	in         *gob.Decoder
	log        *slog.Logger
	tr         *transport.TCP
	res        *resolver.Client // nil in the resolver itself
	goroutines int
	files      int
}

// role is the behavior of a kind of process. start returns when the process is ready; close releases everything.
type role interface {
	start(ctx context.Context) (addr string, err error)
	order(o *order, rep *report) error
	close()
}

// childMain runs a child until its standard input ends, which the end of the parent causes at the latest.
func childMain() int {
	c := &child{out: newPipe(os.Stdout), in: gob.NewDecoder(os.Stdin)}
	if err := c.in.Decode(&c.setup); err != nil {
		fmt.Fprintln(os.Stderr, "chaos: a child is started by its parent only:", err)
		return 2
	}
	if err := c.run(); err != nil {
		fmt.Fprintf(os.Stderr, "chaos: %s: %v\n", c.ID, err)
		c.out.send(report{Err: err.Error()})
		return 1
	}
	return 0
}

func (c *child) run() error {
	began := time.Now()
	level := slog.LevelInfo
	if os.Getenv("ROAM_CHAOS_DEBUG") != "" {
		level = slog.LevelDebug
	}
	c.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close() // makes the runtime open the files of its poller
	}
	c.files, c.goroutines = openFiles(), runtime.NumGoroutine()
	if err := c.connect(); err != nil {
		return err
	}
	var r role
	switch c.Role {
	case "resolver":
		r = &resolverRole{child: c}
	case "host":
		r = &hostRole{child: c}
	case "clients":
		r = &clientsRole{child: c}
	case "flood":
		r = &floodRole{child: c}
	case "beside":
		r = &besideRole{child: c}
	default:
		return fmt.Errorf("unknown role %q", c.Role)
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyWait)
	defer cancel()
	addr, err := r.start(ctx)
	if err != nil {
		return err
	}
	ready := &readyReport{Addr: addr, Took: time.Since(began)}
	if h, ok := r.(*hostRole); ok {
		ready.Inc = h.inc()
	}
	c.out.send(report{Ready: ready})
	for {
		o := new(order)
		if c.in.Decode(o) != nil {
			os.Exit(3) // the parent is gone
		}
		if o.Op == "quit" {
			r.close()
			c.disconnect()
			c.out.send(report{ID: o.ID, Leaks: c.leaks()})
			return nil
		}
		go func() {
			rep := report{ID: o.ID}
			if err := r.order(o, &rep); err != nil {
				rep.Err = err.Error()
			}
			c.out.send(rep)
		}()
	}
}

func keyFile(dir, id string) string { return filepath.Join(dir, id+".key") }

func (c *child) connect() error {
	cfg := transport.TCPConfig{Open: true, InsecurePlaintext: c.Insecure, Logger: c.log}
	if !c.Insecure {
		identity, err := transport.LoadIdentity(keyFile(c.Dir, c.ID))
		if err != nil {
			return err
		}
		cfg.Identity = identity
	}
	tr, err := transport.NewTCP(cfg)
	if err != nil {
		return err
	}
	c.tr = tr
	if c.Role == "resolver" {
		return nil
	}
	server := transport.Peer{Addr: c.Resolver}
	if !c.Insecure {
		identity, err := transport.LoadIdentity(keyFile(c.Dir, resolverID))
		if err != nil {
			return err
		}
		server.Key = identity.Key()
	}
	c.res, err = resolver.NewClient(resolver.ClientConfig{Transport: c.transport(), Server: server, Logger: c.log})
	return err
}

func (c *child) disconnect() {
	if c.res != nil {
		c.res.Close()
	}
	c.tr.Close()
}

// transport returns the transport of the process, which dials proxies where there are any.
func (c *child) transport() *detour { return &detour{Transport: c.tr, via: c.Via} }

type detour struct {
	transport.Transport
	via   map[string]string
	dials atomic.Int64
}

func (d *detour) Dial(ctx context.Context, to transport.Peer, h transport.Handler) (transport.Conn, error) {
	d.dials.Add(1)
	if addr, ok := d.via[to.Addr]; ok {
		to.Addr = addr
	}
	return d.Transport.Dial(ctx, to, h)
}

// count returns the present resources of the process.
func (c *child) count() *leakReport {
	return &leakReport{runtime.NumGoroutine(), openFiles(), c.goroutines, c.files, ""}
}

// leaks returns the resources that remain after a moment.
func (c *child) leaks() *leakReport {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		l := c.count()
		if !l.leaked() {
			return l
		}
		if time.Now().After(end) {
			buf := make([]byte, 64<<10)
			l.Stacks = string(buf[:runtime.Stack(buf, true)])
			return l
		}
	}
}

// openFiles counts the process's file descriptors; 0 if the system does not report them.
func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}
