package serve

import (
	"fmt"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/machine"
	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
)

// Limits of a batch of events.
const (
	pushEvents = 1024
	pushBytes  = 256 << 10
	pushPiece  = 48 << 10 // bytes in one message, unless one event is larger: a busy connection reads about that much at once
)

// pusher sends events to listeners.
type pusher struct {
	behind map[*attachment]struct{} // listeners that have not been sent all events before pushed
	pushed uint64                   // all other listeners were sent the events before this one

	events, bytes uint64 // sent so far
}

// reset forgets all listeners.
func (p *pusher) reset() { p.behind = nil }

// remove removes a listener.
func (p *pusher) remove(a *attachment) { delete(p.behind, a) }

// listen makes an attachment a listener for the events from number next on.
func (p *pusher) listen(a *attachment, next uint64) {
	a.listening, a.next = true, next
	put(&p.behind, a, struct{}{})
}

// push sends events to the listeners among all. A batch for many is encoded once. A listener that is behind by more than one
// batch gets the next one when it has confirmed the last. A listener that stops reading is cut off by its connection, and
// resumes later.
func (p *pusher) push(h Host, all *registry) {
	m := h.Machine()
	if !h.Core().Role().Active() || m == nil {
		return
	}
	batch := eventBatch{term: h.Core().Term()}
	defer batch.send()
	end := m.NextEvent()
	if end > p.pushed {
		for a := range all.each {
			if a.listening && !a.busy {
				p.pushTo(h, m, a, end, &batch)
			}
		}
		p.pushed = end
		return
	}
	for a := range p.behind {
		if !a.busy {
			p.pushTo(h, m, a, end, &batch)
		}
	}
}

func (p *pusher) pushTo(h Host, m *machine.Machine, a *attachment, end uint64, b *eventBatch) {
	if a.next >= end {
		delete(p.behind, a)
		return
	}
	if b.messages == nil || b.from != a.next {
		b.send()
		if err := b.encode(h.Config().Service, m, a.next, end); err != nil {
			h.Config().Log.Error("events not sent", "err", err)
			b.messages = nil
			return
		}
	}
	a.next = b.next
	p.events += uint64(b.events)
	p.bytes += uint64(b.bytes)
	if a.next >= end {
		delete(p.behind, a)
		b.conns = append(b.conns, a.conn.Conn)
		return
	}
	a.busy = true
	put(&p.behind, a, struct{}{})
	last := len(b.messages) - 1
	for _, params := range b.messages[:last] {
		a.conn.Notify(wire.MethodEvents, params)
	}
	a.conn.Go(wire.MethodEvents, b.messages[last], func([]byte, error) {
		h.Post(func() { a.busy = false })
	})
}

// eventBatch is the batch encoded last, with the connections that get it.
type eventBatch struct {
	term       core.Term
	from, next uint64
	messages   [][]byte
	events     int
	bytes      int // of messages
	conns      []transport.Conn
}

// encode makes the batch one of the events from number from on.
func (b *eventBatch) encode(service string, m *machine.Machine, from, end uint64) error {
	*b = eventBatch{term: b.term, from: from, next: from}
	for b.next < end && b.events < pushEvents && b.bytes < pushBytes {
		first, times, bodies, next := m.Events(b.next, pushEvents-b.events, min(pushPiece, pushBytes-b.bytes))
		params, err := transport.Marshal(wire.EventsParams{
			Service: service, Loss: b.term.Loss, Epoch: b.term.Epoch, First: first, Times: times, Bodies: bodies,
		})
		if err != nil {
			return fmt.Errorf("from %d on: %w", first, err)
		}
		b.messages = append(b.messages, params)
		b.next = next
		b.events += len(bodies)
		b.bytes += len(params)
	}
	return nil
}

// send sends the batch to its connections.
func (b *eventBatch) send() {
	for _, params := range b.messages {
		notifyAll(b.conns, wire.MethodEvents, params)
	}
	b.conns = nil
}

// notifyAll sends a notification on many connections, and encodes it once if their transport can.
func notifyAll(conns []transport.Conn, method string, params []byte) {
	if len(conns) > 1 {
		if b, ok := conns[0].(transport.Broadcaster); ok {
			b.NotifyAll(conns, method, params)
			return
		}
	}
	for _, c := range conns {
		_ = c.Notify(method, params) // the connection's handler learns of an error
	}
}
