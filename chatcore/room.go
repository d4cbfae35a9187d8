package chatcore

import (
	"slices"
	"sort"
	"strings"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// room is the chat's state machine. It is independent of epochs, hosts and connections.
type room struct {
	cfg Config

	events uint64 // number of the latest published event
	last   uint64 // number of the latest participant that joined

	// Participants are immutable and are replaced on change, so that snapshots can share them.
	list      []*participant // by number
	bySession map[uint64]*participant
	byID      map[string]*participant
	perKey    map[transport.Key]int // participants with that key; without the zero key

	// Used until the chat begins: the distinct participants that have joined, in order, and their messages.
	begun    bool
	seen     []string
	seenSet  map[string]bool
	held     []storedMessage
	heldSize int // sum of the costs; historySize likewise

	history     []storedMessage
	historySize int
}

// participant is a participant in the room.
type participant struct {
	number  uint64
	name    string
	id      string // nameID of name
	addr    string
	key     transport.Key
	joined  int64 // Unix milliseconds
	session uint64
}

// Optional interfaces of a Migratable.
var (
	_ migrate.Querier       = (*room)(nil)
	_ migrate.Validator     = (*room)(nil)
	_ migrate.SessionCloser = (*room)(nil)
)

// newRoom creates an empty room. The defaults of cfg must have been set.
func newRoom(cfg Config) *room {
	return &room{
		cfg:       cfg,
		begun:     cfg.MinParticipants == 0,
		bySession: make(map[uint64]*participant),
		byID:      make(map[string]*participant),
		perKey:    make(map[transport.Key]int),
		seenSet:   make(map[string]bool),
	}
}

// Validate rejects commands that Apply rejects in any state.
func (r *room) Validate(cmd migrate.Command) error {
	c, err := decodeCommand(cmd.Body)
	if err != nil {
		return err
	}
	switch c.Op {
	case opJoin:
		_, _, err = r.checkJoin(c)
	case opSay:
		err = checkText(c.Text, r.cfg.MaxText)
	case opLeave:
	default:
		err = transport.Errorf(CodeBadCommand, "chat: unknown command %d", c.Op)
	}
	return err
}

func (r *room) checkJoin(c command) (name, id string, err error) {
	if len(c.Addr) > maxAddr || !printable(c.Addr) {
		return "", "", transport.Errorf(CodeBadCommand, "chat: the address for private messages is longer than %d bytes, "+
			"or not printable", maxAddr)
	}
	return checkName(c.Text, r.cfg.MaxName)
}

// Apply executes a command. It repeats the checks of Validate, because Validate runs only on the active host and the
// limits change when a snapshot is restored.
func (r *room) Apply(cmd migrate.Command) ([]byte, error) {
	c, err := decodeCommand(cmd.Body)
	if err != nil {
		return nil, err
	}
	switch c.Op {
	case opJoin:
		return r.join(cmd, c)
	case opSay:
		return nil, r.say(cmd, c.Text)
	case opLeave:
		if r.bySession[cmd.Session] == nil {
			return nil, errNotJoined()
		}
		r.SessionClosed(cmd)
		return nil, nil
	default:
		return nil, transport.Errorf(CodeBadCommand, "chat: unknown command %d", c.Op)
	}
}

// SessionClosed removes the session's participant, if any.
func (r *room) SessionClosed(cmd migrate.Command) {
	if p := r.bySession[cmd.Session]; p != nil {
		r.remove(p)
		r.emit(cmd, event{Kind: KindLeft, From: p.name, Time: cmd.Time.UnixMilli(), Missing: r.missing()})
	}
}

func (r *room) join(cmd migrate.Command, c command) ([]byte, error) {
	name, id, err := r.checkJoin(c)
	if err != nil {
		return nil, err
	}
	now := cmd.Time.UnixMilli()
	if p := r.bySession[cmd.Session]; p != nil {
		if p.id != id {
			return nil, transport.Errorf(CodeJoined, "chat: this session has joined as %q and must leave before it joins as %q",
				p.name, name)
		}
		moved := *p // same participant, new address
		moved.addr = c.Addr
		r.replace(p, &moved)
		return r.joinReply(&moved, r.events+1), nil
	}
	if p := r.byID[id]; p != nil {
		// The same key belongs to the same user, who has restarted before the old session expired.
		if p.key.IsZero() || p.key != cmd.Key {
			return nil, errNameTaken(p, name)
		}
		r.remove(p)
	} else if len(r.list) >= r.cfg.MaxParticipants {
		return nil, transport.Errorf(CodeFull, "chat: the room is full: it has %d participants", len(r.list))
	} else if n := r.perKey[cmd.Key]; n >= r.cfg.MaxPerKey {
		return nil, transport.Errorf(CodeFull, "chat: the room is full for this key: %d participants have joined with it", n)
	}
	r.last++
	p := &participant{
		number: r.last, name: name, id: id, addr: c.Addr, key: cmd.Key, joined: now, session: cmd.Session,
	}
	r.add(p)
	r.count(p)
	reply := r.joinReply(p, r.events+1) // newcomers receive the events of their own joining
	r.emit(cmd, event{Kind: KindJoined, From: name, Time: now, Missing: r.missing(), Key: p.key})
	r.begin(cmd)
	return reply, nil
}

func errNameTaken(p *participant, name string) error {
	looks := ""
	if p.name != name {
		looks = ", a confusable name,"
	}
	return transport.Errorf(CodeNameTaken, "chat: the name %q is taken: %q%s belongs to a participant in the room", name,
		p.name, looks)
}

func (r *room) joinReply(p *participant, next uint64) []byte {
	return mustMarshal(&joinReply{Name: p.name, Next: next, Missing: r.missing(), Present: len(r.list)})
}

func (r *room) say(cmd migrate.Command, text string) error {
	p := r.bySession[cmd.Session]
	if p == nil {
		return errNotJoined()
	}
	if err := checkText(text, r.cfg.MaxText); err != nil {
		return err
	}
	s := storedMessage{From: p.name, Text: text, Time: cmd.Time.UnixMilli()}
	if r.begun {
		r.publish(cmd, s)
		return nil
	}
	if len(r.held) >= r.cfg.HeldCount || r.heldSize+s.cost() > r.cfg.HeldBytes {
		return transport.Errorf(CodeHeldFull, "chat: the room holds %d messages until the chat begins and accepts no more: %d "+
			"participants are missing", len(r.held), r.missing())
	}
	r.held = append(r.held, s)
	r.heldSize += s.cost()
	return nil
}

// begin begins the chat once enough participants have joined, and publishes the held messages.
func (r *room) begin(cmd migrate.Command) {
	if r.begun || r.missing() > 0 {
		return
	}
	r.begun = true
	r.emit(cmd, event{Kind: KindBegun, Time: cmd.Time.UnixMilli()})
	for _, s := range r.held {
		r.publish(cmd, s)
	}
	r.seen, r.seenSet, r.held, r.heldSize = nil, nil, nil, 0
}

// publish publishes a message and adds it to the history.
func (r *room) publish(cmd migrate.Command, s storedMessage) {
	r.emit(cmd, event{Kind: KindMessage, From: s.From, Text: s.Text, Time: s.Time})
	s.Seq = r.events
	r.history = append(r.history, s)
	r.historySize += s.cost()
	n := 0
	for r.historySize > r.cfg.HistoryBytes || len(r.history)-n > max(r.cfg.HistoryCount, 0) {
		r.historySize -= r.history[n].cost()
		n++
	}
	// Snapshots share the array, so it must not change; append eventually moves to a new one.
	r.history = r.history[n:]
}

// emit publishes an event. All events go through it, so r.events is the number of the latest event.
func (r *room) emit(cmd migrate.Command, e event) {
	r.events++
	cmd.Emit(e.encode())
}

// missing returns the number of participants still missing for the chat to begin.
func (r *room) missing() int {
	if r.begun {
		return 0
	}
	return r.cfg.MinParticipants - len(r.seen)
}

// count counts a participant towards MinParticipants, once per key or name.
func (r *room) count(p *participant) {
	who := "name " + p.id
	if !p.key.IsZero() {
		who = "key " + string(p.key[:])
	}
	r.see(who)
}

func (r *room) see(who string) {
	if !r.begun && !r.seenSet[who] {
		r.seen = append(r.seen, who)
		r.seenSet[who] = true
	}
}

func (r *room) add(p *participant) {
	r.list = append(r.list, p)
	r.bySession[p.session], r.byID[p.id] = p, p
	if !p.key.IsZero() {
		r.perKey[p.key]++
	}
}

func (r *room) remove(p *participant) {
	i := r.search(p.number)
	r.list = slices.Delete(r.list, i, i+1)
	delete(r.bySession, p.session)
	delete(r.byID, p.id)
	if r.perKey[p.key]--; r.perKey[p.key] <= 0 {
		delete(r.perKey, p.key)
	}
}

func (r *room) replace(p, by *participant) {
	r.list[r.search(p.number)] = by
	r.bySession[p.session], r.byID[p.id] = by, by
}

// search returns the index in r.list of the first participant with at least the given number.
func (r *room) search(number uint64) int {
	return sort.Search(len(r.list), func(i int) bool { return r.list[i].number >= number })
}

// Query answers a query of a client.
func (r *room) Query(q migrate.Query) ([]byte, error) {
	var ask query
	if err := transport.Unmarshal(q.Body, &ask); err != nil {
		return nil, transport.Errorf(CodeBadCommand, "chat: not a query: want [operation, name, after, limit]")
	}
	switch ask.Op {
	case queryHistory:
		n := sort.Search(len(r.history), func(i int) bool { return r.history[i].Seq >= ask.After })
		return transport.Marshal(append([]storedMessage{}, r.history[:n]...))
	case queryWho:
		limit := ask.Limit
		if limit <= 0 || limit > maxPage {
			limit = maxPage
		}
		from := r.list[sort.Search(len(r.list), func(i int) bool { return r.list[i].number > ask.After }):]
		from = from[:min(len(from), limit)]
		answer := roster{Present: len(r.list), List: make([]participantInfo, 0, len(from))}
		for _, p := range from {
			answer.List = append(answer.List, p.info())
		}
		return transport.Marshal(&answer)
	case queryFind:
		name, id, err := checkName(ask.Name, r.cfg.MaxName)
		if err != nil {
			return nil, err
		}
		p := r.byID[id]
		if p == nil || !strings.EqualFold(p.name, name) { // a confusable name is another participant
			return nil, transport.Errorf(CodeNoSuchName, "chat: no participant is called %q", name)
		}
		return transport.Marshal(new(p.info()))
	default:
		return nil, transport.Errorf(CodeBadCommand, "chat: unknown query %d", ask.Op)
	}
}

func (p *participant) info() participantInfo {
	w := participantInfo{Number: p.number, Name: p.name, Addr: p.addr, Key: []byte{}, Time: p.joined}
	if !p.key.IsZero() {
		w.Key = p.key[:]
	}
	return w
}

func errNotJoined() error {
	return transport.Errorf(CodeNotJoined, "chat: this session is not in the room: join first, or join again if a newer "+
		"session with the same key has taken over the name")
}
