package chatcore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// A snapshot is a sequence of records. Each record is a length (unsigned varint) followed by a MessagePack array. The first
// record is a header, which contains the number of records of each type that follow.
const (
	snapshotMagic   = "roam-chat"
	snapshotVersion = 1
	maxRecord       = 256 << 10 // well above a message with the longest text and name
)

type header struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Magic   string
	Version int

	MinParticipants, HistoryCount, HistoryBytes, HeldCount, HeldBytes, MaxName, MaxText, MaxParticipants int

	Events, Last uint64
	Begun        bool

	Seen, List, Held, History int // number of records of each type

	MaxPerKey int // 0 in snapshots of versions without this limit
}

type seenRecord struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Who []byte
}

type participantRecord struct {
	_struct struct{} `codec:",toarray"` //lint:ignore U1000 read by the codec

	Number  uint64
	Session uint64
	Name    string
	Addr    string
	Key     []byte
	Time    int64
}

// snapshot is a room's state at one point in time. It shares immutable data with the room.
type snapshot struct {
	header  header
	seen    []string
	list    []*participant
	held    []storedMessage
	history []storedMessage
}

// Snapshot captures the room. It copies only one pointer per participant.
func (r *room) Snapshot() (migrate.Snapshot, error) {
	c := r.cfg
	return &snapshot{
		header: header{
			Magic: snapshotMagic, Version: snapshotVersion,
			MinParticipants: c.MinParticipants, HistoryCount: c.HistoryCount, HistoryBytes: c.HistoryBytes,
			HeldCount: c.HeldCount, HeldBytes: c.HeldBytes,
			MaxName: c.MaxName, MaxText: c.MaxText, MaxParticipants: c.MaxParticipants,
			Events: r.events, Last: r.last, Begun: r.begun,
			Seen: len(r.seen), List: len(r.list), Held: len(r.held), History: len(r.history),
			MaxPerKey: c.MaxPerKey,
		},
		seen: r.seen, list: slices.Clone(r.list), held: r.held, history: r.history,
	}, nil
}

// Release is a no-op: a snapshot holds nothing but memory.
func (s *snapshot) Release() {}

func (s *snapshot) WriteTo(w io.Writer) (int64, error) {
	rw := &recordWriter{w: bufio.NewWriterSize(w, 32<<10)}
	rw.put(&s.header)
	for _, who := range s.seen {
		rw.put(&seenRecord{Who: []byte(who)})
	}
	for _, p := range s.list {
		rec := participantRecord{
			Number: p.number, Session: p.session, Name: p.name, Addr: p.addr, Key: p.info().Key, Time: p.joined,
		}
		rw.put(&rec)
	}
	for _, m := range s.held {
		rw.put(&m)
	}
	for _, m := range s.history {
		rw.put(&m)
	}
	if rw.err == nil {
		rw.err = rw.w.Flush()
	}
	return rw.n, rw.err
}

// recordWriter writes records until the first error.
type recordWriter struct {
	w   *bufio.Writer
	n   int64
	err error
}

func (rw *recordWriter) put(v any) {
	if rw.err != nil {
		return
	}
	body := mustMarshal(v)
	var size [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(size[:], uint64(len(body)))
	if _, rw.err = rw.w.Write(size[:n]); rw.err == nil {
		_, rw.err = rw.w.Write(body)
	}
	rw.n += int64(n + len(body))
}

// Restore restores a new room from a snapshot. It validates everything and returns [ErrBadSnapshot] for a snapshot that no
// room could have written.
func (r *room) Restore(src io.Reader) error {
	rr := &recordReader{r: bufio.NewReaderSize(src, 32<<10)}
	var h header
	if err := rr.get("header", &h); err != nil {
		return err
	}
	if h.Magic != snapshotMagic || h.Version != snapshotVersion {
		return badSnapshot("it is %q version %d; this program reads %q version %d", h.Magic, h.Version, snapshotMagic,
			snapshotVersion)
	}
	fresh, err := restoreHeader(h)
	if err != nil {
		return err
	}
	if err := fresh.restoreRecords(rr, h); err != nil {
		return err
	}
	// Data before the end of the stream is unverified.
	if _, err := rr.r.ReadByte(); err == nil {
		return badSnapshot("trailing bytes")
	} else if err != io.EOF {
		return err
	}
	*r = *fresh
	return nil
}

func restoreHeader(h header) (*room, error) {
	if h.MaxPerKey == 0 {
		h.MaxPerKey = defaultMaxPerKey
	}
	cfg := Config{
		MinParticipants: h.MinParticipants, HistoryCount: h.HistoryCount, HistoryBytes: h.HistoryBytes,
		HeldCount: h.HeldCount, HeldBytes: h.HeldBytes,
		MaxName: h.MaxName, MaxText: h.MaxText, MaxParticipants: h.MaxParticipants,
		MaxPerKey: h.MaxPerKey,
	}
	filled, err := cfg.withDefaults()
	switch {
	case err != nil:
		return nil, badSnapshot("%v", err)
	case filled != cfg:
		return nil, badSnapshot("a limit is 0")
	case h.Events >= 1<<53, h.Last >= 1<<53:
		return nil, badSnapshot("counters out of range")
	case h.Seen < 0, h.List < 0, h.Held < 0, h.History < 0,
		h.Seen > cfg.MinParticipants, h.List > cfg.MaxParticipants, h.Held > cfg.HeldCount,
		h.History > max(cfg.HistoryCount, 0):
		return nil, badSnapshot("it exceeds its own limits")
	case h.Begun && h.Seen+h.Held > 0, !h.Begun && h.Seen == cfg.MinParticipants:
		return nil, badSnapshot("it is inconsistent about whether the chat has begun")
	}
	r := newRoom(cfg)
	r.events, r.last, r.begun = h.Events, h.Last, h.Begun
	return r, nil
}

func (r *room) restoreRecords(rr *recordReader, h header) error {
	for range h.Seen {
		var rec seenRecord
		if err := rr.get("counted participant", &rec); err != nil {
			return err
		}
		r.see(string(rec.Who))
	}
	if len(r.seen) != h.Seen {
		return badSnapshot("a participant is counted twice")
	}
	for range h.List {
		if err := r.restoreParticipant(rr); err != nil {
			return err
		}
	}
	var err error
	if r.held, r.heldSize, err = r.restoreMessages(rr, h.Held, r.cfg.HeldBytes, false); err != nil {
		return err
	}
	r.history, r.historySize, err = r.restoreMessages(rr, h.History, r.cfg.HistoryBytes, true)
	return err
}

// restoreParticipant does not check MaxPerKey: the participants of an older snapshot stay in the room.
func (r *room) restoreParticipant(rr *recordReader) error {
	var rec participantRecord
	if err := rr.get("participant", &rec); err != nil {
		return err
	}
	name, id, err := checkName(rec.Name, r.cfg.MaxName)
	switch {
	case err != nil:
		return badSnapshot("%v", err)
	case name != rec.Name, len(rec.Addr) > maxAddr, !printable(rec.Addr),
		len(rec.Key) != 0 && len(rec.Key) != len(transport.Key{}):
		return badSnapshot("the participant %q is malformed", name)
	case rec.Number == 0, rec.Number > r.last, len(r.list) > 0 && r.list[len(r.list)-1].number >= rec.Number:
		return badSnapshot("the participant %q has the number %d, out of order", name, rec.Number)
	case r.byID[id] != nil, r.bySession[rec.Session] != nil:
		return badSnapshot("duplicate participant %q", name)
	}
	p := &participant{
		number: rec.Number, name: name, id: id, addr: rec.Addr, joined: rec.Time, session: rec.Session,
	}
	copy(p.key[:], rec.Key)
	if len(rec.Key) > 0 && p.key.IsZero() {
		return badSnapshot("the participant %q has the zero key", name)
	}
	r.add(p)
	return nil
}

func (r *room) restoreMessages(rr *recordReader, n, maxSize int, numbered bool) (list []storedMessage, size int, err error) {
	var last uint64
	for range n {
		var m storedMessage
		if err := rr.get("message", &m); err != nil {
			return nil, 0, err
		}
		// The sender may have left the room, so only the encoding of its name is checked.
		if size += m.cost(); size > maxSize || checkText(m.Text, r.cfg.MaxText) != nil || !utf8.ValidString(m.From) {
			return nil, 0, badSnapshot("a message violates a limit")
		}
		if numbered && (m.Seq <= last || m.Seq > r.events) || !numbered && m.Seq != 0 {
			return nil, 0, badSnapshot("a message has the number %d, out of order", m.Seq)
		}
		last = m.Seq
		list = append(list, m)
	}
	return list, size, nil
}

// recordReader reads the records of a recordWriter.
type recordReader struct {
	r   *bufio.Reader
	buf []byte
}

// get reads one record into v. It returns errors of the stream unchanged.
func (rr *recordReader) get(what string, v any) error {
	size, err := binary.ReadUvarint(rr.r)
	if err != nil {
		return truncated(what, err)
	}
	if size > maxRecord {
		return badSnapshot("a %s has %d bytes; the maximum is %d", what, size, maxRecord)
	}
	rr.buf = slices.Grow(rr.buf[:0], int(size))[:size]
	if _, err := io.ReadFull(rr.r, rr.buf); err != nil {
		return truncated(what, err)
	}
	if err := transport.Unmarshal(rr.buf, v); err != nil {
		return badSnapshot("malformed %s: %v", what, err)
	}
	return nil
}

func truncated(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return badSnapshot("it ends before a %s", what)
	}
	return err
}

func badSnapshot(format string, args ...any) error {
	return transport.Errorf(CodeBadSnapshot, "chat: not a snapshot of a room: "+format, args...)
}
