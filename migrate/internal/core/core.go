package core

import (
	"slices"
	"time"

	"github.com/roam-go/roam/resolver"
)

// Config holds the settings of a [Core], which never change. Times and sizes that are 0 get the default named beside them.
type Config struct {
	Name string
	// Durable: the host has a store, so that what Ready.Save holds survives a restart with the same incarnation.
	Durable bool
	// NoProbes: the active host measures no round trips, for tests that count rounds.
	NoProbes bool
	// Nonce precedes the nonces of proposals. Starts with the same incarnation need different ones.
	Nonce uint64
	// Start is the host's wall-clock time at the start of the time that Step takes, in Unix milliseconds. It distinguishes far
	// terms of a host that has gone back to an old store. 0: no host goes back.
	Start int64

	Heartbeat       time.Duration // interval of the active host's heartbeats: 100 ms
	FailureTimeout  time.Duration // after this silence a near member is removed, a near active host replaced: 500 ms
	RankDelay       time.Duration // each standby waits this much longer than the one before it in rank: 50 ms
	TransferTimeout time.Duration // a transfer fails after this time: 900 ms
	RetryDelay      time.Duration // pause before the second request to the resolver: 50 ms; it doubles up to 16 times that
	JoinTimeout     time.Duration // a joining host is dropped after this silence: 2 s
	SeekInterval    time.Duration // interval between searches for standbys while there are too few: 500 ms
	// CheckInterval is the interval at which an active host with standbys checks that the resolver still has the record: 3 s.
	// One without sends nothing when it is idle, and waits for CheckRecord.
	CheckInterval time.Duration
	CopyRetention time.Duration // how long a removed host keeps its copy, so that it can rejoin cheaply: 5 s

	Standbys   int    // wanted number of standbys
	MinInSync  int    // above 1: the in-sync set never shrinks below it, and commands wait until so many hosts hold them
	MaxJoinLag uint64 // a joining host is proposed for the in-sync set when it lacks fewer entries than this: 1,000

	AppendBytes   int // entries in one message: 256 KiB
	InflightBytes int // unacknowledged entries sent to one host: 1 MiB
	KeepBytes     int // committed entries kept for hosts that come back: 4 MiB
	LogBytes      int // the whole log; when it is full, joining hosts that keep it from being trimmed are dropped: 256 MiB
	LagBytes      int // a member that lacks more than this is removed: 32 MiB

	// MaxUnapplied bounds the entries that wait to be applied: the active host orders no more, and a standby accepts no more
	// than four times as many: 16,384.
	MaxUnapplied uint64
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
	def(&c.TransferTimeout, 900*time.Millisecond) // so that the caller gets an answer within a second
	def(&c.RetryDelay, 50*time.Millisecond)
	def(&c.JoinTimeout, 2*time.Second)
	def(&c.SeekInterval, 500*time.Millisecond)
	def(&c.CheckInterval, 3*time.Second)
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
	if c.MaxUnapplied == 0 {
		c.MaxUnapplied = 16384
	}
	// Leave room for uncommitted entries.
	c.KeepBytes = min(c.KeepBytes, c.LogBytes/2)
}

// Role is the role of a host for a service.
type Role uint8

// The roles.
const (
	Out        Role = iota // latent: its copy, if any, does not count
	Joining                // fetches a copy or catches up
	Standby                // in the in-sync set
	Recovering             // active; its epoch's first entry is not committed yet
	Serving                // active
)

func (r Role) String() string {
	return [...]string{"out", "joining", "standby", "recovering", "serving"}[r]
}

// Active reports whether the role orders commands.
func (r Role) Active() bool { return r == Recovering || r == Serving }

// Outgoing is a message to send.
type Outgoing struct {
	To  resolver.Host
	Msg Msg
}

// CAS is a change to propose to the resolver. The driver answers with a [CASDone] that has the same Nonce.
type CAS struct {
	Expect uint64
	Next   resolver.Record
}

// Ready is the work for the driver: send Msgs first, then apply Committed, then do the rest in any order.
type Ready struct {
	Msgs      []Outgoing
	Save      *Save // answer with [Persisted] when the store holds it
	Committed []Entry
	CAS       *CAS
	Ask       []resolver.Host // ask these hosts what they know; answer with [Answers]; nil: none
	Snapshots []resolver.Host // capture the state as of the last committed entry for these hosts; answer with [Captured]
	Fetch     *Fetch          // fetch and restore a snapshot; answer with [Restored]
	Reads     []uint64        // the reads to answer now
	Resent    uint64          // number of entries sent again
	Reports   []error         // what users should know: [Difference], [JoinDelay], [Superseded], [RestoreRefused], [Misconduct]
	Get       bool            // read the record; answer with [Got]
	Seek      bool            // look for hosts that could join; answer with [Candidates]
	ReadsFail bool            // all other pending reads fail here; their callers must ask another host
	Drop      bool            // release the copy
	Activated bool            // this host became active; Tail returns the entries it inherited
	Deposed   bool            // this host was active and is no longer
	Changed   bool            // role, term or record changed
	Moves     []MoveEvent     // progress of a handoff that this host began
	Gained    *resolver.Host  // this host took over in a handoff from that one
}

// Fetch identifies a snapshot and the host that has it.
type Fetch struct {
	From         resolver.Host
	ID           uint64
	Index, Epoch uint64
}

// MoveStage is the progress of a handoff.
type MoveStage uint8

// The stages of a handoff.
const (
	MoveInSync MoveStage = iota + 1 // the target is in the in-sync set: notify the clients, then step [Transfer]
	MoveTaken                       // the target has taken over
	MoveServed                      // the target serves; Won and Served are set
	MoveFailed                      // the handoff failed for Reason; this host keeps serving
)

// MoveEvent reports the progress of a handoff.
type MoveEvent struct {
	Stage       MoveStage
	Reason      string
	Won, Served time.Duration // from the request to the target's win, and from there to serving
	Applying    time.Duration // the part of Served in which the target applied committed entries
}

// Core is the state of one service on one host. It is not safe for concurrent use.
type Core struct {
	cfg  Config
	self resolver.Host
	now  time.Duration

	role      Role
	hasState  bool // the host holds a copy; log and commit mean nothing without one
	names     names
	leader    trip // that to the active host, or to the last one that was another host; an estimate from below
	term      Term
	rec       resolver.Record // the newest known
	proposed  []resolver.Host // may be in its in-sync set, too: this host has proposed them
	loss      uint64          // Term.Loss of the copy
	tried     Term            // the last term that this host has proposed to be active in, since it started
	freshTerm Term            // the term that this host may begin with an empty copy
	log       log
	commit    uint64
	emitted   uint64 // last committed entry that Ready has returned
	applied   uint64 // last entry that the service has applied
	lastTime  int64  // Time of the last entry

	prop         *proposal
	proposeAfter time.Duration // no proposal before this time, after one that failed
	getAt        time.Duration // when to read the record; 0: not wanted
	getAfter     time.Duration // no read of the record before this time
	asked        *reading      // the read of the record that is in flight; nil: none
	firstStamp   time.Duration // see stamp
	waiting      *Msg          // an invitation or a transfer that waits for a record
	recovery     *recovery     // nil: there was no reason to recover a record
	differences  []Difference  // the known policies of other hosts that differ from this host's

	active  activeState
	standby standbyState
	saving  *saving // nil: the host has no store

	out Ready
	err *Violation // see Err
}

// New returns the core of a service on host self, which holds no copy.
func New(self resolver.Host, cfg Config) *Core {
	cfg.setDefaults()
	c := &Core{cfg: cfg, self: self, firstStamp: firstStamp(cfg.Nonce)}
	if cfg.Durable {
		c.saving = new(saving)
	}
	return c
}

// Role is the present role of this host.
func (c *Core) Role() Role { return c.role }

// Self is this host.
func (c *Core) Self() resolver.Host { return c.self }

// Term is the highest term that this host has seen.
func (c *Core) Term() Term { return c.term }

// Record is the newest record that this host has seen; its Version is 0 if there is none.
func (c *Core) Record() resolver.Record { return c.rec }

// LastTime is the time of the last entry of the log.
func (c *Core) LastTime() int64 { return c.lastTime }

// Commit is the index of the last committed entry.
func (c *Core) Commit() uint64 { return c.commit }

// Last is the index of the last entry.
func (c *Core) Last() uint64 { return c.log.last() }

// HasState reports whether this host holds a copy.
func (c *Core) HasState() bool { return c.hasState }

// Tail returns the entries after index, in order: those that a service has yet to apply if index is the last that it
// applied. If the log no longer has the first of them, Tail returns nil and stops the core: see [Core.Err].
func (c *Core) Tail(index uint64) []Entry {
	if c.err != nil {
		return nil
	}
	defer c.stop()
	c.assert(index >= c.log.base, "the entries after %d are requested, the log begins after %d", index, c.log.base)
	return c.log.slice(index+1, c.log.last())
}

// Event is an input of [Core.Step]: one of the types below.
type Event interface{ event() }

// The events.
type (
	// Tick reports that time has passed.
	Tick struct{}
	// Recv is a message from another host.
	Recv struct{ Msg Msg }
	// Create asks to create the record, with this host active and an empty state. At is the host's wall-clock time in Unix
	// milliseconds, which distinguishes this beginning of the service from others that the resolver may have forgotten; 0: the
	// resolver never forgets.
	Create struct{ At int64 }
	// CASDone answers Ready.CAS.
	CASDone struct {
		Nonce   uint64
		Record  resolver.Record // for CASOK and CASConflict
		Outcome Outcome
		Err     error // for CASRefused
	}
	// Got answers Ready.Get. Record is zero if there is none; Err is true if the resolver did not answer.
	Got struct {
		Record resolver.Record
		Err    bool
	}
	// Told is a record that the caller has read earlier: it is not the answer to Ready.Get.
	Told struct{ Record resolver.Record }
	// Answers answers Ready.Ask, once all hosts have answered or had the time to.
	Answers struct{ Answers []Answer }
	// Candidates answers Ready.Seek, best first.
	Candidates struct{ Hosts []resolver.Host }
	// Captured answers Ready.Snapshots: host To can fetch snapshot ID, of the state at Index. ID 0 reports a failure.
	Captured struct {
		To           resolver.Host
		ID           uint64
		Index, Epoch uint64
		Time         int64
	}
	// Restored answers Ready.Fetch with its ID and From. OK reports whether the fetched state is in place.
	Restored struct {
		ID   uint64
		From resolver.Host
		OK   bool
		Time int64
	}
	// Handoff asks to hand the service over to Target.
	Handoff struct{ Target resolver.Host }
	// Transfer continues a handoff after MoveInSync.
	Transfer struct{}
	// Abandon gives up a handoff that has not reached Transfer.
	Abandon struct{ Reason string }
	// PeerDown hints that a host's process is gone: its address refuses connections.
	PeerDown struct{ Host resolver.Host }
	// PeerReset reports that messages to a host may have been lost.
	PeerReset struct{ Host resolver.Host }
	// Read asks for permission to answer a read: see Ready.Reads.
	Read struct{ ID uint64 }
	// Leave asks to leave the in-sync set. From then on this host declines invitations.
	Leave struct{}
	// CheckRecord hints that a higher term may exist: the core reads the record.
	CheckRecord struct{}
	// CancelLeave takes Leave back: this host accepts the next invitation.
	CancelLeave struct{}
	// Retire ends the service, on an active host that is the only member.
	Retire struct{}
	// Reset makes this host active with the copy it has, or an empty one, and raises Loss. It has no effect if the record is
	// no longer Record; the zero Record means that the resolver has lost it, which a Reset of the active host repairs. At is
	// the host's wall-clock time, which then distinguishes this reset from others that this host does not know.
	Reset struct {
		Record resolver.Record
		At     int64 // Unix milliseconds
	}
	// CancelReset gives up a Reset, which may have taken effect already.
	CancelReset struct{}
	// Recovered is the first event on a host whose store holds something. Time is the Time of the entry at State.Base.
	Recovered struct {
		State State
		Time  int64
	}
	// Persisted reports that the store holds every Save up to Seq.
	Persisted struct{ Seq uint64 }
)

func (Tick) event()        {}
func (Recv) event()        {}
func (Create) event()      {}
func (CASDone) event()     {}
func (Got) event()         {}
func (Told) event()        {}
func (Candidates) event()  {}
func (Answers) event()     {}
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

// Step handles an event at time now, which counts from an arbitrary start and never goes back.
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
		c.proposeCreate(ev.At)
	case CASDone:
		c.casDone(ev)
	case Got:
		c.got(ev)
	case Told:
		c.learn(ev.Record)
		c.recvWaiting()
	case Answers:
		c.answered(ev.Answers)
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
			p.probe.round, p.probe.next = 0, 0 // its message may be lost
			if p.stage == invited {
				p.lastAck = c.now // it is there: from now on it has the time to answer
			}
			if p.member {
				c.sendRecord(p.host, MsgRecord) // it may have missed the last one, with this host's policy
			}
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

// Ready handles what has become due and returns the work since the last call. Its slices stay valid.
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
	// Clients see what an active host applies, so the store must hold its term first.
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

// Deadline is the time of the next call of Ready if no event comes before; 0 means that none is needed.
func (c *Core) Deadline() time.Duration {
	if c.err != nil {
		return 0
	}
	var d time.Duration
	at := func(t time.Duration) {
		// Ready has done what was due. What it could not do waits for the next heartbeat.
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
	if c.asked == nil {
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
	c.commit, c.emitted, c.applied, c.lastTime = 0, 0, 0, 0
	c.standby = standbyState{leaving: c.standby.leaving}
	c.out.Fetch = nil
	c.setRole(Out)
}

func (c *Core) trimLog() {
	if !c.hasState || c.log.base >= c.commit {
		return
	}
	hold := c.applied
	for _, p := range c.active.peers {
		hold = min(hold, p.trimLimit())
	}
	for c.log.base < hold && c.log.bytes > c.cfg.KeepBytes {
		// Trim to half of KeepBytes, so that many entries share the cost of trimming.
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
