package mp

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// Limits on the number of values, nested ones included, that Unmarshal decodes.
const (
	MaxElements   = 65_536
	SmallElements = 256
)

// The handle is configured once and then only read, as the codec requires.
var handle = func() *codec.MsgpackHandle {
	h := &codec.MsgpackHandle{WriteExt: true, PositiveIntUnsigned: true}
	h.MaxDepth = MaxDepth
	h.MaxInitLen = 1024
	h.MapType = reflect.TypeFor[map[string]any]()
	h.RawToString = false
	return h
}()

// Encoders and decoders are expensive to create and cheap to reuse.
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

// Marshal encodes v as one MessagePack value.
func Marshal(v any) (data []byte, err error) {
	e := encoders.Get().(*encoder)
	defer func() {
		if p := recover(); p != nil {
			// The encoder may be broken, so it does not return to the pool.
			err = fmt.Errorf("marshal %T: %v", v, p)
		}
	}()
	e.buf = e.buf[:0]
	e.enc.ResetBytes(&e.buf)
	if err := e.enc.Encode(v); err != nil {
		return nil, fmt.Errorf("marshal %T: %w", v, err)
	}
	data = make([]byte, len(e.buf))
	copy(data, e.buf)
	if cap(e.buf) <= 64<<10 {
		encoders.Put(e)
	}
	return data, nil
}

// Unmarshal decodes data, one value with at most limit values in it, into v.
func Unmarshal(data []byte, v any, limit int) (err error) {
	if err := checkBody(data, limit); err != nil {
		return err
	}
	d := decoders.Get().(*codec.Decoder)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("unmarshal into %T: %v", v, p)
		}
	}()
	d.ResetBytes(data)
	if err := d.Decode(v); err != nil {
		// A decoder repeats its first error forever, so it does not return to the pool.
		return fmt.Errorf("unmarshal into %T: %w", v, err)
	}
	d.ResetBytes(nil)
	decoders.Put(d)
	return nil
}

func checkBody(data []byte, limit int) error {
	var s Scanner
	if err := s.Check(data); err != nil {
		return err
	}
	switch {
	case data[0] == 0xc0:
		return errors.New("nil instead of a MessagePack value")
	case s.Ext:
		return errors.New("extension type in a MessagePack value")
	case s.Elems > limit:
		return fmt.Errorf("MessagePack value of more than %d values", limit)
	}
	return nil
}
