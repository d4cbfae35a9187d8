package migrate_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"

	"github.com/roam-go/roam/migrate"
)

// guestbook is a service that keeps the lines that it is told, in order.
type guestbook struct {
	lines []string
	sum   uint64
}

func newGuestbook() migrate.Migratable { return new(guestbook) }

// Apply adds a line, publishes it, and answers how many there are now.
func (g *guestbook) Apply(cmd migrate.Command) ([]byte, error) {
	g.add(string(cmd.Body))
	cmd.Emit(cmd.Body)
	return strconv.AppendInt(nil, int64(len(g.lines)), 10), nil
}

func (g *guestbook) add(line string) {
	g.lines = append(g.lines, line)
	g.sum = g.sum*31 + uint64(crc32.ChecksumIEEE([]byte(line)))
}

// Snapshot copies nothing: lines are only ever appended, so that those of now stay as they are in the slice of now.
func (g *guestbook) Snapshot() (migrate.Snapshot, error) { return page(g.lines), nil }

// Restore reads what page.WriteTo wrote.
func (g *guestbook) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	var lines []string
	err = json.Unmarshal(b, &lines)
	for _, line := range lines {
		g.add(line)
	}
	return err
}

// Query answers the question of how many lines there are.
func (g *guestbook) Query(migrate.Query) ([]byte, error) {
	return strconv.AppendInt(nil, int64(len(g.lines)), 10), nil
}

// Validate refuses empty lines before they take a place in the log.
func (g *guestbook) Validate(cmd migrate.Command) error {
	if len(bytes.TrimSpace(cmd.Body)) == 0 {
		return errors.New("guestbook: the line is empty")
	}
	return nil
}

// SessionClosed says goodbye.
func (g *guestbook) SessionClosed(cmd migrate.Command) {
	g.add("(somebody left)")
	cmd.Emit([]byte("(somebody left)"))
}

// Hash is kept up to date by add, so that it costs nothing to ask for.
func (g *guestbook) Hash() uint64 { return g.sum }

// page is a snapshot of a guestbook.
type page []string

func (p page) WriteTo(w io.Writer) (int64, error) {
	b, err := json.Marshal([]string(p))
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

func (p page) Release() {}

// A service is tested without any host: by applying commands, and by restoring a snapshot into a new instance.
func ExampleMigratable() {
	var book migrate.Migratable = new(guestbook)
	for i, line := range []string{"hello", "world"} {
		cmd := migrate.NewCommand(migrate.Command{Index: uint64(i + 1), Body: []byte(line)}, nil)
		reply, err := book.Apply(cmd)
		fmt.Printf("%s %v\n", reply, err)
	}

	snap, err := book.Snapshot()
	if err != nil {
		fmt.Println(err)
		return
	}
	var stream bytes.Buffer
	_, err = snap.WriteTo(&stream)
	snap.Release()
	fmt.Println(stream.String(), err)

	moved := new(guestbook)
	err = moved.Restore(&stream)
	fmt.Println(moved.lines, err)
	// Output:
	// 1 <nil>
	// 2 <nil>
	// ["hello","world"] <nil>
	// [hello world] <nil>
}

// A snapshot stays as it was when it was taken, while the service goes on.
func ExampleSnapshot() {
	book := new(guestbook)
	book.Apply(migrate.Command{Body: []byte("before")})
	snap, err := book.Snapshot()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer snap.Release()
	book.Apply(migrate.Command{Body: []byte("after")})

	var stream bytes.Buffer
	snap.WriteTo(&stream)
	fmt.Println(stream.String())
	// Output: ["before"]
}

// A test sees what a service emits.
func ExampleNewCommand() {
	book := new(guestbook)
	cmd := migrate.NewCommand(migrate.Command{Index: 7, Session: 1, Seq: 1, Body: []byte("hello")}, func(body []byte) {
		fmt.Printf("emitted: %s\n", body)
	})
	reply, err := book.Apply(cmd)
	fmt.Printf("reply: %s, error: %v\n", reply, err)
	// Output:
	// emitted: hello
	// reply: 1, error: <nil>
}

// Equal commands in equal order give equal hashes; anything else is found out.
func ExampleHasher() {
	apply := func(lines ...string) uint64 {
		book := new(guestbook)
		for _, line := range lines {
			book.Apply(migrate.Command{Body: []byte(line)})
		}
		return book.Hash()
	}
	active, standby, other := apply("a", "b"), apply("a", "b"), apply("b", "a")
	fmt.Println(active == standby)
	fmt.Println(active == other)
	// Output:
	// true
	// false
}
