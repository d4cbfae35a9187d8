package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/roam-go/roam/transport"
)

func closeManyTimes(r *run) {
	c, a := r.connect(&handler{}, nil)
	var wg sync.WaitGroup
	var failed atomic.Value
	for range 8 {
		for _, c := range []transport.Conn{c, a} {
			wg.Go(func() {
				if err := c.Close(); err != nil {
					failed.Store(err)
				}
			})
		}
	}
	r.within("Close", wg.Wait)
	if err := failed.Load(); err != nil {
		r.failf("Close: %v", err)
	}
}

func closeDelivers(r *run) {
	const n = 100 // in all less than any buffer
	var count atomic.Int64
	ended := make(chan error, 1)
	c, _ := r.connect(&handler{
		handle: func(transport.Conn, *transport.Request) { count.Add(1) },
		closed: func(_ transport.Conn, err error) { offer(ended, err) },
	}, nil)
	p := value(make([]byte, 200))
	for range n {
		r.must(c.Notify("n", p), "notify")
	}
	r.must(c.Close(), "close")
	receive(r, "Closed at the peer", ended)
	if got := count.Load(); got != n {
		r.failf("%d of %d notifications arrived", got, n)
	}
}

func closeInHandler(r *run) {
	ended := make(chan error, 2)
	closed := func(_ transport.Conn, err error) { offer(ended, err) }
	c, _ := r.connect(&handler{closed: closed, handle: func(c transport.Conn, q *transport.Request) {
		q.Reply(value("bye"), nil)
		c.Close()
	}}, &handler{closed: closed})
	got, err := r.call(c, "end", nil)
	r.must(err, "call answered before Close")
	if !bytes.Equal(got, value("bye")) {
		r.failf("got % x", got)
	}
	receive(r, "Closed", ended)
	receive(r, "Closed at the other side", ended)
}

func pendingCalls(r *run) {
	for _, who := range []string{"this side", "the peer"} {
		arrived := make(chan struct{}, 6)
		c, a := r.connect(&handler{handle: func(transport.Conn, *transport.Request) { offer(arrived, struct{}{}) }}, nil)
		got := make(chan error, 12)
		for range 3 {
			go func() { _, err := c.Call(r.Context(), "never", nil); offer(got, err) }()
			c.Go("never", nil, func(_ []byte, err error) { offer(got, err) })
		}
		for range 6 {
			r.wait("calls", arrived)
		}
		if who == "the peer" {
			a.Close()
		} else {
			c.Close()
		}
		for range 6 {
			err := receive(r, "end of a call after Close by "+who, got)
			if err == nil || who == "this side" && !errors.Is(err, transport.ErrClosed) {
				r.failf("after Close by %s: got %v", who, err)
			}
		}
		select {
		case <-got:
			r.failf("a call ended twice")
		default:
		}
	}
}

func afterClose(r *run) {
	c, _ := r.connect(&handler{}, nil)
	r.must(c.Close(), "close")
	if err := c.Notify("n", nil); !errors.Is(err, transport.ErrClosed) {
		r.failf("Notify: got %v", err)
	}
	if _, err := r.call(c, "echo", nil); !errors.Is(err, transport.ErrClosed) {
		r.failf("Call: got %v", err)
	}
	got := make(chan error, 2)
	c.Go("echo", nil, func(_ []byte, err error) { offer(got, err) })
	if err := receive(r, "Go", got); !errors.Is(err, transport.ErrClosed) {
		r.failf("Go: got %v", err)
	}
}

func closedOnce(r *run) {
	for _, who := range []string{"dialer", "listener"} {
		var events [2]log
		ended := make(chan struct{}, 4)
		h := func(i int) *handler {
			return &handler{
				handle: func(transport.Conn, *transport.Request) { events[i].add("handle") },
				closed: func(_ transport.Conn, err error) {
					switch {
					case errors.Is(err, transport.ErrClosed):
						events[i].add("closed here")
					case err == io.EOF:
						events[i].add("closed there")
					default:
						events[i].add("closed with " + fmt.Sprint(err))
					}
					offer(ended, struct{}{})
				},
			}
		}
		d, a := r.connect(h(0), h(1))
		for _, c := range []transport.Conn{d, a} {
			for range 20 {
				r.must(c.Notify("n", nil), "notify")
			}
			_, err := r.call(c, "echo", nil)
			r.must(err, "call")
		}
		closer := d
		if who == "listener" {
			closer = a
		}
		r.must(closer.Close(), "close")
		r.wait("Closed", ended)
		r.wait("Closed at the other side", ended)
		closer.Close()
		select { // wait a moment for a surplus event
		case <-ended:
		case <-time.After(min(20*time.Millisecond, r.patience)):
		}
		for i := range events {
			got := events[i].all()
			want := slices.Repeat([]string{"handle"}, 20)
			if (i == 1) == (who == "dialer") {
				want = append(want, "closed here")
			} else {
				want = append(want, "closed there")
			}
			if !slices.Equal(got, want) {
				r.failf("closed by the %s, handler %d saw %q", who, i, got)
			}
		}
	}
}

func accept(r *run) {
	var events log
	h := &handler{handle: func(transport.Conn, *transport.Request) { events.add("handle") }}
	l, err := r.Listener.Listen(r.Addr, func(c transport.Conn) transport.Handler {
		events.add("accept")
		if err := c.Notify("greeting", nil); err != nil {
			events.add(err.Error())
		}
		return h
	})
	r.must(err, "listen")
	defer l.Close()
	greeted := make(chan struct{}, 1)
	c := r.dial(l, &handler{handle: func(_ transport.Conn, q *transport.Request) {
		if q.Method == "greeting" {
			offer(greeted, struct{}{})
		}
	}})
	r.must(c.Notify("n", nil), "notify")
	r.alive(c)
	r.wait("the notification from accept", greeted)
	if got, want := events.all(), []string{"accept", "handle"}; !slices.Equal(got, want) {
		r.failf("got %q, want %q", got, want)
	}
}

func acceptNil(r *run) {
	l, err := r.Listener.Listen(r.Addr, func(transport.Conn) transport.Handler { return nil })
	r.must(err, "listen")
	defer l.Close()
	ctx, cancel := context.WithTimeout(r.Context(), r.patience)
	defer cancel()
	c, err := r.Dialer.Dial(ctx, transport.Peer{Addr: l.Addr(), Key: r.Listener.Key()}, nil)
	if err == nil {
		defer c.Close()
		if _, err = c.Call(ctx, "echo", nil); err == nil || transport.CodeOf(err) == transport.CodeNoMethod {
			r.failf("the connection works: %v", err)
		}
	}
	if ctx.Err() != nil {
		r.failf("the dialer got no error")
	}
}

func listenerClose(r *run) {
	var accepts atomic.Int64
	l, err := r.Listener.Listen(r.Addr, func(transport.Conn) transport.Handler {
		accepts.Add(1)
		return &handler{}
	})
	r.must(err, "listen")
	c := r.dial(l, nil)
	r.alive(c)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { l.Close() })
	}
	r.within("Close", wg.Wait)
	r.alive(c)
	ctx, cancel := context.WithTimeout(r.Context(), r.patience)
	defer cancel()
	if d, err := r.Dialer.Dial(ctx, transport.Peer{Addr: l.Addr(), Key: r.Listener.Key()}, nil); err == nil {
		d.Close()
		r.failf("a dial after Close succeeded")
	}
	if n := accepts.Load(); n != 1 {
		r.failf("%d accept calls", n)
	}
}

func keys(r *run) {
	d, a := r.connect(&handler{}, nil)
	if got, want := d.Peer().Key, r.Listener.Key(); got != want {
		r.failf("the dialer sees %q, the listener has %q", got, want)
	}
	if got, want := a.Peer().Key, r.Dialer.Key(); got != want {
		r.failf("the listener sees %q, the dialer has %q", got, want)
	}
	if d.Peer().Addr == "" || a.Peer().Addr == "" {
		r.failf("no address: %q, %q", d.Peer().Addr, a.Peer().Addr)
	}
}

func wrongKey(r *run) {
	l, err := r.Listener.Listen(r.Addr, func(transport.Conn) transport.Handler { return &handler{} })
	r.must(err, "listen")
	defer l.Close()
	ctx, cancel := context.WithTimeout(r.Context(), r.patience)
	defer cancel()
	key := transport.NewIdentity().Key()
	c, err := r.Dialer.Dial(ctx, transport.Peer{Addr: l.Addr(), Key: key}, nil)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, transport.ErrWrongKey) {
		r.failf("got %v", err)
	}
	r.alive(r.dial(l, nil))
}

func dialRefused(r *run) {
	l, err := r.Listener.Listen(r.Addr, func(transport.Conn) transport.Handler { return &handler{} })
	r.must(err, "listen")
	r.must(l.Close(), "close")
	got := make(chan error, 1)
	go func() {
		c, err := r.Dialer.Dial(r.Context(), transport.Peer{Addr: l.Addr()}, nil)
		if err == nil {
			c.Close()
		}
		offer(got, err)
	}()
	if err := receive(r, "dial", got); !errors.Is(err, syscall.ECONNREFUSED) {
		r.failf("got %v", err)
	}
}

func dialCancelled(r *run) {
	hold := make(chan struct{})
	l, err := r.Listener.Listen(r.Addr, func(transport.Conn) transport.Handler {
		<-hold // delays the greeting
		return nil
	})
	r.must(err, "listen")
	defer l.Close()
	defer close(hold)
	for _, wait := range []time.Duration{0, 20 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(r.Context(), wait)
		got := make(chan error, 1)
		go func() {
			c, err := r.Dialer.Dial(ctx, transport.Peer{Addr: l.Addr(), Key: r.Listener.Key()}, nil)
			if err == nil {
				c.Close()
			}
			offer(got, err)
		}()
		err := receive(r, "dial", got)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			r.failf("got %v", err)
		}
	}
}

func dialContext(r *run) {
	l, err := r.Listener.Listen(r.Addr, func(transport.Conn) transport.Handler { return &handler{} })
	r.must(err, "listen")
	defer l.Close()
	ctx, cancel := context.WithCancel(r.Context())
	c, err := r.Dialer.Dial(ctx, transport.Peer{Addr: l.Addr(), Key: r.Listener.Key()}, nil)
	r.must(err, "dial")
	defer c.Close()
	r.alive(c)
	cancel()
	for end := time.Now().Add(min(20*time.Millisecond, r.patience)); time.Now().Before(end); {
		r.alive(c)
	}
}
