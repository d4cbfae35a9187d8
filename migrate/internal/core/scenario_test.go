package core

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roam-go/roam/resolver"
)

var update = flag.Bool("update", false, "TestScenarios: write the output into the files of testdata")

// TestScenarios plays the files of testdata: commands, then "----", then their output. See scenario.exec for the commands.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			got := playScenario(t, string(text))
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
				return
			}
			require.Equal(t, string(text), got, "run with -update to accept")
		})
	}
}

// playScenario returns text with the present output of each block of commands.
func playScenario(t *testing.T, text string) string {
	s := &scenario{
		t: t, lat: time.Millisecond, hosts: make(map[string]*scenarioHost), cut: make(map[string]bool),
		slow: make(map[string]time.Duration), committed: make(map[uint64][]Entry),
	}
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n\n") {
		commands, _, _ := strings.Cut(block, "\n----")
		out.WriteString(commands)
		s.out.Reset()
		run := false
		for line := range strings.SplitSeq(commands, "\n") {
			if line != "" && !strings.HasPrefix(line, "#") {
				run = true
				s.exec(strings.Fields(line))
			}
		}
		if run {
			out.WriteString("\n----\n")
			out.WriteString(cmpOr(s.out.String(), "nothing\n"))
		} else {
			out.WriteString("\n")
		}
		out.WriteString("\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// scenario is a small deterministic world: each message takes a millisecond, a snapshot ten.
type scenario struct {
	t     *testing.T
	out   strings.Builder
	now   time.Duration
	lat   time.Duration
	names []string
	hosts map[string]*scenarioHost
	cfg   Config
	queue []scenarioEvent
	n     int

	rec       resolver.Record
	cut       map[string]bool // "a b": messages from a to b are lost
	slow      map[string]time.Duration
	loseReply string // the next answer to a change of this host will be lost
	loseCAS   string // the next change of this host will be lost
	dieOn     map[string]string
	quiet     bool

	committed map[uint64][]Entry // by loss
}

type scenarioEvent struct {
	at time.Duration
	n  int
	fn func()
}

type scenarioHost struct {
	s     *scenario
	self  resolver.Host
	core  *Core
	up    bool
	inc   uint64
	role  Role
	term  Term
	snaps map[uint64]Captured
	reads uint64
	disk  State // with stores
	held  bool  // disk holds something

	halted, suspended bool

	slow time.Duration // how long its service takes to apply the entries of one Ready
	busy time.Duration // when the service has applied all entries
}

func (s *scenario) printf(format string, args ...any) {
	fmt.Fprintf(&s.out, "%8s  %s\n", s.now.Round(time.Millisecond), fmt.Sprintf(format, args...))
}

func (s *scenario) after(d time.Duration, fn func()) {
	s.n++
	s.queue = append(s.queue, scenarioEvent{s.now + d, s.n, fn})
}

// exec executes a command:
//
//	hosts a b c standbys=1 …    start hosts; store=1: their stores survive a crash and take a millisecond to write
//	create a                    create the service
//	propose a 3                 order this many commands
//	poison a                    order a command that kills each host that applies it
//	read a                      request a read
//	run 500ms                   let time pass
//	state                       print the state of each host
//	handoff a b                 begin a handoff, which then runs to its end
//	leave b | retire a | reset b
//	crash a | start a           end and start a process
//	cut a b | cut a resolver    stop messages, both ways; also: cut a > b
//	slow a b 2s                 messages with entries take this long from a to b; heartbeats do not
//	heal                        end all cuts and delays
//	lose-answer a | lose-change a   lose the next change that the host proposes, or its answer
//	die b on transfer | taken       crash at the request to take over, or after the change and before its answer
//	quiet | loud                omit, or show, messages without news
func (s *scenario) exec(args []string) {
	host := func(i int) *scenarioHost {
		h := s.hosts[args[i]]
		require.NotNil(s.t, h, "%v: no such host", args)
		return h
	}
	switch args[0] {
	case "hosts":
		s.dieOn = make(map[string]string)
		s.quiet = true
		s.cfg.NoProbes = true // the numbers of rounds are those of reads
		for _, a := range args[1:] {
			if k, v, ok := strings.Cut(a, "="); ok {
				n, err := strconv.Atoi(v)
				require.NoError(s.t, err)
				switch k {
				case "standbys":
					s.cfg.Standbys = n
				case "keep":
					s.cfg.KeepBytes = n
				case "min":
					s.cfg.MinInSync = n
				case "store":
					s.cfg.Durable = n > 0
				default:
					s.t.Fatalf("unknown setting %s", k)
				}
				continue
			}
			s.names = append(s.names, a)
			s.hosts[a] = &scenarioHost{s: s}
		}
		for _, a := range s.names {
			s.start(a)
		}
	case "create":
		host(1).step(Create{})
	case "propose":
		h := host(1)
		n, err := strconv.Atoi(args[2])
		require.NoError(s.t, err)
		for range n {
			e, ok := h.core.Propose(s.now, Entry{Kind: Command, Session: 1, Body: []byte("x")})
			if !ok {
				s.printf("%s: refused", args[1])
			} else {
				s.printf("%s: orders entry %d", args[1], e.Index)
			}
		}
		h.ready()
	case "poison":
		h := host(1)
		e, ok := h.core.Propose(s.now, Entry{Kind: Command, Session: 1, Body: []byte("poison")})
		require.True(s.t, ok)
		s.printf("%s: orders entry %d", args[1], e.Index)
		h.ready()
	case "read":
		h := host(1)
		h.reads++
		h.step(Read{ID: h.reads})
	case "run":
		d, err := time.ParseDuration(args[1])
		require.NoError(s.t, err)
		s.run(s.now + d)
	case "state":
		for _, a := range s.names {
			h := s.hosts[a]
			if !h.up {
				s.printf("%s: down", a)
				continue
			}
			s.printf("%s: %s %s, commit %d of %d, knows %s",
				a, h.core.Role(), h.core.Term(), h.core.Commit(), h.core.Last(), Describe(h.core.Record()))
		}
		s.printf("resolver: %s", Describe(s.rec))
	case "handoff":
		host(1).step(Handoff{Target: host(2).self})
	case "leave":
		host(1).step(Leave{})
	case "retire":
		host(1).step(Retire{})
	case "reset":
		host(1).step(Reset{Record: s.rec})
	case "crash":
		s.crash(args[1])
	case "start":
		s.start(args[1])
	case "cut":
		if args[2] == ">" {
			s.cut[args[1]+" "+args[3]] = true
			return
		}
		s.cut[args[1]+" "+args[2]], s.cut[args[2]+" "+args[1]] = true, true
	case "slow":
		d, err := time.ParseDuration(args[3])
		require.NoError(s.t, err)
		s.slow[args[1]+" "+args[2]] = d
	case "slow-apply":
		d, err := time.ParseDuration(args[2])
		require.NoError(s.t, err)
		host(1).slow = d
	case "heal":
		clear(s.cut)
		clear(s.slow)
	case "lose-answer":
		s.loseReply = args[1]
	case "lose-change":
		s.loseCAS = args[1]
	case "die":
		s.dieOn[args[1]] = args[3]
	case "quiet", "loud":
		s.quiet = args[0] == "quiet"
	default:
		s.t.Fatalf("unknown command %v", args)
	}
}

// run lets the world run until end.
func (s *scenario) run(end time.Duration) {
	for {
		next := scenarioEvent{at: end + 1}
		at := -1
		for i, e := range s.queue {
			if e.at < next.at || e.at == next.at && e.n < next.n {
				next, at = e, i
			}
		}
		var due *scenarioHost
		for _, a := range s.names {
			h := s.hosts[a]
			if d := h.core.Deadline(); h.up && d > 0 && d < next.at && d <= end {
				next, due = scenarioEvent{at: d}, h
			}
		}
		if due != nil {
			s.now = max(s.now, next.at)
			due.step(Tick{})
			continue
		}
		if at < 0 || next.at > end {
			s.now = end
			return
		}
		s.queue = slices.Delete(s.queue, at, at+1)
		s.now = max(s.now, next.at)
		next.fn()
	}
}

func (s *scenario) start(a string) {
	h := s.hosts[a]
	again := h.inc > 0
	if h.inc == 0 || !s.cfg.Durable {
		h.inc++
	}
	inc := uint64(slices.Index(s.names, a)+1)*1000 + h.inc // differs between hosts
	h.self = resolver.Host{ID: a, Incarnation: inc, Addr: a}
	cfg := s.cfg
	cfg.Name = "svc"
	h.core, h.up, h.role, h.term, h.snaps = New(h.self, cfg), true, Out, Term{}, make(map[uint64]Captured)
	h.halted, h.suspended = false, false
	if again {
		s.printf("%s starts anew", a)
	}
	if h.held {
		h.core.Step(s.now, Recovered{State: h.disk})
	}
	h.ready()
}

// save makes the store hold v a little later, if the process lives until then.
func (h *scenarioHost) save(v Save) {
	c := h.core
	h.s.after(h.s.lat, func() {
		if !h.up || h.core != c {
			return
		}
		require.NoError(h.s.t, h.disk.Apply(v))
		h.held = true
		h.step(Persisted{Seq: v.Seq})
	})
}

func (s *scenario) crash(a string) {
	h := s.hosts[a]
	if !h.up {
		return
	}
	h.up = false
	s.printf("%s crashes", a)
}

func (h *scenarioHost) step(ev Event) {
	if !h.up {
		return
	}
	h.core.Step(h.s.now, ev)
	h.ready()
}

// reach calls fn after d unless messages from one to the other are cut then.
func (s *scenario) reach(from, to string, d time.Duration, fn func()) {
	s.after(d, func() {
		if !s.cut[from+" "+to] {
			fn()
		}
	})
}

func (h *scenarioHost) ready() {
	s, id := h.s, h.self.ID
	r := h.core.Ready()
	require.NoError(s.t, h.core.Err())
	if r.Drop {
		s.printf("%s: drops its copy", id)
	}
	if r.Save != nil {
		h.save(*r.Save)
	}
	if r.Deposed {
		s.printf("%s: is deposed", id)
	}
	for _, m := range r.Msgs {
		s.send(h, m)
	}
	for _, e := range r.Committed {
		if string(e.Body) == "poison" {
			s.printf("%s: applies entry %d", id, e.Index)
			s.crash(id)
			return
		}
		s.commit(h, e)
	}
	if n := len(r.Committed); n > 0 {
		s.printf("%s: applies %d-%d", id, r.Committed[0].Index, r.Committed[n-1].Index)
	}
	if h.core.Role() != h.role || h.core.Term() != h.term {
		h.role, h.term = h.core.Role(), h.core.Term()
		s.printf("%s: is %s in %s", id, h.role, h.term)
	}
	if h.core.Suspended() != h.suspended {
		h.suspended = !h.suspended
		s.printf("%s: %s", id, map[bool]string{true: "is suspended", false: "is no longer suspended"}[h.suspended])
	}
	if h.core.Halted() != h.halted {
		h.halted = !h.halted
		s.printf("%s: %s", id, map[bool]string{true: "halts", false: "is no longer halted"}[h.halted])
	}
	if r.CAS != nil {
		s.propose(h, *r.CAS)
	}
	if r.Get {
		s.printf("%s: reads the record", id)
		s.ask(h, func() resolver.Record { return s.rec }, func(rec resolver.Record, ok bool) {
			h.step(Got{Record: rec, Err: !ok})
		})
	}
	if r.Seek {
		var hosts []resolver.Host
		for _, a := range s.names {
			if o := s.hosts[a]; o.up && o != h {
				hosts = append(hosts, o.self)
			}
		}
		s.after(2*s.lat, func() { h.step(Candidates{Hosts: hosts}) })
	}
	if r.Ask != nil {
		s.printf("%s: asks the others", id)
		var answers []Answer
		for _, a := range s.names {
			if o := s.hosts[a]; o != h {
				s.reach(id, a, s.lat, func() {
					if o.up {
						got := o.core.Answer(h.core.self)
						s.reach(a, id, s.lat, func() { answers = append(answers, got) })
					}
				})
			}
		}
		s.after(3*s.lat, func() { h.step(Answers{answers}) })
	}
	for _, to := range r.Snapshots {
		ev := Captured{To: to, ID: uint64(len(h.snaps) + 1), Index: h.core.emitted}
		ev.Epoch, _ = h.core.EpochAt(ev.Index)
		h.snaps[ev.ID] = ev
		capture := func() {
			s.printf("%s: captures snapshot %d at %d", id, ev.ID, ev.Index)
			h.step(ev)
		}
		if h.busy > s.now { // after the entries before it are applied
			s.after(h.busy-s.now, capture)
		} else {
			capture()
		}
	}
	if f := r.Fetch; f != nil {
		s.printf("%s: fetches snapshot %d", id, f.ID)
		self := h.self
		s.after(10*s.lat, func() {
			src := s.hosts[f.From.ID]
			ok := src.up && src.self.Same(f.From) && !s.cut[f.From.ID+" "+id]
			if self.Same(h.self) {
				h.step(Restored{ID: f.ID, From: f.From, OK: ok})
			}
		})
	}
	for _, id := range r.Reads {
		s.printf("%s: may answer read %d, at %d", h.self.ID, id, h.core.Commit())
	}
	if r.ReadsFail {
		s.printf("%s: can't answer reads", id)
	}
	for _, e := range r.Moves {
		stage := [...]string{"", "is in sync", "has taken over", "serves", "failed: " + e.Reason}[e.Stage]
		if e.Stage == MoveServed {
			stage += fmt.Sprintf(", after %v and %v", e.Won.Round(time.Millisecond), e.Served.Round(time.Millisecond))
		}
		s.printf("%s: the move's target %s", id, stage)
		if e.Stage == MoveInSync {
			h.step(Transfer{})
		}
	}
	if n := len(r.Committed); n > 0 {
		h.applied(r.Committed[n-1].Index)
	}
	s.check()
}

// applied reports to the core that the service has applied all entries up to index, at once or after h.slow.
func (h *scenarioHost) applied(index uint64) {
	self, s := h.self, h.s
	note := func() {
		if h.up && h.self.Same(self) && index <= h.core.emitted {
			h.core.Applied(s.now, index)
			h.ready()
		}
	}
	if h.slow == 0 {
		note()
		return
	}
	h.busy = max(h.busy, s.now) + h.slow
	s.after(h.busy-s.now, func() {
		s.printf("%s: has applied %d", h.self.ID, index)
		note()
	})
}

func (s *scenario) send(h *scenarioHost, m Outgoing) {
	from, to := h.self.ID, m.To
	beat := m.Msg.Type == MsgAppend && len(m.Msg.Entries) == 0
	if !s.quiet || !beat && (m.Msg.Type != MsgAck || m.Msg.Flag || !s.known(h, m.Msg)) {
		lost := ""
		if s.cut[from+" "+to.ID] {
			lost = "  (lost)"
		}
		s.printf("%s -> %s: %s%s", from, to.ID, m.Msg, lost)
	}
	lat := s.lat
	if d := s.slow[from+" "+to.ID]; d > 0 && len(m.Msg.Entries) > 0 {
		lat = d
	}
	s.reach(from, to.ID, lat, func() {
		p := s.hosts[to.ID]
		if !p.up || !p.self.Same(to) {
			if h.up {
				h.step(PeerDown{Host: to})
			}
			return
		}
		if m.Msg.Type == MsgTransfer && s.dieOn[to.ID] == "transfer" {
			s.crash(to.ID)
			return
		}
		b, err := AppendMsg(nil, m.Msg)
		require.NoError(s.t, err)
		msg, err := ReadMsg(b)
		require.NoError(s.t, err)
		msg.From = h.self
		p.step(Recv{Msg: msg})
	})
}

// known reports whether an acknowledgement is not new to the active host.
func (s *scenario) known(h *scenarioHost, m Msg) bool {
	for _, o := range s.hosts {
		if o.up && o.core.Role().Active() && o.core.Term() == m.Term {
			p := o.core.peer(h.self)
			return p != nil && p.stage == streaming && m.Index <= p.match && (len(o.core.active.reads) == 0 || m.Round <= p.round)
		}
	}
	return false
}

// ask sends a request to the resolver and the answer back. Without an answer it fails after 500 ms.
func (s *scenario) ask(h *scenarioHost, exec func() resolver.Record, done func(resolver.Record, bool)) {
	id, self := h.self.ID, h.self
	answered := false
	answer := func(r resolver.Record, ok bool) {
		if !answered && h.up && self.Same(h.self) {
			answered = true
			done(r, ok)
		}
	}
	s.after(500*time.Millisecond, func() { answer(resolver.Record{}, false) })
	s.reach(id, "resolver", s.lat, func() {
		r := exec()
		s.reach("resolver", id, s.lat, func() { answer(r, true) })
	})
}

func (s *scenario) propose(h *scenarioHost, c CAS) {
	id := h.self.ID
	next := c.Next
	next.Version = c.Expect + 1
	s.printf("%s: proposes %s", id, Describe(next))
	if s.loseCAS == id {
		s.loseCAS = ""
		s.printf("the change is lost")
		s.after(500*time.Millisecond, func() { h.step(CASDone{Nonce: c.Next.Nonce, Outcome: CASUnknown}) })
		return
	}
	outcome := CASOK
	s.ask(h, func() resolver.Record {
		switch {
		case s.rec.Version == c.Expect:
			var before *resolver.Record
			if s.rec.Version > 0 {
				before = &s.rec
			}
			require.NoError(s.t, resolver.Check(before, next))
			s.rec = next
			s.printf("resolver: %s", Describe(s.rec))
			if s.dieOn[id] == "taken" && next.Active.Same(h.self) {
				s.crash(id)
			}
		case s.rec.Version == c.Expect+1 && s.rec.Nonce == c.Next.Nonce:
		default:
			outcome = CASConflict
		}
		r := s.rec
		if s.loseReply == id {
			s.loseReply = ""
			s.printf("the answer is lost")
			s.cut["resolver "+id] = true
			s.after(2*s.lat, func() { delete(s.cut, "resolver "+id) })
		}
		return r
	}, func(r resolver.Record, ok bool) {
		ev := CASDone{Nonce: c.Next.Nonce, Record: r, Outcome: outcome}
		if !ok {
			ev.Outcome, ev.Record = CASUnknown, resolver.Record{}
			s.printf("%s: has no answer", id)
		} else if outcome == CASConflict {
			s.printf("%s: conflict, the record is %s", id, Describe(r))
		}
		h.step(ev)
	})
}

// commit checks that all hosts apply the same log.
func (s *scenario) commit(h *scenarioHost, e Entry) {
	loss := h.core.Term().Loss
	log := s.committed[loss]
	if log == nil && e.Index > 1 { // after a reset
		log = slices.Clone(s.committed[loss-1][:e.Index-1])
	}
	switch {
	case e.Index <= uint64(len(log)):
		have := log[e.Index-1]
		same := have.Epoch == e.Epoch && have.Kind == e.Kind && bytes.Equal(have.Body, e.Body)
		require.True(s.t, same, "%s applies another entry %d", h.self.ID, e.Index)
	default:
		require.Equal(s.t, uint64(len(log))+1, e.Index, "%s applies with a gap", h.self.ID)
		s.committed[loss] = append(log, e)
	}
}

// check checks that each term has one active host, that its commits need all members of its record, and that the members of
// the in-sync set hold all committed entries.
func (s *scenario) check() {
	active := make(map[Term]string)
	for _, a := range s.names {
		h := s.hosts[a]
		if h.core == nil || !h.up || !h.core.Role().Active() {
			continue
		}
		require.Empty(s.t, active[h.core.Term()], "two active hosts in %s", h.core.Term())
		active[h.core.Term()] = a
		for _, m := range h.core.Record().ISR {
			require.True(s.t, m.Same(h.self) || h.core.Needs(m), "%s commits without %s", a, m.ID)
		}
	}
	n := uint64(len(s.committed[s.rec.Loss]))
	for _, m := range s.rec.ISR {
		if h := s.hosts[m.ID]; n > 0 && h.up && h.self.Same(m) {
			require.GreaterOrEqual(s.t, h.core.Last(), n, "%s lacks committed entries", m.ID)
		}
	}
}
