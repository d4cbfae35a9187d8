//go:build unix

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roam-go/roam/migrate"
)

// ledger is the service under test. It numbers and chains its commands, so that a position and its link identify the whole
// history before it. Replies, answers and events carry their position.
type ledger struct {
	board *board
	Place
	ballast []byte

	takes, stall time.Duration // see setup
	stuck        *atomic.Bool  // Apply never returns; nil: it does
}

// Place is a position in the ledger, from 1, and the link of its chain there.
type Place struct {
	Pos, Link uint64
}

// Ident is the number of a client and of its command, both from 1.
type Ident struct {
	Client, Seq uint32
}

// commandSize is the size of a command: its Ident and filling derived from it.
const commandSize = 64

func (c Ident) body() []byte {
	b := make([]byte, commandSize)
	binary.BigEndian.PutUint32(b, c.Client)
	binary.BigEndian.PutUint32(b[4:], c.Seq)
	fill(b[8:], uint64(c.Client)<<32|uint64(c.Seq))
	return b
}

// fill writes bytes derived from seed.
func fill(b []byte, seed uint64) {
	for i := range b {
		seed = seed*6364136223846793005 + 1442695040888963407
		b[i] = byte(seed >> 56)
	}
}

// next returns the place of a command after p.
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

// answer is the reply to a command, or to a query with a zero Epoch.
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
		return fmt.Errorf("answer has %d bytes, want 32", len(b))
	}
	for i, v := range [...]*uint64{&a.Pos, &a.Link, &a.Index, &a.Epoch} {
		*v = binary.BigEndian.Uint64(b[8*i:])
	}
	return nil
}

// event is the event of a command; its number is the command's position.
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
		return fmt.Errorf("event has %d bytes, want 16", len(b))
	}
	e.Client, e.Seq, e.Link = binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:])
	return nil
}

// board publishes the state of a process's ledger to other goroutines. If there are several instances, the last one to write
// counts: a host uses one at a time.
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

// stallEvery is the number of commands of which one stalls.
const stallEvery = 1000

func newLedger(b *board, ballast int) *ledger {
	l := &ledger{board: b, ballast: make([]byte, ballast)}
	fill(l.ballast, ballastSeed)
	return l
}

func (l *ledger) Apply(cmd migrate.Command) ([]byte, error) {
	if len(cmd.Body) >= commandSize && binary.BigEndian.Uint32(cmd.Body) == 0 {
		return nil, nil // sent by a flood
	}
	if len(cmd.Body) != commandSize {
		return nil, fmt.Errorf("command has %d bytes, want %d", len(cmd.Body), commandSize)
	}
	c := Ident{binary.BigEndian.Uint32(cmd.Body), binary.BigEndian.Uint32(cmd.Body[4:])}
	if !bytes.Equal(cmd.Body, c.body()) {
		return nil, fmt.Errorf("command %d of client %d is damaged", c.Seq, c.Client)
	}
	if l.stuck != nil && l.stuck.Load() {
		select {}
	}
	time.Sleep(l.takes)
	if l.stall > 0 && l.Pos%stallEvery == stallEvery-1 {
		time.Sleep(l.stall)
	}
	l.Place = l.next(c)
	l.board.set(l.Place)
	cmd.Emit(event{c, l.Link}.marshal())
	return answer{l.Place, cmd.Index, cmd.Epoch}.marshal(), nil
}

func (l *ledger) Query(migrate.Query) ([]byte, error) { return answer{Place: l.Place}.marshal(), nil }

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
