package core

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/roam-go/roam/migrate/internal/binenc"
	"github.com/roam-go/roam/resolver"
	"github.com/roam-go/roam/transport"
	"github.com/roam-go/roam/transport/msgpack"
)

// Term is the fencing token. Every message between hosts carries it.
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

// Type is the type of a [Msg]. Numbers are append-only.
type Type uint8

// The types of messages, with the fields of Msg that each uses besides From and Term. "Invitation" is the number of the
// invitation that the receiver, or the sender, accepted.
const (
	// MsgAppend goes from the active host to all others: Prev, PrevEpoch, Entries, Commit, Round, Index (invitation),
	// Won (of the last acknowledgement), Served (log time, in Unix ms; 0: unknown). Without Entries it is a heartbeat.
	MsgAppend Type = 1
	// MsgAck goes to the active host: Index (the log equals the active host's up to here), Commit, Round, Prev (invitation),
	// PrevEpoch (1 + the index of the last entry applied; 0: holds no copy), Flag (resend from Commit), Won (a time
	// of the sender, in ms, to be echoed), Served (the sender's wall clock, in Unix ms; 0: not told).
	MsgAck Type = 2
	// MsgReject goes to the sender of a lower term: Record, Flag (holds a copy of that Loss).
	MsgReject Type = 3
	// MsgInvite asks a latent host to hold a copy: Record, Round (invitation), Index (the host's incarnation), Prev and
	// PrevEpoch (the sender's [Policy]: Copies and MinInSync; 0: unknown).
	MsgInvite Type = 4
	// MsgJoin answers MsgInvite: Round (invitation), Flag (holds a copy), Commit and PrevEpoch (its last
	// committed entry) and, in Index, Loss of that copy; Reason if the host cannot join.
	MsgJoin Type = 5
	// MsgSnapshot offers a joining host a snapshot: Round (the snapshot's number), Index, PrevEpoch, Prev (invitation), Flag
	// (the receiver's copy holds committed entries that the sender lacks).
	MsgSnapshot Type = 6
	// MsgRecord goes from the active host to members after a change and at the beginning of an epoch: Record, Prev and
	// PrevEpoch as in MsgInvite.
	MsgRecord Type = 7
	// MsgRelease asks a host that the active one no longer needs to drop its copy: Record, Round (invitation).
	MsgRelease Type = 8
	// MsgTransfer asks a member to take over: Record.
	MsgTransfer Type = 9
	// MsgFailed tells the active host that the transfer failed: Reason.
	MsgFailed Type = 10
	// MsgMoved tells the former active host that the new one serves: Won and Served, the durations of the two
	// phases, and in Index the part of Served for applying, in ns.
	MsgMoved Type = 11
	// MsgLeave asks the active host to remove the sender: Round (invitation), Flag (holds no copy), Commit (the last committed
	// entry of a copy that it has given up, since it differed; 0: none).
	MsgLeave Type = 12
	// MsgPolicy answers MsgInvite and MsgRecord if the policies differ: Prev and PrevEpoch as in MsgInvite.
	MsgPolicy Type = 13
)

func (t Type) String() string {
	names := [...]string{"", "append", "ack", "reject", "invite", "join", "snapshot", "record", "release", "transfer",
		"failed", "moved", "leave", "policy"}
	if int(t) < len(names) && t > 0 {
		return names[t]
	}
	return fmt.Sprintf("type%d", t)
}

// Msg is a message between two hosts of a service.
type Msg struct {
	Type Type
	From resolver.Host // only ID and Incarnation are on the wire; the connection supplies the rest
	Term Term

	Index, Commit, Round uint64
	Prev, PrevEpoch      uint64
	Entries              []Entry
	Flag                 bool
	Record               *resolver.Record
	Reason               string
	Won, Served          time.Duration
}

// errMalformed is the error of [ReadMsg].
var errMalformed = errors.New("malformed message between hosts")

// AppendMsg appends m to b: type, flag, the sender's ID and incarnation, uvarints, reason, record, entries.
func AppendMsg(b []byte, m Msg) ([]byte, error) {
	flag := byte(0)
	if m.Flag {
		flag = 1
	}
	b = append(b, byte(m.Type), flag)
	b = binenc.AppendBytes(b, m.From.ID)
	b = binenc.AppendUvarints(b, m.From.Incarnation, m.Term.Loss, m.Term.Epoch, m.Index, m.Commit, m.Round,
		m.Prev, m.PrevEpoch, uint64(m.Won), uint64(m.Served))
	b = binenc.AppendBytes(b, m.Reason)
	if m.Record == nil {
		b = append(b, 0)
	} else {
		rec, err := transport.Marshal(m.Record)
		if err != nil {
			return nil, err
		}
		b = binenc.AppendBytes(b, rec)
	}
	b = binary.AppendUvarint(b, uint64(len(m.Entries)))
	for _, e := range m.Entries {
		b = AppendEntry(b, e)
	}
	return b, nil
}

// ReadMsg reads the message that fills b. The message keeps references to b.
func ReadMsg(b []byte) (m Msg, err error) {
	if len(b) < 2 || b[1] > 1 {
		return m, errMalformed
	}
	m.Type, m.Flag = Type(b[0]), b[1] == 1
	b = b[2:]
	id, b, ok := binenc.Bytes(b)
	if !ok || len(id) > 256 {
		return m, errMalformed
	}
	m.From.ID = string(id)
	var won, served uint64
	b, ok = binenc.Uvarints(b, &m.From.Incarnation, &m.Term.Loss, &m.Term.Epoch, &m.Index, &m.Commit, &m.Round,
		&m.Prev, &m.PrevEpoch, &won, &served)
	if !ok {
		return m, errMalformed
	}
	m.Won, m.Served = time.Duration(won), time.Duration(served)
	reason, b, ok := binenc.Bytes(b)
	if !ok {
		return m, errMalformed
	}
	m.Reason = string(reason)
	rec, b, ok := binenc.Bytes(b)
	if !ok {
		return m, errMalformed
	}
	if len(rec) > 0 {
		m.Record = new(resolver.Record)
		if err := msgpack.UnmarshalSmall(rec, m.Record); err != nil {
			return m, fmt.Errorf("%w: record: %w", errMalformed, err)
		}
	}
	var count uint64
	n := len(b)
	if b, ok = binenc.Uvarints(b, &count); !ok || count > uint64(n) {
		return m, errMalformed
	}
	if count > 0 {
		m.Entries = make([]Entry, 0, min(count, 4096))
	}
	for range count {
		var e Entry
		if e, b, err = ReadEntry(b); err != nil {
			return m, fmt.Errorf("%w: %w", errMalformed, err)
		}
		if count > 1 {
			e.Body = bytes.Clone(e.Body) // so that a small body kept by the service does not retain all of b
		}
		m.Entries = append(m.Entries, e)
	}
	if len(b) > 0 {
		return m, fmt.Errorf("%w: %d bytes too many", errMalformed, len(b))
	}
	return m, nil
}
