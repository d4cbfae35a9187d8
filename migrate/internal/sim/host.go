package sim

import (
	"fmt"
	"time"

	"github.com/roam-go/roam/migrate/internal/apply"
	"github.com/roam-go/roam/migrate/internal/core"
	"github.com/roam-go/roam/migrate/internal/replica"
	"github.com/roam-go/roam/resolver"
)

// host is a machine on which processes are started one after the other.
type host struct {
	w      *world
	index  int
	id     string
	starts uint64
	wall   int64 // how far its wall clock is off, in ms
	blind  bool  // it can't reach the resolver
	disk   *disk // nil: it has none, and each start is another incarnation
	moves  bool  // each start is at another address
	proc   *proc // nil while none runs
	last   resolver.Host
}

func newHost(w *world, i int) *host {
	h := &host{w: w, index: i, id: string(rune('a' + i))}
	if w.prof.clocks {
		h.wall = w.rng.Int64N(7_200_000) - 3_600_000
	}
	if w.chance(w.prof.disks) {
		h.disk, h.moves = new(disk), w.chance(0.5)
	}
	return h
}

// proc is one process: it drives a replica, for which it is the [replica.Env].
type proc struct {
	w       *world
	host    *host
	self    resolver.Host
	replica *replica.Replica
	core    *core.Core // of replica, to look at
	loss    uint64     // of the copy that is here
	dead    bool
	born    time.Duration
	origin  time.Duration
	rate    int64 // of its clock, in 1/1024

	stepped time.Duration // the time that the core was given last

	paused   bool
	pauseEnd time.Duration
	inbox    []func()
	settling bool          // Settle is to be called later
	tickAt   time.Duration // when the timer goes off; 0: not set

	starting []*apply.Applier // Start was called for them
	mail     []func()         // posted by appliers
	mailDue  bool             // mail is to be delivered later
	stuck    bool             // the service does not return

	waiting map[[2]uint64][]*request
	opening map[uint64][]*request
	reads   map[uint64]*request
	readID  uint64
	seen    map[uint64]time.Duration // when a session was last heard, by the local clock
	since   time.Duration            // when this host became active, by the local clock

	snapID     uint64
	snaps      map[uint64]snapshot
	fetch      *core.Fetch
	fetchDone  func()        // ends fetch
	fetched    snapshot      // was restored last
	askedAt    time.Duration // when it last asked other hosts
	near       map[int]bool  // those that it reached then
	compacting bool          // a copy for the disk is being captured

	moving  bool // a handoff has no outcome yet
	leaving bool

	watch watch
}

// start starts a process on h.
func (h *host) start() {
	w := h.w
	h.starts++
	p := &proc{
		w: w, host: h, self: resolver.Host{ID: h.id, Incarnation: uint64(h.index+1)*1000 + h.starts, Addr: h.id},
		born: w.now, origin: w.between(0, time.Hour), rate: 1024,
		waiting: make(map[[2]uint64][]*request), opening: make(map[uint64][]*request), reads: make(map[uint64]*request),
		seen: make(map[uint64]time.Duration), snaps: make(map[uint64]snapshot),
	}
	if w.chance(0.2) {
		p.origin = 0
	}
	if h.disk != nil {
		p.self.Incarnation, p.snapID = uint64(h.index+1)*1000+1, h.starts<<32
		if h.moves {
			p.self.Addr = fmt.Sprintf("%s:%d", h.id, h.starts)
		}
		if w.chance(w.prof.wipe) && !w.healed {
			w.tracef("the directory of %s is gone", p.name())
			h.disk = new(disk)
			w.wiped = true
			w.chk.wiped(p)
		}
	}
	if d := w.prof.drift; d > 0 {
		p.rate = int64(1024 * (1 + d*(2*w.rng.Float64()-1)))
	}
	cfg := w.prof.cfg
	cfg.Name, cfg.Durable, cfg.Nonce = service, h.disk != nil, uint64(w.rng.Uint32())
	cfg.Start = p.Wall() - int64(p.Now()/time.Millisecond)
	p.core = core.New(p.self, cfg)
	p.replica = replica.New(p, p.core)
	h.proc, h.last = p, p.self
	w.tracef("%s starts", p.name())
	if h.disk != nil {
		p.recover()
	}
	p.flush()
}

func (h *host) crash() {
	p := h.proc
	if p == nil {
		return
	}
	w := h.w
	w.stats.Crashes++
	w.tracef("%s crashes", p.name())
	p.exit()
	d := w.exp(time.Second)
	if w.chance(0.3) {
		d = w.exp(50 * time.Millisecond)
	}
	w.after(d, func() {
		if h.proc == nil {
			h.start()
		}
	})
}

// exit ends the process.
func (p *proc) exit() {
	w := p.w
	p.dead, p.host.proc = true, nil
	p.replica.Stop()
	if d := p.host.disk; d != nil {
		d.crash(p)
	}
	for _, o := range w.hosts {
		if q := o.proc; q != nil && w.chance(w.prof.hint) {
			w.after(w.exp(30*time.Millisecond), func() { q.event(core.PeerDown{Host: p.self}) })
		}
	}
	for _, c := range w.clients {
		if c.conn != nil && c.conn.proc == p {
			c.conn.reset()
		}
	}
}

func (p *proc) name() string { return label(p.self) }

func (p *proc) local() time.Duration {
	return p.origin + time.Duration(int64(p.w.now-p.born)*p.rate/1024)
}

// global is the first moment at which the local clock shows t.
func (p *proc) global(t time.Duration) time.Duration {
	return p.born + time.Duration((int64(t-p.origin)*1024+p.rate-1)/p.rate)
}

// do runs f when the process runs.
func (p *proc) do(f func()) {
	switch {
	case p.dead:
	case p.paused:
		p.inbox = append(p.inbox, f)
	default:
		f()
	}
}

func (p *proc) pause(d time.Duration) {
	w := p.w
	w.stats.Pauses++
	w.tracef("%s is paused for %v", p.name(), d)
	p.paused = true
	p.pauseEnd = max(p.pauseEnd, w.now+d)
	w.after(d, func() {
		if w.now >= p.pauseEnd {
			p.resume()
		}
	})
}

func (p *proc) resume() {
	if !p.paused || p.dead {
		return
	}
	p.w.tracef("%s goes on", p.name())
	p.paused = false
	inbox := p.inbox
	p.inbox = nil
	for _, f := range inbox {
		p.do(f)
	}
}

// handoff asks for a move.
func (p *proc) handoff(to resolver.Host) {
	p.do(func() {
		if p.moving {
			return
		}
		p.w.stats.Handoffs++
		p.w.tracef("%s is to hand over to %s", p.name(), label(to))
		p.moving = true
		p.replica.Step(core.Handoff{Target: to})
		p.kick()
	})
}

// leave shuts the process down in order, and starts another one later.
func (p *proc) leave() {
	w := p.w
	if p.leaving {
		return
	}
	p.leaving = true
	w.tracef("%s is to leave", p.name())
	deadline := w.now + 5*time.Second
	var step func()
	step = func() {
		p.do(func() {
			switch {
			case p.core.Role() == core.Out && !p.core.HasState(), w.now >= deadline:
				w.tracef("%s leaves", p.name())
				h := p.host
				p.exit()
				w.after(w.exp(time.Second), func() {
					if h.proc == nil {
						h.start()
					}
				})
				return
			case p.core.Role().Active():
				if t := w.anyHost(); !p.moving && t.proc != nil {
					p.handoff(t.proc.self)
				}
			default:
				p.replica.Step(core.Leave{})
				p.kick()
			}
			w.after(200*time.Millisecond, step)
		})
	}
	step()
}

func (p *proc) String() string {
	return fmt.Sprintf("%s %s %s commit %d last %d", p.name(), p.core.Role(), p.core.Term(), p.core.Commit(), p.core.Last())
}
