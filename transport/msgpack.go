package transport

import (
	"fmt"

	"github.com/roam-go/roam/transport/internal/mp"
)

// Marshal encodes v as one MessagePack value, for use as params or result. A struct becomes a map, or an array if it has a
// field `_struct struct{} codec:",toarray"`; arrays are smaller and faster, and the messages of this module are arrays. The
// tags are those of github.com/hashicorp/go-msgpack. A []byte becomes bin, a nil slice nil. Send times as int64 and errors
// as text: their default encodings are not portable to other languages.
//
// Package msgpack encodes and decodes by hand, for messages on a hot path.
func Marshal(v any) ([]byte, error) {
	data, err := mp.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	return data, nil
}

// Unmarshal decodes one MessagePack value, which may come from an untrusted peer, into the value that v points to. Pass a
// fresh value: fields that data does not contain keep their values. The decoded value shares no memory with data.
//
// Unmarshal returns [ErrBadMessage], without decoding anything, if data is not exactly one value, is nil, contains extension
// types, nests deeper than 16 levels, or contains more than 65,536 values. A slice of large structs can still cost hundreds
// of times the bytes received: use UnmarshalSmall of package msgpack, or keep the elements as []byte.
func Unmarshal(data []byte, v any) error { return badMessage(mp.Unmarshal(data, v, mp.MaxElements)) }

// checkValue returns an error unless b is exactly one MessagePack value with no extension type at its top.
func checkValue(b []byte) error { return badMessage(mp.Check(b)) }

func badMessage(err error) error {
	if err == nil {
		return nil
	}
	return Errorf(CodeBadMessage, "transport: %v", err)
}
