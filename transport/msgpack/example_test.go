package msgpack_test

import (
	"fmt"

	"github.com/roam-go/roam/transport/msgpack"
)

func ExampleNewReader() {
	msg := msgpack.AppendArray(nil, 3)
	msg = msgpack.AppendUint(msg, 7)
	msg = msgpack.AppendString(msg, "hello")
	msg = msgpack.AppendBytes(msg, []byte{1, 2, 3})

	r := msgpack.NewReader(msg)
	fields := r.Array()
	id, text, data := r.Uint(), r.Bytes(), r.Bytes()
	if err := r.End(); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(fields, id, string(text), data)

	// Output:
	// 3 7 hello [1 2 3]
}
