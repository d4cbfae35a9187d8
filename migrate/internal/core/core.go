package core

import (
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
)

// Config holds what does not change while a service is hosted. The zero values of the times and sizes stand for the defaults.
type Config struct {
	Name string
	Self resolver.Host
	// Stable says that there is a store: what Ready.Save asks for is kept over a restart with the same incarnation.
	Durable bool
	// Nonce is where the nonces of proposals begin; each start must have its own, where it has not its own incarnation.
	Nonce uint64

	Heartbeat       time.Duration // active to members: 100 ms
	FailureTimeout  time.Duration // a member that is silent for so long is removed, a silent active replaced: 500 ms
	RankDelay       time.Duration // the second standby waits so much longer, the third twice as much: 50 ms
	TransferTimeout time.Duration // a transfer that has not happened after so long has failed: 900 ms
	RetryDelay      time.Duration // first pause before asking the resolver again: 50 ms, doubling up to 16 x
	JoinTimeout     time.Duration // an invited host that is silent for so long is given up: 2 s
	SeekInterval    time.Duration // pause between looking for standbys while there are too few: 500 ms
	CopyRetention   time.Duration // a removed host keeps its copy for so long, to be taken back cheaply: 5 s

	Standbys   int    // wanted beside the active
	MinInSync  int    // with a value above 1 the in-sync set never shrinks below it, and commands wait until so many hold them
	MaxJoinLag uint64 // a joining host this close to the end of the log is proposed for the in-sync set: 1,000 entries

	AppendBytes   int // entries in one message: 256 KiB
	InflightBytes int // entries on their way to one host: 1 MiB
	KeepBytes     int // committed entries kept for hosts that come back: 4 MiB
	LogBytes      int // the whole log; when it is full, a host that holds it up is dropped: 256 MiB
	LagBytes      int // a member that is so far behind is removed: 32 MiB
}

func (c *Config) setDefaults() {
	def := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	def(&c.Heartbeat, 100*time.Millisecond)
	def(&c.FailureTimeout, 500*time.Millisecond)
	def(&c.RankDelay, 50*time.Millisecond)
	def(&c.TransferTimeout, 900*time.Millisecond) // so that who waits for it knows within a second
	def(&c.RetryDelay, 50*time.Millisecond)
	def(&c.JoinTimeout, 2*time.Second)
	def(&c.SeekInterval, 500*time.Millisecond)
	def(&c.CopyRetention, 5*time.Second)
	size := func(p *int, n int) {
		if *p == 0 {
			*p = n
		}
	}
	size(&c.AppendBytes, 256<<10)
	size(&c.InflightBytes, 1<<20)
	size(&c.KeepBytes, 4<<20)
	size(&c.LogBytes, 256<<20)
	size(&c.LagBytes, 32<<20)
	if c.MaxJoinLag == 0 {
		c.MaxJoinLag = 1000
	}
	// What is kept for others must leave room for what is not committed yet.
	c.KeepBytes = min(c.KeepBytes, c.LogBytes/2)
}

// Role is what a host is for a service.
type Role uint8

// The roles.
const (
	Out        Role = iota // latent: holds no copy that counts
	Joining                // fetches a copy, or catches up
	Standby                // in the in-sync set
	Recovering             // active, but its epoch's first entry is not committed yet
	Serving                // active
)

func (r Role) String() string {
	return [...]string{"out", "joining", "standby", "recovering", "serving"}[r]
}

// Active reports whether the role orders commands.
func (r Role) Active() bool { return r == Recovering || r == Serving }

// Outgoing is a message to be sent.
type Outgoing struct {
	To  resolver.Host
	Msg Msg
}

// CAS is a change to propose to the resolver. Its answer comes back as a [CASDone] with the same Nonce.
type CAS struct {
	Expect uint64
	Next   resolver.Record
}

// Ready is what has to be done, in this order: send Msgs, apply Committed, then the rest in any order.
type Ready struct {
	Msgs      []Outgoing
	Save      *Save // give it to the store; [Persisted] says that the store holds it
	Committed []Entry
	CAS       *CAS
	Get       bool            // read the record; the answer comes back as [Got]
	Seek      bool            // look for hosts that could join; the answer comes back as [Candidates]
	Snapshots []resolver.Host // capture the state as of the last committed entry for these; answer with [Captured]
	Fetch     *Fetch          // fetch and restore a snapshot; answer with [Restored]
	Reads     []uint64        // these reads may be answered now
	Resent    uint64          // entries that had been sent and are sent again
	ReadsFail bool            // every other read that was asked must be asked again elsewhere
	Drop      bool            // release the copy
	Activated bool            // this host became active; Tail returns what it inherited
	Deposed   bool            // this host was active and is no longer
	Changed   bool            // role, term or record changed
	Moves     []MoveEvent     // progress of a handoff that this host began
	Gained    *resolver.Host  // handoff that this host took over: from
}

// Fetch says which snapshot to fetch from whom.
type Fetch struct {
	From         resolver.Host
	ID           uint64
	Index, Epoch uint64
}

// MoveStage says how far a handoff is.
type MoveStage uint8

// The stages of a handoff.
const (
	MoveInSync MoveStage = iota + 1 // the target is in the in-sync set: tell the clients, then step [Transfer]
	MoveTaken                       // the target has taken over
	MoveServed                      // the target serves; Won and Served are known
	MoveFailed                      // it did not happen, for Reason; the service goes on here
)

// MoveEvent reports on a handoff.
type MoveEvent struct {
	Stage       MoveStage
	Reason      string
	Won, Served time.Duration // from the request to the target's win, and from there to serving
}

// Core is the state of one service on one host. It is not safe for concurrent use.
type Core struct {
	cfg  Config
	self resolver.Host
	now  time.Duration

	role          Role
	term          Term
	rec           resolver.Record // the newest known
	nonce         uint64
	hasState      bool // log and commit mean something
	loss          uint64
	recoveredLast uint64 // the last entry that the store held when this host started
	freshTerm     Term   // the term that may begin here with an empty copy
	log           log
	commit        uint64
	emitted       uint64 // the part of commit that Ready has handed out
	lastTime      int64  // of the last entry

	prop         *proposal
	proposeAfter time.Duration // after a change that can't be made, none is proposed before
	getAt        time.Duration // when to read the record; 0: no need
	getAfter     time.Duration // not before
	getting      bool

	active  activeState
	standby standbyState
	saving  saving

	out Ready
	err error // why the core stopped; nil: it did not
}

// New makes the core of a service on a host that holds nothing yet.
func New(cfg Config) *Core {
	cfg.setDefaults()
	return &Core{cfg: cfg, self: cfg.Self, nonce: cfg.Nonce}
}

// Role, Term, Record, Commit and Last describe the present state.
func (c *Core) Role() Role { return c.role }

// Term is the highest term that this host has seen.
func (c *Core) Term() Term { return c.term }

// Record is the newest record that this host has seen; its Version is 0 if there is none.
func (c *Core) Record() resolver.Record { return c.rec }

// Commit is the index of the last committed entry.
func (c *Core) Commit() uint64 { return c.commit }

// Last is the index of the last entry.
func (c *Core) Last() uint64 { return c.log.last() }

// HasState reports whether this host holds a copy.
func (c *Core) HasState() bool { return c.hasState }

// Tail returns the entries that Ready has not handed out as committed: what is yet to be applied, in order.
func (c *Core) Tail() []Entry { return c.log.slice(c.emitted+1, c.log.last()) }

// Event is what Step takes: one of the types below.
type Event interface{ event() }

// The events.
type (
	// Tick says only that time has passed.
	Tick struct{}
	// Recv is a message from another host.
	Recv struct{ Msg Msg }
	// Create asks to make the record, with this host as the active one and an empty state.
	Create struct{}
	// CASDone answers Ready.CAS.
	CASDone struct {
		Nonce   uint64
		Record  resolver.Record // with CASOK and CASConflict
		Outcome Outcome
	}
	// Got answers Ready.Get: the zero record if there is none; Err if the resolver did not answer.
	Got struct {
		Record resolver.Record
		Err    bool
	}
	// Candidates answers Ready.Seek, best first.
	Candidates struct{ Hosts []resolver.Host }
	// Captured answers Ready.Snapshots: snapshot ID of the state at Index can be fetched; ID 0: it failed.
	Captured struct {
		To           resolver.Host
		ID           uint64
		Index, Epoch uint64
		Time         int64
	}
	// Restored answers Ready.Fetch with its ID and From: the state at Index is in place, or not.
	Restored struct {
		ID   uint64
		From resolver.Host
		OK   bool
		Time int64
	}
	// Handoff asks to move to Target.
	Handoff struct{ Target resolver.Host }
	// Transfer goes on with a handoff after MoveInSync.
	Transfer struct{}
	// Abandon gives up a handoff that has not reached Transfer.
	Abandon struct{ Reason string }
	// PeerDown hints that a host's process is gone: its address refuses connections.
	PeerDown struct{ Host resolver.Host }
	// PeerReset says that messages to a host may have been lost.
	PeerReset struct{ Host resolver.Host }
	// Read asks for leave to answer a read: see Ready.Reads.
	Read struct{ ID uint64 }
	// Leave asks to be taken out of the in-sync set. Invitations are refused from now on.
	Leave struct{}
	// Doubt hints that a higher term may exist; it is worth a look at the record, no more.
	CheckRecord struct{}
	// Stay takes Leave back: the next invitation is followed.
	CancelLeave struct{}
	// Retire ends the service: for an active host with no one to hand over to.
	Retire struct{}
	// Reset makes this host active with the copy it has, or an empty one, at the price of a higher Loss, unless the record
	// has changed since it was Record: the zero one if the resolver has lost it, which a Reset of the active host repairs. At
	// is the time by the host's wall clock, which then tells it from other resets that this host does not know of.
	Reset struct {
		Record resolver.Record
		At     int64 // Unix milliseconds
	}
	// CancelReset gives up a Reset. It may have been made all the same.
	CancelReset struct{}
	// Recovered comes before all else on a host with a store that holds something. Time is the log's at State.Base.
	Recovered struct {
		State State
		Time  int64
	}
	// Persisted says that the store holds everything up to a Save.
	Persisted struct{ Seq uint64 }
)

func (Tick) event()        {}
func (Recv) event()        {}
func (Create) event()      {}
func (CASDone) event()     {}
func (Got) event()         {}
func (Candidates) event()  {}
func (Captured) event()    {}
func (Restored) event()    {}
func (Handoff) event()     {}
func (Transfer) event()    {}
func (Abandon) event()     {}
func (PeerDown) event()    {}
func (PeerReset) event()   {}
func (Read) event()        {}
func (Leave) event()       {}
func (CheckRecord) event() {}
func (CancelLeave) event() {}
func (Retire) event()      {}
func (Reset) event()       {}
func (CancelReset) event() {}
func (Recovered) event()   {}
func (Persisted) event()   {}

// Step takes an event at time now, which is counted from an arbitrary start and never goes back.
func (c *Core) Step(now time.Duration, ev Event) {
	if c.err != nil {
		return
	}
	defer c.stop()
	c.setNow(now)
	switch ev := ev.(type) {
	case Tick:
	case Recv:
		c.recv(ev.Msg)
	case Create:
		c.proposeCreate()
	case CASDone:
		c.casDone(ev)
	case Got:
		c.got(ev)
	case Candidates:
		c.candidates(ev.Hosts)
	case Captured:
		c.captured(ev)
	case Restored:
		c.restored(ev)
	case Handoff:
		c.handoff(ev.Target)
	case Transfer:
		c.transfer()
	case Abandon:
		if m := c.active.move; m != nil && m.stage != moveTransferring {
			c.failMove(ev.Reason)
		}
	case PeerDown:
		c.peerDown(ev.Host)
	case PeerReset:
		if p := c.peer(ev.Host); p != nil {
			c.out.Resent += p.rewind()
		}
	case Read:
		c.read(ev.ID)
	case Leave:
		c.leave()
	case CheckRecord:
		c.get()
	case CancelLeave:
		c.standby.leaving = false
	case Retire:
		c.proposeRetire()
	case Reset:
		c.learn(ev.Record)
		c.proposeReset(ev.Record, ev.At)
	case CancelReset:
		c.cancelReset()
	case Recovered:
		c.recovered(ev)
	case Persisted:
		c.persisted(ev.Seq)
	}
}

func (c *Core) setNow(now time.Duration) {
	c.assert(now >= c.now, "time went back")
	c.now = now
}

// Ready does what has become due, and returns and forgets what is to be done. Slices in it stay valid.
func (c *Core) Ready() (r Ready) {
	if c.err != nil {
		return Ready{}
	}
	defer c.stop()
	if c.role.Active() {
		c.tickActive()
	} else {
		c.tickStandby()
	}
	c.tickRecord()
	if c.role.Active() {
		c.sendAppends()
	} else {
		c.sendAck()
	}
	// What an active host applies its clients hear of, in a term that it must not forget.
	if c.emitted < c.commit && (c.role != Recovering || c.metaDurable()) {
		if fresh := c.log.slice(c.emitted+1, c.commit); c.out.Committed == nil {
			c.out.Committed = fresh
		} else {
			c.out.Committed = append(c.out.Committed, fresh...)
		}
		c.emitted = c.commit
	}
	c.save()
	c.trimLog()
	r, c.out = c.out, Ready{}
	return r
}

// Deadline is when Ready must be called next even if nothing happens; 0: never.
func (c *Core) Deadline() time.Duration {
	if c.err != nil {
		return 0
	}
	var d time.Duration
	at := func(t time.Duration) {
		// What was due has been done by Ready; what could not be done is looked at with the next heartbeat.
		if t > c.now && (d == 0 || t < d) {
			d = t
		}
	}
	if c.role.Active() {
		c.deadlineActive(at)
	} else {
		c.deadlineStandby(at)
	}
	if c.prop != nil && !c.prop.inFlight {
		at(c.prop.retryAt)
	}
	if !c.getting {
		at(c.getAt)
	}
	return d
}

func (c *Core) send(to resolver.Host, m Msg) {
	m.From, m.Term = c.self, c.term
	c.out.Msgs = append(c.out.Msgs, Outgoing{to, m})
}

func (c *Core) setRole(r Role) {
	if c.role != r {
		c.role = r
		c.out.Changed = true
	}
}

// release drops the copy.
func (c *Core) release() {
	if c.hasState {
		c.out.Drop = true
	}
	c.hasState = false
	c.rebase(0, 0)
	c.commit, c.emitted, c.lastTime = 0, 0, 0
	c.standby = standbyState{leaving: c.standby.leaving}
	c.out.Fetch = nil
	c.setRole(Out)
}

func (c *Core) trimLog() {
	if !c.hasState || c.log.base >= c.commit {
		return
	}
	hold := c.emitted
	for _, p := range c.active.peers {
		hold = min(hold, p.trimLimit())
	}
	for c.log.base < hold && c.log.bytes > c.cfg.KeepBytes {
		// Halve what is over, so that the cost of trimming is shared by many entries.
		n, bytes := c.log.base, c.log.bytes
		for n < hold && bytes > c.cfg.KeepBytes/2 {
			n++
			bytes -= c.log.ents[n-c.log.base-1].Size()
		}
		c.log.trim(n)
	}
}

func member(hosts []resolver.Host, h resolver.Host) bool {
	return slices.ContainsFunc(hosts, h.Same)
}
