package migrate

import (
	"encoding/binary"
	"time"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/transport"
)

// What every command consists of is put together and taken apart by hand, which takes a tenth of the codec's time. The
// bytes are the same.

func appendDoResult(b []byte, r *doResult) []byte {
	b = transport.AppendArray(b, 4)
	b = transport.AppendUint(b, r.Index)
	b = transport.AppendUint(b, r.Epoch)
	b = transport.AppendUint(b, uint64(r.Replicas))
	if r.Reply == nil {
		return append(b, 0xc0)
	}
	return transport.AppendBytes(b, r.Reply)
}

// unmarshalDoResult reads a result, whose Reply then refers to data.
func unmarshalDoResult(data []byte) (r doResult, err error) {
	v := transport.ReadValues(data)
	n := v.Array()
	r.Index, r.Epoch, r.Replicas, r.Reply = v.Uint(), v.Uint(), uint32(v.Uint()), v.Bytes()
	return r, enough(&v, n, 4)
}

// unmarshal reads a command, whose Body then refers to data. A Service that is called name is not copied.
func (p *doParams) unmarshal(data []byte, name string) error {
	v := transport.ReadValues(data)
	n := v.Array()
	p.Service = name
	if s := v.Bytes(); string(s) != name {
		p.Service = string(s)
	}
	p.Session, p.Seq, p.Low, p.Body = v.Uint(), v.Uint(), v.Uint(), v.Bytes()
	return enough(&v, n, 5)
}

// enough is the error of what was read as the beginning of an array of n values, of which at least want must be there.
func enough(v *transport.Values, n, want int) error {
	if err := v.Err(); err != nil {
		return err
	}
	if n < want {
		return transport.Errorf(transport.CodeBadMessage, "migrate: an array of %d values where %d are wanted", n, want)
	}
	return nil
}

// heardEvents is an eventsParams as it has arrived. Its events are taken apart when they are read.
type heardEvents struct {
	service     []byte
	loss, epoch uint64
	first, gap  uint64 // of the first event
	n           int    // how many there are
	bytes       int    // of the message
	times       transport.Values
	bodies      transport.Values
}

// unmarshalEvents reads events, whose bodies then refer to data.
func unmarshalEvents(data []byte) (h heardEvents, err error) {
	v := transport.ReadValues(data)
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
		return h, transport.Errorf(transport.CodeBadMessage, "migrate: %s: %d times, %d bodies", methodEvents, h.n, bodies)
	}
	return h, enough(&v, fields, 6)
}

// next takes the first event; there is one.
func (h *heardEvents) next() Event {
	ev := Event{Seq: h.first, Time: time.UnixMilli(h.times.Int()), Epoch: h.epoch, Body: h.bodies.Bytes(), Gap: h.gap}
	h.first, h.gap = h.first+1, 0
	h.n--
	return ev
}

// appendMsgParams appends the params of a message between hosts.
func appendMsgParams(b []byte, service string, m core.Msg) ([]byte, error) {
	b = transport.AppendString(transport.AppendArray(b, 2), service)
	b = append(b, 0xc6, 0, 0, 0, 0)
	start := len(b)
	b, err := core.AppendMsg(b, m)
	if err == nil {
		binary.BigEndian.PutUint32(b[start-4:], uint32(len(b)-start))
	}
	return b, err
}

// unmarshalMsgParams reads the params of a message between hosts; both refer to data.
func unmarshalMsgParams(data []byte) (service, msg []byte, err error) {
	v := transport.ReadValues(data)
	n := v.Array()
	service, msg = v.Bytes(), v.Bytes()
	return service, msg, enough(&v, n, 2)
}
