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

var checks = []check{
	{"Order", "messages arrive whole, once each and in the order of the calls that sent them", order},
	{"BothDirections", "calls and notifications work in both directions of one connection", bothDirections},
	{"ConcurrentCalls", "each of many concurrent calls gets its own reply", concurrentCalls},
	{"AnyOrder", "a call can be answered before an earlier one", anyOrder},
	{"Params", "nil params arrive as the empty array, a nil result as nil", params},
	{"BadParams", "params that are not one MessagePack value fail on this side with ErrBadMessage, and the connection stays open", badParams},
	{"SizeLimit", "a message that is too large fails with ErrBadMessage, and the connection stays open; a smaller one arrives", sizeLimit},
	{"Cancel", "cancelling one call returns the context's error, drops the late reply, and leaves the connection alive", cancelCall},
	{"Errors", "an error arrives with its code, message and data and with Remote set", remoteErrors},
	{"UnknownMethod", "without a handler a call is answered with ErrNoMethod and a notification is ignored", unknownMethod},
	{"SlowPeer", "no sender waits for a peer that does not read: the connection ends with ErrSlowPeer", slowPeer},
	{"Ownership", "the caller may reuse passed bytes after the method returns; received bytes belong to the receiver", ownership},
	{"ReplyElsewhere", "a call can be answered from another goroutine, after Handle has returned", replyElsewhere},
	{"ReplyTwice", "a further reply to the same call is dropped", replyTwice},
	{"ReplyToNotification", "a reply to a notification does nothing", replyToNotification},
	{"CloseManyTimes", "Close is safe to call several times and from several goroutines", closeManyTimes},
	{"CloseDelivers", "messages sent before Close arrive", closeDelivers},
	{"CloseInHandler", "Close may be called from the handler", closeInHandler},
	{"PendingCalls", "calls that are pending when the connection ends get an error, each once", pendingCalls},
	{"AfterClose", "after Close every method fails with ErrClosed and none blocks", afterClose},
	{"Closed", "Closed is called once, after the last Handle, with ErrClosed if this side closed and io.EOF if the peer did", closedOnce},
	{"Accept", "accept is called once for each connection, before a message of it is handled", accept},
	{"AcceptNil", "a nil handler from accept refuses the connection", acceptNil},
	{"ListenerClose", "after a listener's Close new connections fail, and accepted ones stay open", listenerClose},
	{"Keys", "Peer has the key that the other side proved", keys},
	{"WrongKey", "dialing a peer that does not prove the expected key fails with ErrWrongKey", wrongKey},
	{"DialRefused", "dialing an address without a listener fails with an error that wraps syscall.ECONNREFUSED", dialRefused},
	{"DialCancelled", "a cancelled dial returns the context's error", dialCancelled},
	{"DialContext", "cancelling the context after Dial has returned does not touch the connection", dialContext},
}

func order(r *run) {
	const n = 2000
	got := make(chan int, n)
	c, _ := r.connect(&handler{handle: func(_ transport.Conn, q *transport.Request) {
		var v []int
		if transport.Unmarshal(q.Params, &v) != nil || len(v) != 1 {
			v = []int{-1}
		}
		offer(got, v[0])
		q.Reply(nil, nil)
	}}, nil)
	for i := range n {
		switch p := value([]int{i}); i % 3 {
		case 0:
			r.must(c.Notify("n", p), "notify")
		case 1:
			c.Go("g", p, func([]byte, error) {})
		case 2:
			if i%50 == 2 {
				_, err := r.call(c, "c", p)
				r.must(err, "call")
			} else {
				r.must(c.Notify("n", p), "notify")
			}
		}
	}
	for i := range n {
		if v := receive(r, fmt.Sprintf("message %d", i), got); v != i {
			r.failf("message %d arrived where %d was next", v, i)
		}
	}
}

func bothDirections(r *run) {
	notes := make(chan string, 2)
	h := func(name string) *handler {
		return &handler{handle: func(_ transport.Conn, q *transport.Request) { offer(notes, name+" "+q.Method) }}
	}
	d, a := r.connect(h("listener"), h("dialer"))
	var wg sync.WaitGroup
	for _, c := range []transport.Conn{d, a} {
		wg.Go(func() {
			for range 100 {
				if _, err := r.call(c, "echo", nil); err != nil {
					notes <- err.Error()
					return
				}
			}
		})
	}
	r.within("calls in both directions", wg.Wait)
	r.must(d.Notify("up", nil), "notify")
	r.must(a.Notify("down", nil), "notify")
	got := []string{receive(r, "notification", notes), receive(r, "notification", notes)}
	slices.Sort(got)
	if want := []string{"dialer down", "listener up"}; !slices.Equal(got, want) {
		r.failf("got %q, want %q", got, want)
	}
}

func concurrentCalls(r *run) {
	c, _ := r.connect(&handler{handle: func(_ transport.Conn, q *transport.Request) {
		go q.Reply(q.Params, nil)
	}}, nil)
	errs := make(chan error, 32)
	for i := range 32 {
		go func() {
			for j := range 50 {
				p := value([]int{i, j})
				got, err := r.call(c, "slow echo", p)
				if err == nil && !bytes.Equal(p, got) {
					err = fmt.Errorf("got % x, want % x", got, p)
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 32 {
		r.must(receive(r, "calls", errs), "call")
	}
}

func anyOrder(r *run) {
	var first *transport.Request
	c, _ := r.connect(&handler{handle: func(_ transport.Conn, q *transport.Request) {
		if first == nil {
			first = q
			return
		}
		q.Reply(value("second"), nil)
		first.Reply(value("first"), nil)
	}}, nil)
	got := make(chan string, 2)
	for _, want := range []string{"first", "second"} {
		c.Go("call", nil, func(result []byte, err error) {
			if err == nil && !bytes.Equal(result, value(want)) {
				err = errors.New("wrong reply")
			}
			offer(got, fmt.Sprint(want, " ", err))
		})
	}
	for _, want := range []string{"second <nil>", "first <nil>"} {
		if s := receive(r, "reply", got); s != want {
			r.failf("got %q, want %q", s, want)
		}
	}
}

func params(r *run) {
	got := make(chan []byte, 1)
	c, _ := r.connect(&handler{handle: func(_ transport.Conn, q *transport.Request) {
		offer(got, q.Params)
		q.Reply(nil, nil)
	}}, nil)
	result, err := r.call(c, "nil", nil)
	r.must(err, "call")
	if p := receive(r, "params", got); !bytes.Equal(p, []byte{0x90}) {
		r.failf("nil params arrived as % x", p)
	}
	if !bytes.Equal(result, []byte{0xc0}) {
		r.failf("a nil result arrived as % x", result)
	}
}

func badParams(r *run) {
	c, _ := r.connect(&handler{}, nil)
	for _, p := range [][]byte{{0xc1}, {0x92, 1}, {1, 2}, {0xda, 0, 9}, {0xdd, 0xff, 0xff, 0xff, 0xff}} {
		if _, err := r.call(c, "echo", p); !errors.Is(err, transport.ErrBadMessage) {
			r.failf("call with params % x: got %v", p, err)
		}
		if err := c.Notify("echo", p); !errors.Is(err, transport.ErrBadMessage) {
			r.failf("notify with params % x: got %v", p, err)
		}
	}
	r.alive(c)
}

func sizeLimit(r *run) {
	c, _ := r.connect(&handler{handle: func(_ transport.Conn, q *transport.Request) {
		q.Reply(value(make([]byte, r.MaxMessage)), nil)
	}}, nil)
	p := value(make([]byte, r.MaxMessage))
	if _, err := r.call(c, "echo", p); !errors.Is(err, transport.ErrBadMessage) {
		r.failf("call with %d bytes: got %v", len(p), err)
	}
	if err := c.Notify("echo", p); !errors.Is(err, transport.ErrBadMessage) {
		r.failf("notify with %d bytes: got %v", len(p), err)
	}
	if _, err := r.call(c, "large", nil); !errors.Is(err, transport.ErrBadMessage) {
		r.failf("call answered with %d bytes: got %v", len(p), err)
	}
	p = value(make([]byte, r.MaxMessage-400))
	got, err := r.call(c, "echo", p)
	r.must(err, fmt.Sprintf("call with %d bytes", len(p)))
	if !bytes.Equal(p, got) {
		r.failf("%d bytes came back changed", len(p))
	}
}

func cancelCall(r *run) {
	late := make(chan *transport.Request, 1)
	c, _ := r.connect(&handler{handle: func(_ transport.Conn, q *transport.Request) { offer(late, q) }}, nil)
	ctx, cancel := context.WithCancel(r.Context())
	got := make(chan error, 1)
	go func() { _, err := c.Call(ctx, "never", nil); offer(got, err) }()
	q := receive(r, "the call", late)
	cancel()
	if err := receive(r, "cancelled call", got); !errors.Is(err, context.Canceled) {
		r.failf("got %v", err)
	}
	q.Reply(value("late"), nil)
	r.alive(c)
	go func() { _, err := c.Call(ctx, "never", nil); offer(got, err) }()
	if err := receive(r, "call with a context that has ended", got); !errors.Is(err, context.Canceled) {
		r.failf("with a context that has ended: got %v", err)
	}
	r.alive(c)
}

func remoteErrors(r *run) {
	c, _ := r.connect(&handler{handle: func(_ transport.Conn, q *transport.Request) {
		e := &transport.Error{Code: 4711, Message: "no such thing", Data: value("detail")}
		switch q.Method {
		case "coded":
			q.Reply(nil, e)
		case "wrapped":
			q.Reply(nil, fmt.Errorf("outer: %w", e))
		case "plain":
			q.Reply(nil, errors.New("just words"))
		}
	}}, nil)
	for _, m := range []string{"coded", "wrapped", "plain"} {
		_, err := r.call(c, m, nil)
		e, ok := errors.AsType[*transport.Error](err)
		switch {
		case !ok:
			r.failf("%s error arrived as %T: %v", m, err, err)
		case !e.Remote:
			r.failf("%s error arrived without Remote", m)
		case m == "plain" && (e.Code != transport.CodeUnknown || e.Message != "just words"):
			r.failf("plain error arrived as code %d, %q", e.Code, e.Message)
		case m != "plain" && e.Code != 4711:
			r.failf("%s error arrived with code %d", m, e.Code)
		case m == "coded" && e.Message != "no such thing":
			r.failf("coded error arrived with message %q", e.Message)
		case m != "plain" && !bytes.Equal(e.Data, value("detail")):
			r.failf("%s error arrived with data % x", m, e.Data)
		}
	}
	r.alive(c)
}

func unknownMethod(r *run) {
	_, a := r.connect(&handler{}, nil)
	r.must(a.Notify("nothing", nil), "notify")
	_, err := r.call(a, "nothing", nil)
	if e, ok := errors.AsType[*transport.Error](err); !ok || e.Code != transport.CodeNoMethod || !e.Remote {
		r.failf("got %v", err)
	}
	_, err = r.call(a, "nothing else", nil)
	if !errors.Is(err, transport.ErrNoMethod) {
		r.failf("second call: got %v", err)
	}
}

func slowPeer(r *run) {
	stuck := make(chan struct{})
	ended := make(chan error, 1)
	c, _ := r.connect(&handler{handle: func(transport.Conn, *transport.Request) { <-stuck }},
		&handler{closed: func(_ transport.Conn, err error) { offer(ended, err) }})
	defer close(stuck)
	p := value(make([]byte, min(64<<10, r.MaxMessage/2)))
	result := make(chan error, 1)
	go func() {
		for range (256 << 20) / len(p) {
			if err := c.Notify("more", p); err != nil {
				result <- err
				return
			}
		}
		result <- nil
	}()
	if err := receive(r, "sending to a peer that does not read", result); !errors.Is(err, transport.ErrSlowPeer) {
		r.failf("sending 256 MiB to a peer that does not read: got %v", err)
	}
	if err := receive(r, "Closed", ended); !errors.Is(err, transport.ErrSlowPeer) {
		r.failf("Closed got %v", err)
	}
}

func ownership(r *run) {
	const n = 200
	var kept [][]byte
	done := make(chan struct{})
	answer := value("answer")
	c, _ := r.connect(&handler{handle: func(_ transport.Conn, q *transport.Request) {
		kept = append(kept, q.Params)
		if q.IsCall() {
			mine := bytes.Clone(answer)
			q.Reply(mine, nil)
			clear(mine)
		}
		if len(kept) == 2*n {
			close(done)
		}
	}}, nil)
	p := make([]byte, 0, 64)
	for i := range n {
		p = append(p[:0], value([]int{i, i})...)
		r.must(c.Notify("n", p), "notify")
		clear(p)
		p = append(p[:0], value([]int{i, i + n})...)
		got, err := r.call(c, "c", p)
		clear(p)
		r.must(err, "call")
		if !bytes.Equal(got, answer) {
			r.failf("a result changed to % x", got)
		}
		clear(got)
	}
	r.wait("messages", done)
	for i, b := range kept {
		if want := value([]int{i / 2, i/2 + i%2*n}); !bytes.Equal(b, want) {
			r.failf("params of message %d changed to % x, want % x", i, b, want)
		}
	}
}

func replyElsewhere(r *run) {
	calls := make(chan *transport.Request, 1)
	c, _ := r.connect(&handler{handle: func(_ transport.Conn, q *transport.Request) {
		if q.IsCall() {
			offer(calls, q)
			return
		}
		select {
		case first := <-calls: // its Handle has returned
			go first.Reply(value("later"), nil)
		default:
		}
	}}, nil)
	type answer struct {
		result []byte
		err    error
	}
	answers := make(chan answer, 1)
	c.Go("later", nil, func(result []byte, err error) { answers <- answer{bytes.Clone(result), err} })
	r.must(c.Notify("now", nil), "notify")
	got := receive(r, "answer", answers)
	r.must(got.err, "call")
	if !bytes.Equal(got.result, value("later")) {
		r.failf("got % x", got.result)
	}
}

func replyTwice(r *run) {
	c, _ := r.connect(&handler{handle: func(_ transport.Conn, q *transport.Request) {
		var wg sync.WaitGroup
		q.Reply(q.Params, nil)
		for range 4 {
			wg.Go(func() { q.Reply(value("again"), errors.New("again")) })
		}
		wg.Wait()
	}}, nil)
	for i := range 20 {
		p := value([]int{i})
		got, err := r.call(c, "twice", p)
		r.must(err, "call")
		if !bytes.Equal(got, p) {
			r.failf("call %d: got % x, want % x", i, got, p)
		}
	}
}

func replyToNotification(r *run) {
	isCall := make(chan bool, 2)
	c, _ := r.connect(&handler{handle: func(_ transport.Conn, q *transport.Request) {
		offer(isCall, q.IsCall())
		q.Reply(value("answer"), nil)
	}}, nil)
	r.must(c.Notify("n", nil), "notify")
	if receive(r, "notification", isCall) {
		r.failf("IsCall is true for a notification")
	}
	_, err := r.call(c, "c", nil)
	r.must(err, "call")
	if !receive(r, "call", isCall) {
		r.failf("IsCall is false for a call")
	}
}

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
