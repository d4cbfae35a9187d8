//go:build unix

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/roam-go/roam/migrate"
)

// ledger is the service under test: it numbers the commands that it applies, and chains them, so that a position and its
// link stand for all the history before it. Everything that leaves it says where in the log it was made.
type ledger struct {
	board *board
	Place
	ballast []byte
}

// Place is a position in the ledger, from 1, and the link of the chain there.
type Place struct {
	Pos, Link uint64
}

// Ident is the number of a client, from 1, and that of its command, from 1.
type Ident struct {
	Client, Seq uint32
}

// commandSize is the size of a command: its id and filling that follows from it.
const commandSize = 64

func (c Ident) body() []byte {
	b := make([]byte, commandSize)
	binary.BigEndian.PutUint32(b, c.Client)
	binary.BigEndian.PutUint32(b[4:], c.Seq)
	fill(b[8:], uint64(c.Client)<<32|uint64(c.Seq))
	return b
}

// fill writes bytes that follow from seed.
func fill(b []byte, seed uint64) {
	for i := range b {
		seed = seed*6364136223846793005 + 1442695040888963407
		b[i] = byte(seed >> 56)
	}
}

// next is the place that a command gets after p.
func (p Place) next(c Ident) Place {
	const prime = 1099511628211 // of FNV-1a
	h := p.Link ^ 14695981039346656037
	for _, w := range [...]uint64{p.Pos, uint64(c.Client)<<32 | uint64(c.Seq)} {
		for range 8 {
			h = (h ^ w&0xff) * prime
			w >>= 8
		}
	}
	return Place{p.Pos + 1, h}
}

// answer is the reply to a command, and to a query with a zero Epoch.
type answer struct {
	Place
	Index, Epoch uint64
}

func (a answer) marshal() []byte {
	b := make([]byte, 0, 32)
	for _, v := range [...]uint64{a.Pos, a.Link, a.Index, a.Epoch} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func (a *answer) unmarshal(b []byte) error {
	if len(b) != 32 {
		return fmt.Errorf("an answer of %d bytes, not 32", len(b))
	}
	for i, v := range [...]*uint64{&a.Pos, &a.Link, &a.Index, &a.Epoch} {
		*v = binary.BigEndian.Uint64(b[8*i:])
	}
	return nil
}

// event is what the ledger emits for each command: the event's number is the command's position.
type event struct {
	Ident
	Link uint64
}

func (e event) marshal() []byte {
	b := binary.BigEndian.AppendUint32(nil, e.Client)
	b = binary.BigEndian.AppendUint32(b, e.Seq)
	return binary.BigEndian.AppendUint64(b, e.Link)
}

func (e *event) unmarshal(b []byte) error {
	if len(b) != 16 {
		return fmt.Errorf("an event of %d bytes, not 16", len(b))
	}
	e.Client, e.Seq, e.Link = binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:])
	return nil
}

// board shows the state of a process's ledger to other goroutines. Of several instances the last that was written counts:
// a host has no more than one in use.
type board struct {
	mu sync.Mutex
	Place
}

func (b *board) set(p Place) {
	b.mu.Lock()
	b.Place = p
	b.mu.Unlock()
}

func (b *board) get() Place {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Place
}

const ballastSeed = 42

func newLedger(b *board, ballast int) *ledger {
	l := &ledger{board: b, ballast: make([]byte, ballast)}
	fill(l.ballast, ballastSeed)
	return l
}

func (l *ledger) Apply(cmd migrate.Command) ([]byte, error) {
	if len(cmd.Body) >= commandSize && binary.BigEndian.Uint32(cmd.Body) == 0 {
		return nil, nil // of a flood
	}
	if len(cmd.Body) != commandSize {
		return nil, fmt.Errorf("a command of %d bytes, not %d", len(cmd.Body), commandSize)
	}
	c := Ident{binary.BigEndian.Uint32(cmd.Body), binary.BigEndian.Uint32(cmd.Body[4:])}
	if !bytes.Equal(cmd.Body, c.body()) {
		return nil, fmt.Errorf("command %d of client %d is damaged", c.Seq, c.Client)
	}
	l.Place = l.next(c)
	l.board.set(l.Place)
	cmd.Emit(event{c, l.Link}.marshal())
	return answer{l.Place, cmd.Index, cmd.Epoch}.marshal(), nil
}

func (l *ledger) Query([]byte) ([]byte, error) { return answer{Place: l.Place}.marshal(), nil }

func (l *ledger) Hash() uint64 { return l.Link }

func (l *ledger) Snapshot() (migrate.Snapshot, error) {
	return &ledgerSnapshot{l.Place, l.ballast}, nil
}

func (l *ledger) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(b) != 16+len(l.ballast) || !bytes.Equal(b[16:], l.ballast) {
		return errors.New("the snapshot is damaged")
	}
	l.Place = Place{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
	l.board.set(l.Place)
	return nil
}

type ledgerSnapshot struct {
	Place
	ballast []byte
}

func (s *ledgerSnapshot) WriteTo(w io.Writer) (int64, error) {
	b := binary.BigEndian.AppendUint64(nil, s.Pos)
	n, err := w.Write(binary.BigEndian.AppendUint64(b, s.Link))
	if err != nil {
		return int64(n), err
	}
	m, err := w.Write(s.ballast)
	return int64(n + m), err
}

func (s *ledgerSnapshot) Release() {}
