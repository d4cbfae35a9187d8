package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// The kinds of message in MessagePack-RPC.
const (
	kindCall   = 0 // [0, id, method, params]
	kindReply  = 1 // [1, id, error, result]
	kindNotify = 2 // [2, method, params]
)

// Limits of the envelope.
const (
	maxMethod    = 255     // bytes of a method's name
	maxErrorText = 4 << 10 // bytes of an error's message that are sent
	maxID        = 1 << 53 // ids are below, so that languages with floating-point numbers only can hold them
	maxEnvelope  = 32 + maxMethod
)

// Methods that the engine itself calls and answers.
const (
	methodHello = "roam.hello"
	methodPing  = "roam.ping"
)

var emptyArray = []byte{0x90}

func appendCall(b []byte, id uint64, method string, params []byte) []byte {
	b = append(b, 0x94, kindCall)
	b = AppendUint(b, id)
	b = AppendString(b, method)
	return append(b, orEmpty(params)...)
}

func appendNotify(b []byte, method string, params []byte) []byte {
	b = append(b, 0x93, kindNotify)
	b = AppendString(b, method)
	return append(b, orEmpty(params)...)
}

func appendReply(b []byte, id uint64, result []byte) []byte {
	b = append(AppendUint(append(b, 0x94, kindReply), id), 0xc0)
	if len(result) == 0 {
		return append(b, 0xc0)
	}
	return append(b, result...)
}

// wideReply is the number of bytes before the result where a reply's id is written at full width.
const wideReply = 12

// putWideReply writes them over the front of b.
func putWideReply(b []byte, id uint64) {
	b[0], b[1], b[2], b[11] = 0x94, kindReply, 0xcf, 0xc0
	binary.BigEndian.PutUint64(b[3:], id)
}

// appendErrorReply writes err as a map of code, message and data, which together have at most so many bytes: the message is cut,
// and data that has no room beside it is left out.
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
	b = AppendUint(b, id)
	b = append(b, 0x82)
	if data != nil {
		b[len(b)-1] = 0x83
	}
	b = AppendString(b, "code")
	b = AppendUint(b, uint64(code))
	b = AppendString(b, "message")
	b = AppendString(b, text)
	if data != nil {
		b = AppendString(b, "data")
		b = appendBinHeader(b, len(data))
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

// A message is the envelope of one frame. It says where the parts are instead of pointing there: to store pointers for each
// message costs much while the garbage collector is at work.
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

// parse takes apart a frame that a scanner found to be one whole value.
func (m *message) parse(frame []byte) error {
	n, b, ok := takeArray(frame)
	if !ok {
		return Errorf(CodeBadMessage, "transport: message is not an array")
	}
	if n < 3 {
		return Errorf(CodeBadMessage, "transport: message is an array of %d values", n)
	}
	kind, b, ok := takeUint(b)
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
		if m.id, b, ok = takeUint(b); !ok || m.id >= maxID {
			return Errorf(CodeBadMessage, "transport: message's id is not a number below 2^53")
		}
	}
	at := func() int { return len(frame) - len(b) }
	if kind == kindReply {
		if len(b) > 0 && b[0] == 0xc0 {
			b = b[1:]
		} else {
			m.fault.from = at()
			_, b, _ = takeValue(b)
			m.fault.to = at()
		}
		if len(b) == 0 || isExt(b[0]) {
			return Errorf(CodeBadMessage, "transport: result is an extension type")
		}
		m.body = part{at(), len(frame)}
		return nil
	}
	method, b, ok := takeString(b)
	if !ok || len(method) > maxMethod {
		return Errorf(CodeBadMessage, "transport: message's method is not a string of at most %d bytes", maxMethod)
	}
	m.method = part{at() - len(method), at()}
	if len(b) == 0 || b[0] == 0xc0 || isExt(b[0]) {
		return Errorf(CodeBadMessage, "transport: params of %.64q are nil or an extension type", method)
	}
	m.body = part{at(), len(frame)}
	return nil
}

// parseError reads the error of a reply. Other implementations answer with values of any shape, often a string, or an array
// that holds one.
func parseError(b []byte) *Error {
	e := &Error{Code: CodeUnknown, Remote: true}
	if s, _, ok := takeString(b); ok {
		e.Message = clip(s)
		return e
	}
	if n, rest, ok := takeArray(b); ok {
		for range n {
			var val []byte
			if val, rest, ok = takeValue(rest); !ok {
				break
			}
			if s, _, ok := takeString(val); ok {
				e.Message = clip(s)
				return e
			}
		}
	}
	if n, rest, ok := takeMap(b); ok {
		for range n {
			var key, val []byte
			if key, rest, ok = takeValue(rest); !ok {
				break
			}
			if val, rest, ok = takeValue(rest); !ok {
				break
			}
			name, _, _ := takeString(key)
			switch string(name) {
			case "code":
				if c, _, ok := takeUint(val); ok && c > 0 && c < 1<<32 {
					e.Code = Code(c)
				}
			case "message":
				if s, _, ok := takeString(val); ok {
					e.Message = clip(s)
				}
			case "data":
				if d, _, ok := takeBin(val); ok && len(d) > 0 {
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

// The take functions read one value of a type from the front of b, and return what follows it.

func takeUint(b []byte) (uint64, []byte, bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	switch c := b[0]; {
	case c <= 0x7f:
		return uint64(c), b[1:], true
	case (c == 0xcc || c == 0xd0) && len(b) >= 2:
		return uint64(b[1]), b[2:], c == 0xcc || b[1] < 0x80
	case (c == 0xcd || c == 0xd1) && len(b) >= 3:
		return uint64(binary.BigEndian.Uint16(b[1:])), b[3:], c == 0xcd || b[1] < 0x80
	case (c == 0xce || c == 0xd2) && len(b) >= 5:
		return uint64(binary.BigEndian.Uint32(b[1:])), b[5:], c == 0xce || b[1] < 0x80
	case (c == 0xcf || c == 0xd3) && len(b) >= 9:
		return binary.BigEndian.Uint64(b[1:]), b[9:], c == 0xcf || b[1] < 0x80
	}
	return 0, b, false
}

func takeString(b []byte) ([]byte, []byte, bool) {
	if len(b) > 0 && b[0] >= 0xa0 && b[0] <= 0xbf {
		return takeN(b, 1, uint64(b[0]&0x1f))
	}
	return takeSized(b, 0xd9)
}

func takeBin(b []byte) ([]byte, []byte, bool) { return takeSized(b, 0xc4) }

// takeSized reads a str or bin whose 8-bit form begins with base, and its 16- and 32-bit forms with the two bytes after.
func takeSized(b []byte, base byte) ([]byte, []byte, bool) {
	switch {
	case len(b) >= 2 && b[0] == base:
		return takeN(b, 2, uint64(b[1]))
	case len(b) >= 3 && b[0] == base+1:
		return takeN(b, 3, uint64(binary.BigEndian.Uint16(b[1:])))
	case len(b) >= 5 && b[0] == base+2:
		return takeN(b, 5, uint64(binary.BigEndian.Uint32(b[1:])))
	}
	return nil, b, false
}

func takeN(b []byte, header int, n uint64) ([]byte, []byte, bool) {
	if n > uint64(len(b)-header) {
		return nil, b, false
	}
	end := header + int(n)
	return b[header:end:end], b[end:], true
}

// takeValue takes one value of any type.
func takeValue(b []byte) ([]byte, []byte, bool) {
	var s scanner
	s.reset(len(b), maxDepth)
	if done, err := s.scan(b); err != nil || !done {
		return nil, b, false
	}
	return b[:s.pos], b[s.pos:], true
}

func takeArray(b []byte) (uint64, []byte, bool) {
	if len(b) > 0 && b[0]&0xf0 == 0x90 {
		return uint64(b[0] & 0x0f), b[1:], true
	}
	return takeCount(b, 0xdc)
}

func takeMap(b []byte) (uint64, []byte, bool) {
	if len(b) > 0 && b[0]&0xf0 == 0x80 {
		return uint64(b[0] & 0x0f), b[1:], true
	}
	return takeCount(b, 0xde)
}

func takeCount(b []byte, base byte) (uint64, []byte, bool) {
	switch {
	case len(b) >= 3 && b[0] == base:
		return uint64(binary.BigEndian.Uint16(b[1:])), b[3:], true
	case len(b) >= 5 && b[0] == base+1:
		return uint64(binary.BigEndian.Uint32(b[1:])), b[5:], true
	}
	return 0, b, false
}
