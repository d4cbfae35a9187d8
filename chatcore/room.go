package chatcore

import (
	"slices"
	"sort"
	"strings"

	"github.com/roam-go/roam/migrate"
	"github.com/roam-go/roam/transport"
)

// room is the chat as a state machine. It holds no epoch, host or connection: who calls it, and where, it cannot tell.
type room struct {
	cfg Config

	events uint64 // published so far, which is the number of the latest
	last   uint64 // the number given to the latest participant

	// A participant is never changed after it was made, only replaced, so that snapshots can share them.
	list      []*participant // by number
	bySession map[uint64]*participant
	byID      map[string]*participant

	// Until the chat begins: who has been here, each once, in order, and what they said.
	begun    bool
	seen     []string
	seenSet  map[string]bool
	held     []said
	heldSize int // the sum of the costs, as historySize

	history     []said
	historySize int
}

// participant is somebody in the room.
type participant struct {
	number  uint64
	name    string
	id      string // nameID of name
	addr    string
	key     transport.Key
	joined  int64 // Unix milliseconds
	session uint64
}

// The room's optional abilities.
var (
	_ migrate.Querier       = (*room)(nil)
	_ migrate.Validator     = (*room)(nil)
	_ migrate.SessionCloser = (*room)(nil)
)

// newRoom takes a Config with its defaults filled in.
func newRoom(cfg Config) *room {
	return &room{
		cfg:       cfg,
		begun:     cfg.MinParticipants == 0,
		bySession: make(map[uint64]*participant),
		byID:      make(map[string]*participant),
		seenSet:   make(map[string]bool),
	}
}

// Validate refuses what Apply would refuse whatever the state is when the command's turn comes.
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
		err = transport.Errorf(CodeBadCommand, "chat: no command has the number %d", c.Op)
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

// Apply executes a command. It checks again what Validate has checked: Validate is for the active host alone, and the
// limits may have come with a snapshot since.
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
		return nil, transport.Errorf(CodeBadCommand, "chat: no command has the number %d", c.Op)
	}
}

// SessionClosed lets the session's participant leave, if it has one.
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
			return nil, transport.Errorf(CodeJoined, "chat: this session is in the room as %q, and must leave before it can be %q",
				p.name, name)
		}
		moved := *p // the same participant at another address
		moved.addr = c.Addr
		r.replace(p, &moved)
		return r.joined(&moved, r.events+1), nil
	}
	if p := r.byID[id]; p != nil {
		// The same key is the same person, who has started anew before the old session ran out.
		if p.key.IsZero() || p.key != cmd.Key {
			return nil, r.taken(p, name)
		}
		r.remove(p)
	} else if len(r.list) >= r.cfg.MaxParticipants {
		return nil, transport.Errorf(CodeFull, "chat: the room is full: %d participants are here", len(r.list))
	}
	r.last++
	p := &participant{
		number: r.last, name: name, id: id, addr: c.Addr, key: cmd.Key, joined: now, session: cmd.Session,
	}
	r.add(p)
	r.count(p)
	reply := r.joined(p, r.events+1) // so that newcomers hear of their own joining, and of what it sets off
	r.emit(cmd, event{Kind: KindJoined, From: name, Time: now, Missing: r.missing()})
	r.begin(cmd)
	return reply, nil
}

func (r *room) taken(p *participant, name string) error {
	looks := ""
	if p.name != name {
		looks = ", which looks like it,"
	}
	return transport.Errorf(CodeNameTaken, "chat: the name %q is taken: %q%s belongs to somebody who is in the room", name, p.name,
		looks)
}

func (r *room) joined(p *participant, next uint64) []byte {
	return mustMarshal(&joined{Name: p.name, Next: next, Missing: r.missing(), Present: len(r.list)})
}

func (r *room) say(cmd migrate.Command, text string) error {
	p := r.bySession[cmd.Session]
	if p == nil {
		return errNotJoined()
	}
	if err := checkText(text, r.cfg.MaxText); err != nil {
		return err
	}
	s := said{From: p.name, Text: text, Time: cmd.Time.UnixMilli()}
	if r.begun {
		r.publish(cmd, s)
		return nil
	}
	if len(r.held) >= r.cfg.HeldCount || r.heldSize+s.cost() > r.cfg.HeldBytes {
		return transport.Errorf(CodeHeldFull, "chat: %d messages wait for the chat to begin, and no more can: %d participants are "+
			"missing", len(r.held), r.missing())
	}
	r.held = append(r.held, s)
	r.heldSize += s.cost()
	return nil
}

// begin starts the chat when enough participants have been here, and publishes what waited for it.
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

// publish tells everybody of a message and keeps it for those who join later.
func (r *room) publish(cmd migrate.Command, s said) {
	r.emit(cmd, event{Kind: KindMessage, From: s.From, Text: s.Text, Time: s.Time})
	s.Seq = r.events
	r.history = append(r.history, s)
	r.historySize += s.cost()
	n := 0
	for r.historySize > r.cfg.HistoryBytes || len(r.history)-n > max(r.cfg.HistoryCount, 0) {
		r.historySize -= r.history[n].cost()
		n++
	}
	// Snapshots share the array, so what is in it stays; append leaves it behind, in time.
	r.history = r.history[n:]
}

// emit is the only place that publishes, so that r.events is the number of the latest event.
func (r *room) emit(cmd migrate.Command, e event) {
	r.events++
	cmd.Emit(e.encode())
}

// missing is how many more participants the chat waits for.
func (r *room) missing() int {
	if r.begun {
		return 0
	}
	return r.cfg.MinParticipants - len(r.seen)
}

// count counts a participant towards the beginning of the chat, once each.
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
}

func (r *room) remove(p *participant) {
	i := r.position(p.number)
	r.list = slices.Delete(r.list, i, i+1)
	delete(r.bySession, p.session)
	delete(r.byID, p.id)
}

func (r *room) replace(p, by *participant) {
	r.list[r.position(p.number)] = by
	r.bySession[p.session], r.byID[p.id] = by, by
}

// position is the place in r.list of the participant with the number, or of the next one.
func (r *room) position(number uint64) int {
	return sort.Search(len(r.list), func(i int) bool { return r.list[i].number >= number })
}

// Query answers what a client asks.
func (r *room) Query(q []byte) ([]byte, error) {
	var ask query
	if err := transport.Unmarshal(q, &ask); err != nil {
		return nil, transport.Errorf(CodeBadCommand, "chat: not a query: want [operation, name, after, limit]")
	}
	switch ask.Op {
	case askHistory:
		n := sort.Search(len(r.history), func(i int) bool { return r.history[i].Seq >= ask.After })
		return transport.Marshal(append([]said{}, r.history[:n]...))
	case askWho:
		limit := ask.Limit
		if limit <= 0 || limit > maxPage {
			limit = maxPage
		}
		from := r.list[sort.Search(len(r.list), func(i int) bool { return r.list[i].number > ask.After }):]
		from = from[:min(len(from), limit)]
		answer := roster{Present: len(r.list), List: make([]person, 0, len(from))}
		for _, p := range from {
			answer.List = append(answer.List, p.person())
		}
		return transport.Marshal(&answer)
	case askFind:
		name, id, err := checkName(ask.Name, r.cfg.MaxName)
		if err != nil {
			return nil, err
		}
		p := r.byID[id]
		if p == nil || !strings.EqualFold(p.name, name) { // a lookalike is somebody else
			return nil, transport.Errorf(CodeNoSuchName, "chat: nobody called %q is in the room", name)
		}
		return transport.Marshal(new(p.person()))
	default:
		return nil, transport.Errorf(CodeBadCommand, "chat: no query has the number %d", ask.Op)
	}
}

func (p *participant) person() person {
	w := person{Number: p.number, Name: p.name, Addr: p.addr, Key: []byte{}, Time: p.joined}
	if !p.key.IsZero() {
		w.Key = p.key[:]
	}
	return w
}

func errNotJoined() error {
	return transport.Errorf(CodeNotJoined, "chat: this session is not in the room: join first, and join again if the name was "+
		"taken over by a newer session with the same key")
}
