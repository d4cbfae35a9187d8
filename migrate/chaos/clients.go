//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/migrate"
)

const (
	// window bounds the commands in progress of one client.
	window = 256
	// reportEvery is the interval of reports to the parent.
	reportEvery = 20 * time.Millisecond
	queryEvery  = 25 * time.Millisecond
)

// clientsRole is a process with clients: writers, which also listen to events and half of which send queries; one that sends
// only queries, and so would not notice that its host is no longer active if that host answered; and idle ones.
type clientsRole struct {
	*child
	writers []*writer
	asker   *migrate.Client
	idle    []*migrate.Client
	dialled []*detour     // of each client
	rate    atomic.Uint64 // float64 bits: commands a second of each writer
	stop    context.CancelFunc
	ctx     context.Context
	wg      sync.WaitGroup

	mu      sync.Mutex // guards what follows
	acks    []ack
	moves   []moved
	batches []eventBatch
}

// writer is a client that writes.
type writer struct {
	r    *clientsRole
	id   uint32
	c    *migrate.Client
	sent atomic.Uint32
	last Place       // of the newest event
	seen *eventBatch // not reported yet; guarded by r.mu
}

type pending struct {
	call    *migrate.Call
	seq     uint32
	invoked int64
}

func (r *clientsRole) start(ctx context.Context) (string, error) {
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.setRate(r.Rate)
	var (
		wg    sync.WaitGroup
		slots = make(chan struct{}, 64)
		mu    sync.Mutex
		errs  []error
	)
	dial := func(n uint32, use func(*migrate.Client)) {
		slots <- struct{}{}
		tr := r.transport()
		r.dialled = append(r.dialled, tr)
		wg.Go(func() {
			c, err := migrate.Dial(ctx, r.Service, migrate.ClientConfig{
				Resolver: r.res, Transport: tr, Logger: r.log, OnMove: func(m migrate.Move) { r.moved(n, m) },
			})
			<-slots
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("client %d: %w", n, err))
				return
			}
			use(c)
		})
	}
	n := r.First
	for range r.Writers {
		w := &writer{r: r, id: n}
		dial(n, func(c *migrate.Client) { w.c = c; r.writers = append(r.writers, w) })
		n++
	}
	asker := n
	dial(n, func(c *migrate.Client) { r.asker = c })
	n++
	for range r.Idle {
		dial(n, func(c *migrate.Client) { r.idle = append(r.idle, c) })
		n++
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	for _, w := range r.writers {
		under := make(chan pending, window)
		r.wg.Go(func() { w.write(under) })
		r.wg.Go(func() { w.collect(under) })
		r.wg.Go(w.listen)
		if w.id%2 == 0 { // answers could hide from a client that its commands get none
			r.wg.Go(func() { r.ask(w.id, w.c) })
		}
	}
	r.wg.Go(func() { r.ask(asker, r.asker) })
	r.wg.Go(r.tell)
	return "", nil
}

func (r *clientsRole) setRate(rate float64) {
	if r.Writers > 0 {
		rate /= float64(r.Writers)
	}
	r.rate.Store(math.Float64bits(rate))
}

func (r *clientsRole) moved(client uint32, m migrate.Move) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moves = append(r.moves, moved{
		Client: client, At: time.Now().UnixNano(), Epoch: m.Epoch, Host: m.Host.ID, Planned: m.Planned, Pause: m.Pause,
		Resent: m.Resent,
	})
}

// tell reports the observations to the parent.
func (r *clientsRole) tell() {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			r.flush()
			return
		case <-tick.C:
			r.flush()
		}
	}
}

func (r *clientsRole) flush() {
	r.mu.Lock()
	for _, w := range r.writers {
		if w.seen != nil {
			r.batches = append(r.batches, *w.seen)
			w.seen = nil
		}
	}
	rep := report{Acks: r.acks, Moves: r.moves, Events: r.batches}
	r.acks, r.moves, r.batches = nil, nil, nil
	r.mu.Unlock()
	if len(rep.Acks)+len(rep.Moves)+len(rep.Events) > 0 {
		r.out.send(rep)
	}
}

func (r *clientsRole) seen(a ack) {
	r.mu.Lock()
	r.acks = append(r.acks, a)
	r.mu.Unlock()
}

func (r *clientsRole) wrong(format string, args ...any) {
	if r.ctx.Err() == nil {
		r.out.send(report{Wrong: fmt.Sprintf(format, args...)})
	}
}

// write sends commands at the wanted rate. It does not make up for the time that the service was away, beyond the window.
func (w *writer) write(under chan<- pending) {
	defer close(under)
	next := time.Now().Add(rand.N(10 * time.Millisecond))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		rate := math.Float64frombits(w.r.rate.Load())
		wait := 10 * time.Millisecond
		if rate > 0 {
			wait = time.Until(next)
		}
		if wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-w.r.ctx.Done():
				return
			}
		}
		if rate = math.Float64frombits(w.r.rate.Load()); rate <= 0 { // it may have changed during the wait
			next = time.Now()
			continue
		}
		next = next.Add(time.Duration(float64(time.Second) / rate))
		if behind := time.Since(next); behind > 50*time.Millisecond {
			next = time.Now()
		}
		c := Ident{w.id, w.sent.Add(1)}
		p := pending{seq: c.Seq, invoked: time.Now().UnixNano()}
		var err error
		if p.call, err = w.c.Go(c.body()); err != nil {
			w.r.wrong("client %d: command %d was refused: %v", w.id, c.Seq, err)
			return
		}
		select {
		case under <- p:
		case <-w.r.ctx.Done():
			return
		}
	}
}

// collect receives the replies in order.
func (w *writer) collect(under <-chan pending) {
	for p := range under {
		reply, err := p.call.Reply(w.r.ctx)
		done := time.Now().UnixNano()
		var a answer
		if err == nil {
			err = a.unmarshal(reply)
		}
		if err != nil {
			w.r.wrong("client %d: command %d failed: %v", w.id, p.seq, err)
			if w.c.Err() != nil {
				return
			}
			continue
		}
		w.r.seen(ack{Ident{w.id, p.seq}, a.Place, uint32(a.Epoch), p.invoked, done})
	}
}

// ask sends queries.
func (r *clientsRole) ask(n uint32, c *migrate.Client) {
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-time.After(queryEvery + rand.N(queryEvery)):
		}
		if math.Float64frombits(r.rate.Load()) <= 0 {
			continue
		}
		invoked := time.Now().UnixNano()
		reply, err := c.Query(r.ctx, nil)
		done := time.Now().UnixNano()
		var a answer
		if err == nil {
			err = a.unmarshal(reply)
		}
		if err != nil {
			r.wrong("client %d: a query failed: %v", n, err)
			return
		}
		r.seen(ack{Ident: Ident{Client: n}, Place: a.Place, Invoked: invoked, Done: done})
	}
}

// listen checks that events have no unreported gap and that each links to the one before.
func (w *writer) listen() {
	for ev, err := range w.c.Events(w.r.ctx, 1) {
		if err != nil {
			w.r.wrong("client %d: the events ended: %v", w.id, err)
			return
		}
		var e event
		if err := e.unmarshal(ev.Body); err != nil {
			w.r.wrong("client %d: event %d: %v", w.id, ev.Seq, err)
			return
		}
		switch {
		case ev.Seq == w.last.Pos+1:
			if want := w.last.next(e.Ident); want.Link != e.Link {
				w.r.wrong("client %d: event %d (command %d of client %d) has link %x, but after %x comes %x",
					w.id, ev.Seq, e.Seq, e.Client, e.Link, w.last.Link, want.Link)
			}
		case ev.Gap != w.last.Pos+1 || ev.Seq <= w.last.Pos:
			w.r.wrong("client %d: event %d came after %d, with a gap from %d told", w.id, ev.Seq, w.last.Pos, ev.Gap)
		}
		w.last = Place{ev.Seq, e.Link}
		w.saw(ev.Seq, ev.Gap, e)
	}
}

// saw records an event for the parent: all of the process's first client, and now and then the latest of the others, whose
// link stands for the earlier ones.
func (w *writer) saw(seq, gap uint64, e event) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	if w.id != w.r.First {
		if w.seen == nil {
			w.seen = &eventBatch{Observer: w.id}
		}
		w.seen.First, w.seen.Events = seq, append(w.seen.Events[:0], e)
		if gap != 0 {
			w.seen.Gap = gap
		}
		return
	}
	if w.seen == nil || gap != 0 {
		if w.seen != nil {
			w.r.batches = append(w.r.batches, *w.seen)
		}
		w.seen = &eventBatch{Observer: w.id, First: seq, Gap: gap}
	}
	w.seen.Events = append(w.seen.Events, e)
}

func (r *clientsRole) order(o *order, rep *report) error {
	switch o.Op {
	case "rate":
		r.setRate(o.Rate)
		return nil
	case "settle":
		return r.settle(o.Timeout, rep)
	case "tries":
		rep.Herd = &herdReport{Tries: make(map[int]int)}
		for _, d := range r.dialled {
			rep.Herd.Tries[int(d.dials.Swap(0))]++
		}
		return nil
	case "herd":
		rep.Herd = &herdReport{Clients: len(r.idle) + len(r.writers) + 1}
		count := func(c *migrate.Client) {
			if c.Err() != nil {
				rep.Herd.Ended++
			} else if c.Where().ID == o.Target {
				rep.Herd.Attached++
			}
		}
		for _, w := range r.writers {
			count(w.c)
		}
		for _, c := range append(slices.Clone(r.idle), r.asker) {
			count(c)
		}
		return nil
	}
	return fmt.Errorf("clients do not handle the order %q", o.Op)
}

// settle returns when no command is in progress. The rate is 0, but a writer may be about to send one.
func (r *clientsRole) settle(timeout time.Duration, rep *report) error {
	ctx, cancel := context.WithTimeout(r.ctx, timeout)
	defer cancel()
	for {
		time.Sleep(2 * reportEvery) // also for collect
		done := make(map[uint32]uint32)
		for _, w := range r.writers {
			if err := w.c.Flush(ctx); err != nil {
				return fmt.Errorf("client %d: %w", w.id, err)
			}
			done[w.id] = w.sent.Load()
		}
		r.flush()
		if maps.Equal(done, rep.Done) {
			return nil
		}
		rep.Done = done
	}
}

func (r *clientsRole) close() {
	r.stop()
	for _, w := range r.writers {
		w.c.Close()
	}
	for _, c := range append(slices.Clone(r.idle), r.asker) {
		c.Close()
	}
	r.wg.Wait()
}
