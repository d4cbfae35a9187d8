package wire

import (
	"encoding/binary"

	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// The messages of every command are encoded and decoded by hand, in a tenth of the codec's time. The bytes are the same.

func AppendDoResult(b []byte, r *DoResult) []byte {
	b = msgpack.AppendArray(b, 4)
	b = msgpack.AppendUint(b, r.Index)
	b = msgpack.AppendUint(b, r.Epoch)
	b = msgpack.AppendUint(b, uint64(r.Replicas))
	if r.Reply == nil {
		return append(b, 0xc0)
	}
	return msgpack.AppendBytes(b, r.Reply)
}

// UnmarshalDoResult reads a result, whose Reply then refers to data.
func UnmarshalDoResult(data []byte) (r DoResult, err error) {
	v := msgpack.NewReader(data)
	n := v.Array()
	r.Index, r.Epoch, r.Replicas, r.Reply = v.Uint(), v.Uint(), uint32(v.Uint()), v.Bytes()
	return r, Enough(&v, n, 4)
}

// Unmarshal reads a command, whose Body then refers to data. A Service equal to name is not copied.
func (p *DoParams) Unmarshal(data []byte, name string) error {
	v := msgpack.NewReader(data)
	n := v.Array()
	p.Service = name
	if s := v.Bytes(); string(s) != name {
		p.Service = string(s)
	}
	p.Session, p.Seq, p.Low, p.Body = v.Uint(), v.Uint(), v.Uint(), v.Bytes()
	return Enough(&v, n, 5)
}

// Enough returns the error of v, or an error if the array that v has read has n values, fewer than want.
func Enough(v *msgpack.Reader, n, want int) error {
	if err := v.Err(); err != nil {
		return err
	}
	if n < want {
		return transport.Errorf(transport.CodeBadMessage, "migrate: an array of %d values where %d are wanted", n, want)
	}
	return nil
}

// AppendMsgParams appends the params of a message between hosts.
func AppendMsgParams(b []byte, service string, m core.Msg) ([]byte, error) {
	b = msgpack.AppendString(msgpack.AppendArray(b, 2), service)
	b = append(b, 0xc6, 0, 0, 0, 0)
	start := len(b)
	b, err := core.AppendMsg(b, m)
	if err == nil {
		binary.BigEndian.PutUint32(b[start-4:], uint32(len(b)-start))
	}
	return b, err
}

// UnmarshalMsgParams reads the params of a message between hosts; both refer to data.
func UnmarshalMsgParams(data []byte) (service, msg []byte, err error) {
	v := msgpack.NewReader(data)
	n := v.Array()
	service, msg = v.Bytes(), v.Bytes()
	return service, msg, Enough(&v, n, 2)
}
