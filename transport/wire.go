package transport

import (
	"errors"
	"fmt"
	"strings"

	"github.com/roam-go/roam/transport/internal/mp"
)

// The kinds of messages in MessagePack-RPC.
const (
	kindCall   = 0 // [0, id, method, params]
	kindReply  = 1 // [1, id, error, result]
	kindNotify = 2 // [2, method, params]
)

// Limits of the envelope.
const (
	maxMethod    = 255     // bytes of a method's name
	maxErrorText = 4 << 10 // bytes of an error's message
	maxID        = 1 << 53 // ids are below, so that languages with only floating-point numbers can represent them
	maxEnvelope  = 32 + maxMethod
)

// Methods that the engine itself uses.
const (
	methodHello = "roam.hello"
	methodPing  = "roam.ping"
)

var emptyArray = []byte{0x90}

func appendCall(b []byte, id uint64, method string, params []byte) []byte {
	b = append(b, 0x94, kindCall)
	b = mp.AppendUint(b, id)
	b = mp.AppendString(b, method)
	return append(b, orEmpty(params)...)
}

func appendNotify(b []byte, method string, params []byte) []byte {
	b = append(b, 0x93, kindNotify)
	b = mp.AppendString(b, method)
	return append(b, orEmpty(params)...)
}

func appendReply(b []byte, id uint64, result []byte) []byte {
	b = append(mp.AppendUint(append(b, 0x94, kindReply), id), 0xc0)
	if len(result) == 0 {
		return append(b, 0xc0)
	}
	return append(b, result...)
}

// appendErrorReply appends err as a map of code, message and data, with at most most bytes of message and data together: it
// truncates the message, and omits data that does not fit.
func appendErrorReply(b []byte, id uint64, err error, most int) []byte {
	code, text, data := CodeUnknown, err.Error(), []byte(nil)
	if e, ok := errors.AsType[*Error](err); ok {
		code, data = e.Code, e.Data
	}
	text = strings.ToValidUTF8(text[:min(len(text), maxErrorText, most)], "")
	if len(data) > most-len(text) {
		data = nil
	}
	b = append(b, 0x94, kindReply)
	b = mp.AppendUint(b, id)
	b = append(b, 0x82)
	if data != nil {
		b[len(b)-1] = 0x83
	}
	b = mp.AppendString(b, "code")
	b = mp.AppendUint(b, uint64(code))
	b = mp.AppendString(b, "message")
	b = mp.AppendString(b, text)
	if data != nil {
		b = mp.AppendString(b, "data")
		b = mp.AppendBinHeader(b, len(data))
		b = append(b, data...)
	}
	return append(b, 0xc0)
}

func orEmpty(params []byte) []byte {
	if len(params) == 0 {
		return emptyArray
	}
	return params
}

// message is the envelope of one frame. It holds offsets instead of slices: storing pointers for each message is expensive
// while the garbage collector runs.
type message struct {
	kind   uint8
	id     uint64
	method part
	fault  part // the error of a reply, empty if none
	body   part // params or result
}

type part struct{ from, to int }

func (p part) of(frame []byte) []byte { return frame[p.from:p.to:p.to] }

// failed reports whether a reply has an error.
func (m *message) failed() bool { return m.fault != part{} }

// parse parses a frame, which a Scanner has checked to be one value.
func (m *message) parse(frame []byte) error {
	n, b, ok := mp.TakeArray(frame)
	if !ok {
		return Errorf(CodeBadMessage, "transport: message is not an array")
	}
	if n < 3 {
		return Errorf(CodeBadMessage, "transport: message is an array of %d values", n)
	}
	kind, b, ok := mp.TakeUint(b)
	if !ok {
		return Errorf(CodeBadMessage, "transport: message's type is not a number")
	}
	want := uint64(4)
	if kind == kindNotify {
		want = 3
	}
	switch {
	case kind > kindNotify:
		return Errorf(CodeBadMessage, "transport: message of unknown type %d", kind)
	case n != want:
		return Errorf(CodeBadMessage, "transport: message of type %d is an array of %d values", kind, n)
	}
	*m = message{kind: uint8(kind)}
	if kind != kindNotify {
		if m.id, b, ok = mp.TakeUint(b); !ok || m.id >= maxID {
			return Errorf(CodeBadMessage, "transport: message's id is not a number below 2^53")
		}
	}
	at := func() int { return len(frame) - len(b) }
	if kind == kindReply {
		if len(b) > 0 && b[0] == 0xc0 {
			b = b[1:]
		} else {
			m.fault.from = at()
			_, b, _ = mp.TakeValue(b)
			m.fault.to = at()
		}
		if len(b) == 0 || mp.IsExt(b[0]) {
			return Errorf(CodeBadMessage, "transport: result is an extension type")
		}
		m.body = part{at(), len(frame)}
		return nil
	}
	method, b, ok := mp.TakeString(b)
	if !ok || len(method) > maxMethod {
		return Errorf(CodeBadMessage, "transport: message's method is not a string of at most %d bytes", maxMethod)
	}
	m.method = part{at() - len(method), at()}
	if len(b) == 0 || b[0] == 0xc0 || mp.IsExt(b[0]) {
		return Errorf(CodeBadMessage, "transport: params of %.64q are nil or an extension type", method)
	}
	m.body = part{at(), len(frame)}
	return nil
}

// parseError parses the error of a reply. Other implementations send values of any shape, often a string or an array that
// contains one.
func parseError(b []byte) *Error {
	e := &Error{Code: CodeUnknown, Remote: true}
	if s, _, ok := mp.TakeString(b); ok {
		e.Message = clip(s)
		return e
	}
	if n, rest, ok := mp.TakeArray(b); ok {
		for range n {
			var val []byte
			if val, rest, ok = mp.TakeValue(rest); !ok {
				break
			}
			if s, _, ok := mp.TakeString(val); ok {
				e.Message = clip(s)
				return e
			}
		}
	}
	if n, rest, ok := mp.TakeMap(b); ok {
		for range n {
			var key, val []byte
			if key, rest, ok = mp.TakeValue(rest); !ok {
				break
			}
			if val, rest, ok = mp.TakeValue(rest); !ok {
				break
			}
			name, _, _ := mp.TakeString(key)
			switch string(name) {
			case "code":
				if c, _, ok := mp.TakeUint(val); ok && c > 0 && c < 1<<32 {
					e.Code = Code(c)
				}
			case "message":
				if s, _, ok := mp.TakeString(val); ok {
					e.Message = clip(s)
				}
			case "data":
				if d, _, ok := mp.TakeBin(val); ok && len(d) > 0 {
					e.Data = append([]byte(nil), d...)
				}
			}
		}
	}
	if e.Message == "" {
		e.Message = fmt.Sprintf("peer answered error %d without a text", e.Code)
	}
	return e
}

func clip(b []byte) string { return strings.ToValidUTF8(string(b[:min(len(b), maxErrorText)]), "") }
