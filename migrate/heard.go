package migrate

import (
	"time"

	"github.com/roam-go/roam/migrate/internal/wire"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// heardEvents is an wire.EventsParams as it has arrived. Its events are taken apart when they are read.
type heardEvents struct {
	service     []byte
	loss, epoch uint64
	first, gap  uint64 // of the first event
	n           int    // how many there are
	bytes       int    // of the message
	times       msgpack.Reader
	bodies      msgpack.Reader
}

// unmarshalEvents reads events, whose bodies then refer to data.
func unmarshalEvents(data []byte) (h heardEvents, err error) {
	v := msgpack.NewReader(data)
	fields := v.Array()
	h.service, h.loss, h.epoch, h.first, h.bytes = v.Bytes(), v.Uint(), v.Uint(), v.Uint(), len(data)
	h.n = v.Array()
	h.times = v
	for range h.n {
		v.Int()
	}
	bodies := v.Array()
	h.bodies = v
	for range bodies {
		v.Bytes()
	}
	if v.Err() == nil && bodies != h.n {
		return h, transport.Errorf(transport.CodeBadMessage, "migrate: %s: %d times, %d bodies", wire.MethodEvents, h.n, bodies)
	}
	return h, wire.Enough(&v, fields, 6)
}

// next takes the first event; there is one.
func (h *heardEvents) next() Event {
	ev := Event{Seq: h.first, Time: time.UnixMilli(h.times.Int()), Epoch: h.epoch, Body: h.bodies.Bytes(), Gap: h.gap}
	h.first, h.gap = h.first+1, 0
	h.n--
	return ev
}
