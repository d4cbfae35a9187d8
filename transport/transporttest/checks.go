package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/roam-go/roam/transport"
)

var checks = []check{
	{"Order", "messages arrive whole, once each and in the order of the calls that sent them", order},
	{"BothDirections", "calls and notifications work in both directions of one connection", bothDirections},
	{"ConcurrentCalls", "each of many concurrent calls gets its own reply", concurrentCalls},
	{"AnyOrder", "a call can be answered before an earlier one", anyOrder},
	{"Params", "nil params arrive as the empty array, a nil result as nil", params},
	{"BadParams", "params that are not one MessagePack value fail on this side with ErrBadMessage, and the connection stays " +
		"open", badParams},
	{"SizeLimit", "a message that is too large fails with ErrBadMessage, and the connection stays open; a smaller one arrives",
		sizeLimit},
	{"Cancel", "cancelling one call returns the context's error, drops the late reply, and leaves the connection alive",
		cancelCall},
	{"Errors", "an error arrives with its code, message and data and with Remote set", remoteErrors},
	{"UnknownMethod", "without a handler a call is answered with ErrNoMethod and a notification is ignored", unknownMethod},
	{"SlowPeer", "no sender waits for a peer that does not read: the connection ends with ErrSlowPeer", slowPeer},
	{"Ownership", "the caller may reuse passed bytes after the method returns; received bytes belong to the receiver",
		ownership},
	{"ReplyElsewhere", "a call can be answered from another goroutine, after Handle has returned", replyElsewhere},
	{"ReplyTwice", "a further reply to the same call is dropped", replyTwice},
	{"ReplyToNotification", "a reply to a notification does nothing", replyToNotification},
	{"CloseManyTimes", "Close is safe to call several times and from several goroutines", closeManyTimes},
	{"CloseDelivers", "messages sent before Close arrive", closeDelivers},
	{"CloseInHandler", "Close may be called from the handler", closeInHandler},
	{"PendingCalls", "calls that are pending when the connection ends get an error, each once", pendingCalls},
	{"AfterClose", "after Close every method fails with ErrClosed and none blocks", afterClose},
	{"Closed", "Closed is called once, after the last Handle, with ErrClosed if this side closed and io.EOF if the peer did",
		closedOnce},
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
