package client

import (
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// eventBatch is a received wire.EventsParams. It decodes an event when the reader takes it.
type eventBatch struct {
	service []byte
	term    fence
	first   uint64 // number of the next event to take
	gap     uint64 // its Event.Gap
	n       int    // events left
	bytes   int    // size of the message
	times   msgpack.Reader
	bodies  msgpack.Reader
}

// unmarshalEvents decodes a batch, whose bodies then refer to data.
func unmarshalEvents(data []byte) (b eventBatch, err error) {
	v := msgpack.NewReader(data)
	fields := v.Array()
	b.service, b.term.loss, b.term.epoch, b.first, b.bytes = v.Bytes(), v.Uint(), v.Uint(), v.Uint(), len(data)
	b.n = v.Array()
	b.times = v
	for range b.n {
		v.Int()
	}
	bodies := v.Array()
	b.bodies = v
	for range bodies {
		v.Bytes()
	}
	if v.Err() == nil && bodies != b.n {
		return b, transport.Errorf(transport.CodeBadMessage, "migrate: %s: %d times, %d bodies", wire.MethodEvents, b.n, bodies)
	}
	return b, wire.Enough(&v, fields, 6)
}

// next takes the first of the events left; there must be one.
func (b *eventBatch) next() Event {
	ev := Event{Seq: b.first, Time: time.UnixMilli(b.times.Int()), Epoch: b.term.epoch, Body: b.bodies.Bytes(), Gap: b.gap}
	b.first, b.gap = b.first+1, 0
	b.n--
	return ev
}
