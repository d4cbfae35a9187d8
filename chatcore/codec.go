package chatcore

import (
	"bytes"
	"errors"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

var handle = func() *codec.MsgpackHandle {
	h := &codec.MsgpackHandle{}
	h.WriteExt = true
	h.MaxInitLen = 1024
	h.MaxDepth = 16
	return h
}()

func marshal(v any) ([]byte, error) {
	var b []byte
	err := codec.NewEncoderBytes(&b, handle).Encode(v)
	return b, err
}

func unmarshal(data []byte, v any) (err error) {
	r := bytes.NewReader(data)
	if err := codec.NewDecoder(r, handle).Decode(v); err != nil {
		return err
	}
	if r.Len() > 0 {
		return errors.New("trailing bytes")
	}
	return nil
}
