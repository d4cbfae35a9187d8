package core

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// Term is the fencing token: all that is said between hosts carries it.
type Term struct{ Loss, Epoch uint64 }

// Compare orders terms: by Loss, then by Epoch.
func (t Term) Compare(o Term) int {
	return cmp.Or(cmp.Compare(t.Loss, o.Loss), cmp.Compare(t.Epoch, o.Epoch))
}

func (t Term) String() string {
	if t.Loss == 0 {
		return fmt.Sprintf("e%d", t.Epoch)
	}
	return fmt.Sprintf("e%d/loss%d", t.Epoch, t.Loss)
}

// TermOf is the term of a record.
func TermOf(r resolver.Record) Term { return Term{r.Loss, r.Epoch} }

// Type says what a [Msg] is. Numbers are append-only.
type Type uint8

// The messages, with the fields of Msg that each uses beside From and Term.
const (
	MsgAppend   Type = 1  // active to all: Prev, PrevEpoch, Entries, Commit, Round, Index (number of the invitation); without Entries it is a heartbeat
	MsgAck      Type = 2  // to the active: Index (all up to it equals the active's log), Commit, Round, Prev (number of the invitation), PrevEpoch (1: holds a copy), Flag (resend from Commit)
	MsgReject   Type = 3  // to the sender of a lower term: Record
	MsgInvite   Type = 4  // active to a latent host: Record, Round (number of the invitation), Index (the host's incarnation); come and hold a copy
	MsgJoin     Type = 5  // to the active: Round (of the invitation), Flag (holds a copy), Commit, Loss of it in Index; Reason, if it cannot join
	MsgSnapshot Type = 6  // active to a joining host: Round (the snapshot's number), Index, PrevEpoch, Prev (number of the invitation)
	MsgRecord   Type = 7  // active to members: Record, after a change, and first thing in an epoch
	MsgRelease  Type = 8  // active to a host it no longer wants: Record, Round (number of the invitation); drop the copy
	MsgTransfer Type = 9  // active to a member: Record; take over
	MsgFailed   Type = 10 // to the active: Reason; the transfer did not happen
	MsgMoved    Type = 11 // new active to the old: serving since the transfer; Won and Served say how long it took
	MsgLeave    Type = 12 // to the active: Round (of the invitation), Flag (holds no copy); remove me
)

func (t Type) String() string {
	names := [...]string{"", "append", "ack", "reject", "invite", "join", "snapshot", "record", "release", "transfer", "failed", "moved", "leave"}
	if int(t) < len(names) && t > 0 {
		return names[t]
	}
	return fmt.Sprintf("type%d", t)
}

// Msg is a message between two hosts of a service.
type Msg struct {
	Type Type
	From resolver.Host // on the wire only ID and Inc: the rest is known from the connection
	Term Term

	Index, Commit, Round uint64
	Prev, PrevEpoch      uint64
	Entries              []Entry
	Flag                 bool
	Record               *resolver.Record
	Reason               string
	Won, Served          time.Duration
}

// Errors of [ReadMsg].
var errMsg = errors.New("malformed message between hosts")

// AppendMsg appends m to b: type, flag, the sender's ID and Inc, uvarints, reason, record, entries.
func AppendMsg(b []byte, m Msg) ([]byte, error) {
	flag := byte(0)
	if m.Flag {
		flag = 1
	}
	b = append(b, byte(m.Type), flag)
	b = appendString(b, m.From.ID)
	for _, v := range [...]uint64{m.From.Incarnation, m.Term.Loss, m.Term.Epoch, m.Index, m.Commit, m.Round, m.Prev, m.PrevEpoch,
		uint64(m.Won), uint64(m.Served)} {
		b = binary.AppendUvarint(b, v)
	}
	b = appendString(b, m.Reason)
	if m.Record == nil {
		b = append(b, 0)
	} else {
		rec, err := transport.Marshal(m.Record)
		if err != nil {
			return nil, err
		}
		b = binary.AppendUvarint(b, uint64(len(rec)))
		b = append(b, rec...)
	}
	b = binary.AppendUvarint(b, uint64(len(m.Entries)))
	for _, e := range m.Entries {
		b = AppendEntry(b, e)
	}
	return b, nil
}

// ReadMsg reads a message that fills b, and which then belongs to it.
func ReadMsg(b []byte) (m Msg, err error) {
	if len(b) < 2 || b[1] > 1 {
		return m, errMsg
	}
	m.Type, m.Flag = Type(b[0]), b[1] == 1
	b = b[2:]
	id, b, ok := readBytes(b)
	if !ok || len(id) > 256 {
		return m, errMsg
	}
	m.From.ID = string(id)
	var won, served uint64
	for _, p := range [...]*uint64{&m.From.Incarnation, &m.Term.Loss, &m.Term.Epoch, &m.Index, &m.Commit, &m.Round, &m.Prev, &m.PrevEpoch,
		&won, &served} {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return m, errMsg
		}
		*p, b = v, b[n:]
	}
	m.Won, m.Served = time.Duration(won), time.Duration(served)
	reason, b, ok := readBytes(b)
	if !ok {
		return m, errMsg
	}
	m.Reason = string(reason)
	rec, b, ok := readBytes(b)
	if !ok {
		return m, errMsg
	}
	if len(rec) > 0 {
		m.Record = new(resolver.Record)
		if err := msgpack.UnmarshalSmall(rec, m.Record); err != nil {
			return m, fmt.Errorf("%w: record: %w", errMsg, err)
		}
	}
	count, n := binary.Uvarint(b)
	if n <= 0 || count > uint64(len(b)) {
		return m, errMsg
	}
	b = b[n:]
	if count > 0 {
		m.Entries = make([]Entry, 0, min(count, 4096))
	}
	for range count {
		var e Entry
		if e, b, err = ReadEntry(b); err != nil {
			return m, fmt.Errorf("%w: %w", errMsg, err)
		}
		if count > 1 {
			e.Body = bytes.Clone(e.Body) // or a small one that the service keeps would hold all of b
		}
		m.Entries = append(m.Entries, e)
	}
	if len(b) > 0 {
		return m, fmt.Errorf("%w: %d bytes too many", errMsg, len(b))
	}
	return m, nil
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func readBytes(b []byte) (p, rest []byte, ok bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 || uint64(len(b)-n) < size {
		return nil, nil, false
	}
	return b[n : n+int(size)], b[n+int(size):], true
}
