package transport

import (
	"fmt"
	"reflect"
	"sync"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// maxElements bounds the values, nested ones included, that Unmarshal decodes.
const maxElements = 65_536

// smallElements is the same for UnmarshalSmall.
const smallElements = 256

// The handle is configured once and then only read, as the codec asks for.
var handle = func() *codec.MsgpackHandle {
	h := &codec.MsgpackHandle{WriteExt: true, PositiveIntUnsigned: true}
	h.MaxDepth = maxDepth
	h.MaxInitLen = 1024
	h.MapType = reflect.TypeFor[map[string]any]()
	h.RawToString = false
	return h
}()

// Encoders and decoders are costly to make and cheap to use again.
var encoders = sync.Pool{New: func() any {
	e := &encoder{buf: make([]byte, 0, 512)}
	e.enc = codec.NewEncoderBytes(&e.buf, handle)
	return e
}}

var decoders = sync.Pool{New: func() any { return codec.NewDecoderBytes(nil, handle) }}

type encoder struct {
	buf []byte
	enc *codec.Encoder
}

// Marshal encodes v as one MessagePack value for use as params or result. Structs are encoded as maps, or, with a field
// `_struct struct{} codec:",toarray"`, as arrays, which is smaller and faster and what this library's own messages are. The
// tags are those of github.com/hashicorp/go-msgpack. []byte becomes bin, a nil slice nil. Send times as int64 and errors as
// text: their own encodings are not the same in other languages.
func Marshal(v any) (data []byte, err error) {
	e := encoders.Get().(*encoder)
	defer func() {
		if p := recover(); p != nil {
			// The encoder may be broken; it is not put back.
			err = fmt.Errorf("transport: marshal %T: %v", v, p)
		}
	}()
	e.buf = e.buf[:0]
	e.enc.ResetBytes(&e.buf)
	if err := e.enc.Encode(v); err != nil {
		return nil, fmt.Errorf("transport: marshal %T: %w", v, err)
	}
	data = make([]byte, len(e.buf))
	copy(data, e.buf)
	if cap(e.buf) <= 64<<10 {
		encoders.Put(e)
	}
	return data, nil
}

// Unmarshal decodes one MessagePack value, as it came from a peer, into what v points to: best a fresh value, because fields
// that data does not mention stay as they are. Nothing in v refers to data afterwards.
//
// Data that is not exactly one value, is nil at its top, holds extension types, nests deeper than 16, has more than 65,536
// values in all or declares more than there are bytes is refused with [ErrBadMessage] before anything is decoded. A slice of
// large structs can still cost hundreds of times the bytes received: use [UnmarshalSmall], check a count before the bodies, or
// keep them as []byte.
func Unmarshal(data []byte, v any) error { return unmarshal(data, v, maxElements) }

// UnmarshalSmall is Unmarshal for what has few values: it refuses data with more than 256, nested ones included. So what it
// allocates is bounded by the bytes received and a little more, whatever v holds slices of.
func UnmarshalSmall(data []byte, v any) error { return unmarshal(data, v, smallElements) }

func unmarshal(data []byte, v any, most int) (err error) {
	if err := checkBody(data, most); err != nil {
		return err
	}
	d := decoders.Get().(*codec.Decoder)
	defer func() {
		if p := recover(); p != nil {
			err = Errorf(CodeBadMessage, "transport: unmarshal into %T: %v", v, p)
		}
	}()
	d.ResetBytes(data)
	if err := d.Decode(v); err != nil {
		// A decoder repeats its first error for ever: it is not put back.
		return Errorf(CodeBadMessage, "transport: unmarshal into %T: %v", v, err)
	}
	d.ResetBytes(nil)
	decoders.Put(d)
	return nil
}

func checkBody(data []byte, most int) error {
	var s scanner
	if err := s.check(data); err != nil {
		return err
	}
	switch {
	case data[0] == 0xc0:
		return Errorf(CodeBadMessage, "transport: nil where a MessagePack value is wanted")
	case s.ext:
		return Errorf(CodeBadMessage, "transport: extension type in a MessagePack value")
	case s.elems > most:
		return Errorf(CodeBadMessage, "transport: MessagePack value of more than %d values", most)
	}
	return nil
}
